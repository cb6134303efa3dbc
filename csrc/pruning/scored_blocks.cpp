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
               const std::int64_t row = block_row * height_, col = block_col * width_;
               const std::int64_t end = std::min(plane_.cols, col + n * width_);
               std::uint8_t* first = mask_.at(row, col);
               for (std::int64_t j = 0, b = offset; j < end - col; j += width_, ++b)
                 for (std::int64_t i = j; i < std::min(j + width_, end - col); ++i) first[i] = keep[b];
               for (std::int64_t other = row + 1; other < row_end(block_row); ++other)
                 std::copy(first, first + (end - col), mask_.at(other, col));
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

  // sums[b] += the row's entries of block b; W: the width if known, 0 if not.
  template <int W>
  static void add_row(const std::uint8_t* __restrict p, std::int64_t blocks, std::int64_t runtime_width,
                      double* __restrict sums) {
    const std::int64_t width = W > 0 ? W : runtime_width;
    const auto at = [&](std::int64_t i) { return to_double(load<T>(p, i)); };
    for (std::int64_t b = 0; b < blocks; ++b) {
      const std::int64_t i = b * width;
      double sum = W >= 4 ? (at(i) + at(i + 1)) + (at(i + 2) + at(i + 3)) : at(i);
      for (std::int64_t j = W >= 4 ? 4 : 1; j < width; ++j) sum += at(i + j);
      sums[b] += sum;
    }
  }

  void sum(std::int64_t block_row, std::int64_t block_col, std::int64_t n, double* sums) const {
    std::fill(sums, sums + n, 0.0);
    const std::int64_t whole = std::min(n, plane_.cols / width_ - block_col);  // the last may be narrower
    const std::int64_t rest = plane_.cols % width_;
    const auto add = width_ == 1   ? add_row<1>
                     : width_ == 4 ? add_row<4>
                     : width_ == 8 ? add_row<8>
                                   : add_row<0>;
    for (std::int64_t row = block_row * height_; row < row_end(block_row); ++row) {
      const std::uint8_t* p = plane_.at(row, block_col * width_);
      add(p, whole, width_, sums);
      if (whole < n) add_row<0>(plane_.at(row, plane_.cols - rest), 1, rest, sums + whole);
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
