#include "pruning/lines.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "pruning/cut.h"
#include "pruning/flags.h"
#include "pruning/sweep.h"

namespace prunus {
namespace {

constexpr std::int64_t kPanel = 64;          // columns gathered together: whole cache lines even of bytes
constexpr std::int64_t kLongLine = 1 << 17;  // a longer line has threads enough to do by itself

// Entries [begin, begin + rows * cols) of a part, as a part of their own.
template <class Key>
class Slice final : public Scored<Key> {
 public:
  Slice(const Scored<Key>& whole, std::int64_t begin, std::int64_t size)
      : Scored<Key>(1, size, false), whole_(whole), begin_(begin) {}
  bool read(std::int64_t begin, std::int64_t count, Key* keys) const override {
    return whole_.read(begin_ + begin, count, keys);
  }
  bool split(std::int64_t begin, std::int64_t count, Split<Key>& s) const override {
    return whole_.split(begin_ + begin, count, s);
  }
  void pick(std::int64_t begin, const std::uint16_t* positions, std::int64_t count,
            Key* keys) const override {
    whole_.pick(begin_ + begin, positions, count, keys);
  }
  void write(std::int64_t begin, std::int64_t count, const std::uint8_t* keep) const override {
    whole_.write(begin_ + begin, count, keep);
  }
  void mark(std::int64_t begin, const std::uint16_t* positions, const std::uint8_t* keep,
            std::int64_t count) const override {
    whole_.mark(begin_ + begin, positions, keep, count);
  }

 private:
  const Scored<Key>& whole_;
  const std::int64_t begin_;
};

template <class T>
struct Panel {
  using Key = typename KeyOf<T>::Key;
  Panel(std::int64_t rows, std::int64_t width)
      : stride(rows + kPad), keys(size(width)), scratch(size(1)), keep(size(width)) {}
  std::size_t size(std::int64_t width) const { return static_cast<std::size_t>(stride * width); }

