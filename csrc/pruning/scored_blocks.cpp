#include <algorithm>

#include "pruning/floats.h"
#include "pruning/keys.h"
#include "pruning/scored.h"
#include "pruning/sweep.h"

namespace prunus {
namespace {

// One entry per block. Its sum is made again at every read: a copy of all sums would be up to twice the
// scores.
template <class T>
class Blocks final : public Scored<std::int64_t> {
 public:
  Blocks(const Plane& plane, const MaskPlane& mask, std::int64_t height, std::int64_t width)
      : Scored(ceil_div(plane.rows, height), ceil_div(plane.cols, width), plane.transposed),
        plane_(plane),
        mask_(mask),
        height_(height),
        width_(width) {}

  bool read(std::int64_t begin, std::int64_t count, std::int64_t* keys) const override {
    constexpr std::int64_t piece = 512;
    double sums[piece];
    bool ordered = true;
    segments(begin, count,
             [&](std::int64_t block_row, std::int64_t block_col, std::int64_t offset, std::int64_t n) {
               for (std::int64_t done = 0; done < n; done += piece) {
                 const std::int64_t now = std::min(piece, n - done);
                 sum(block_row, block_col + done, now, sums);
                 ordered &=
                     keys_of<double>(reinterpret_cast<const std::uint8_t*>(sums), now, keys + offset + done);
               }
             });
    return ordered;
  }

  void write(std::int64_t begin, std::int64_t count, const std::uint8_t* keep) const override {
    segments(begin, count,
             [&](std::int64_t block_row, std::int64_t block_col, std::int64_t offset, std::int64_t n) {
               for (std::int64_t row = block_row * height_; row < row_end(block_row); ++row)
                 for (std::int64_t b = 0; b < n; ++b) {
                   const std::int64_t col = (block_col + b) * width_;
                   std::fill(mask_.at(row, col), mask_.at(row, std::min(plane_.cols, col + width_)),
                             keep[offset + b]);
                 }
             });
  }

 private:
  std::int64_t row_end(std::int64_t block_row) const {
    return std::min(plane_.rows, (block_row + 1) * height_);
  }

  // fn(block row, block col, offset, n) for the pieces of [begin, begin + count) within one row of blocks.
  template <class Fn>
  void segments(std::int64_t begin, std::int64_t count, Fn&& fn) const {
    std::int64_t row = begin / cols, col = begin % cols;
    for (std::int64_t done = 0; done < count; ++row, col = 0) {
      const std::int64_t n = std::min(count - done, cols - col);
      fn(row, col, done, n);
      done += n;
    }
  }

  void sum(std::int64_t block_row, std::int64_t block_col, std::int64_t n, double* sums) const {
    std::fill(sums, sums + n, 0.0);
    const std::int64_t whole = std::min(n, plane_.cols / width_ - block_col);  // the last may be narrower
    const std::int64_t rest = plane_.cols % width_;
    for (std::int64_t row = block_row * height_; row < row_end(block_row); ++row) {
      const std::uint8_t* p = plane_.at(row, block_col * width_);
      for (std::int64_t b = 0; b < whole; ++b)
        for (std::int64_t j = 0; j < width_; ++j) sums[b] += to_double(load<T>(p, b * width_ + j));
      if (whole < n)
        for (std::int64_t j = 0; j < rest; ++j) sums[whole] += to_double(load<T>(p, whole * width_ + j));
    }
    const std::int64_t height = row_end(block_row) - block_row * height_;
    if (height < height_)
      for (std::int64_t b = 0; b < n; ++b)
        sums[b] *= static_cast<double>(height_) / static_cast<double>(height);
    if (whole < n) sums[whole] *= static_cast<double>(width_) / static_cast<double>(rest);
  }

  const Plane plane_;
  const MaskPlane mask_;
  const std::int64_t height_, width_;
};

}  // namespace

ScoredPtr<std::int64_t> scored_blocks(const Plane& plane, const MaskPlane& mask, std::int64_t height,
                                      std::int64_t width) {
  ScoredPtr<std::int64_t> blocks;
  with_float(plane.dtype,
             [&](auto t) { blocks = std::make_unique<Blocks<decltype(t)>>(plane, mask, height, width); });
  return blocks;
}

}  // namespace prunus
