// What can be selected from: a run of keys to read, and a run of keep flags to write.
#pragma once
#include <algorithm>
#include <cstdint>
#include <memory>

#include "pruning/keys.h"
#include "pruning/plane.h"

namespace prunus {

// Entries are numbered in the order of memory, a grid of rows x cols. Ties are broken in the caller's order,
// which is the grid's, or its transpose's where by_column is set.
template <class Key>
class Scored {
 public:
  Scored(std::int64_t rows, std::int64_t cols, bool by_column)
      : rows(rows), cols(cols), by_column(by_column) {}
  virtual ~Scored() = default;
  std::int64_t size() const { return rows * cols; }

  // Keys of entries [begin, begin + count); false when one has no order (NaN).
  virtual bool read(std::int64_t begin, std::int64_t count, Key* keys) const = 0;
  // Sorts count <= 2^16 of them by a bracket: flags what is outside, lists what is inside
  // (kernels/score_kernels.h).
  virtual bool split(std::int64_t begin, std::int64_t count, Split<Key>& s) const {
    constexpr std::int64_t piece = 1024;
    Key keys[piece];
    std::uint8_t keep[piece];
    bool ordered = true;
    for (std::int64_t i = 0; i < count; i += piece) {
      const std::int64_t n = std::min(piece, count - i);
      ordered &= read(begin + i, n, keys);
      key_kernels<Key>().split(reinterpret_cast<const std::uint8_t*>(keys), n, i, keep, &s);
      write(begin + i, n, keep);
    }
    return ordered;
  }
  // Keys of a few of them.
  virtual void pick(std::int64_t begin, const std::uint16_t* positions, std::int64_t count, Key* keys) const {
    for (std::int64_t i = 0; i < count; ++i) read(begin + positions[i], 1, keys + i);
  }
  // Their flags, 1 = keep.
  virtual void write(std::int64_t begin, std::int64_t count, const std::uint8_t* keep) const = 0;
  // Flags of a few of them.
  virtual void mark(std::int64_t begin, const std::uint16_t* positions, const std::uint8_t* keep,
                    std::int64_t count) const {
    for (std::int64_t i = 0; i < count; ++i) write(begin + positions[i], 1, keep + i);
  }

  const std::int64_t rows, cols;
  const bool by_column;
};

template <class Key>
using ScoredPtr = std::unique_ptr<Scored<Key>>;

// One entry per element of the plane. T is the plane's element, F the float whose keys are compared: T
// itself, or a wider one that holds every T exactly where tensors of several dtypes share a budget.
template <class F>
ScoredPtr<typename KeyOf<F>::Key> scored_elements(const Plane& plane, const MaskPlane& mask);

// One entry per block of height x width elements of the plane: their sum in float64, blocks at the edge
// scaled up to a whole block's number of elements.
ScoredPtr<std::int64_t> scored_blocks(const Plane& plane, const MaskPlane& mask, std::int64_t height,
                                      std::int64_t width);

}  // namespace prunus