  static constexpr std::int64_t kPad =
      64;  // columns a power of two apart would share one set of the L1 cache
  std::int64_t stride;
  std::vector<Key> keys, scratch;
  std::vector<std::uint8_t> keep;
};

template <class T>
bool prune_panel(const Plane& plane, const MaskPlane& mask, std::int64_t col, std::int64_t width,
                 std::int64_t prune, Panel<T>& p) {
  using Key = typename Panel<T>::Key;
  constexpr std::int64_t height = 16;  // rows at a time: columns are then written a cache line at a time
  Key row_keys[height][kPanel];
  std::uint8_t row_keep[height][kPanel];
  bool ordered = true;
  for (std::int64_t i = 0; i < plane.rows; i += height) {
    const std::int64_t rows = std::min(height, plane.rows - i);
    for (std::int64_t r = 0; r < rows; ++r) ordered &= keys_of<T>(plane.at(i + r, col), width, row_keys[r]);
    for (std::int64_t j = 0; j < width; ++j)
      for (std::int64_t r = 0; r < rows; ++r)
        p.keys[p.size(j) + static_cast<std::size_t>(i + r)] = row_keys[r][j];
  }
  for (std::int64_t j = 0; j < width; ++j)
    flag_lowest(&p.keys[p.size(j)], plane.rows, prune, p.scratch.data(), &p.keep[p.size(j)]);
  for (std::int64_t i = 0; i < plane.rows; i += height) {
    const std::int64_t rows = std::min(height, plane.rows - i);
    for (std::int64_t j = 0; j < width; ++j)
      for (std::int64_t r = 0; r < rows; ++r)
        row_keep[r][j] = p.keep[p.size(j) + static_cast<std::size_t>(i + r)];
    for (std::int64_t r = 0; r < rows; ++r)
      std::memcpy(mask.at(i + r, col), row_keep[r], static_cast<std::size_t>(width));
  }
  return ordered;
}

}  // namespace

template <class Key>
void prune_groups(const Scored<Key>& part, std::int64_t length, std::int64_t prune) {
  if (part.size() == 0) return;
  const std::int64_t groups = part.size() / length;
  if (length > kLongLine) {
    for (std::int64_t g = 0; g < groups; ++g) {
      const Slice<Key> line(part, g * length, length);
      prune_lowest<Key>({&line}, prune);
    }
    return;
  }
  struct Scratch {
    std::vector<Key> keys, spare;
    std::vector<std::uint8_t> keep;
  };
  const int workers = num_threads();
  const std::int64_t per_task = std::max<std::int64_t>(1, kChunk / length), entries = per_task * length;
  const auto size = static_cast<std::size_t>(entries);
  std::vector<Scratch> scratch(
      static_cast<std::size_t>(workers),
      Scratch{std::vector<Key>(size), std::vector<Key>(static_cast<std::size_t>(length)),
              std::vector<std::uint8_t>(size)});
  std::atomic<bool> ordered{true};
  sweep(ceil_div(groups, per_task), workers, [&](std::int64_t task, int worker) {
    Scratch& s = scratch[static_cast<std::size_t>(worker)];
    const std::int64_t begin = task * entries, count = std::min(entries, part.size() - begin);
    if (!part.read(begin, count, s.keys.data())) ordered.store(false, std::memory_order_relaxed);
    for (std::int64_t i = 0; i < count; i += length)
      flag_lowest(&s.keys[static_cast<std::size_t>(i)], length, prune, s.spare.data(),
                  &s.keep[static_cast<std::size_t>(i)]);
    part.write(begin, count, s.keep.data());
  });
  if (!ordered) throw NoOrder{};
}

template <class T>
void prune_columns(const Plane& plane, const MaskPlane& mask, std::int64_t prune) {
  using Key = typename KeyOf<T>::Key;
  if (plane.size() == 0) return;
  // A panel of columns is gathered so that lines of the cache are read once: 1 MB per worker, and for tall
  // planes up to 1/8 of the scores for all workers together.
  const int workers = num_threads();
  const std::int64_t budget = std::max<std::int64_t>((1 << 20) / static_cast<std::int64_t>(sizeof(Key)),
                                                     plane.size() / (16 * workers));
  const std::int64_t fits = budget / plane.rows, width = std::min<std::int64_t>({kPanel, fits, plane.cols});
  if (width == 0) {
    for (std::int64_t j = 0; j < plane.cols; ++j) {
      const auto line =
          scored_elements<T>({plane.at(0, j), plane.dtype, plane.rows, 1, plane.row_stride, false},
                             {mask.at(0, j), mask.row_stride});
      prune_lowest<Key>({line.get()}, prune);
    }
    return;
  }
  std::vector<Panel<T>> panels(static_cast<std::size_t>(workers), Panel<T>(plane.rows, width));
  std::atomic<bool> ordered{true};
  sweep(ceil_div(plane.cols, width), workers, [&](std::int64_t task, int worker) {
    const std::int64_t col = task * width, here = std::min(width, plane.cols - col);
    if (!prune_panel<T>(plane, mask, col, here, prune, panels[static_cast<std::size_t>(worker)]))
      ordered.store(false, std::memory_order_relaxed);
  });
  if (!ordered) throw NoOrder{};
}

template void prune_groups(const Scored<std::int16_t>&, std::int64_t, std::int64_t);
template void prune_groups(const Scored<std::int32_t>&, std::int64_t, std::int64_t);
template void prune_groups(const Scored<std::int64_t>&, std::int64_t, std::int64_t);
template void prune_columns<float>(const Plane&, const MaskPlane&, std::int64_t);
template void prune_columns<double>(const Plane&, const MaskPlane&, std::int64_t);
template void prune_columns<f16_t>(const Plane&, const MaskPlane&, std::int64_t);
template void prune_columns<bf16_t>(const Plane&, const MaskPlane&, std::int64_t);

}  // namespace prunus
