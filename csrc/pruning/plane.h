// Caller's memory, as pruning sees it.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

namespace prunus {

// rows x cols elements, cols contiguous, in the order of memory. `transposed`: the caller counts columns
// first (a Conv1D weight (k, n) seen as (n, k)), so the caller's row i is the plane's column i. No alignment
// assumed.
struct Plane {
  const std::uint8_t* data = nullptr;
  Dtype dtype = Dtype::f32;
  std::int64_t rows = 0, cols = 0;
  std::int64_t row_stride = 0;  // in elements, may be negative
  bool transposed = false;

  std::int64_t size() const { return rows * cols; }
  const std::uint8_t* at(std::int64_t row, std::int64_t col) const {
    return data + (row * row_stride + col) * static_cast<std::int64_t>(dtype_size(dtype));
  }
};

// A mask of a plane: one byte per element, 1 = keep, row `stride` bytes apart.
struct MaskPlane {
  std::uint8_t* data = nullptr;
  std::int64_t row_stride = 0;

  std::uint8_t* at(std::int64_t row, std::int64_t col) const { return data + row * row_stride + col; }
};

}  // namespace prunus
