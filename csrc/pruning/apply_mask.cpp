#include "pruning/apply_mask.h"

#include <algorithm>

#include "pruning/keys.h"
#include "pruning/sweep.h"

namespace prunus {
namespace {

template <class Bits>
void apply_line(std::uint8_t* __restrict w, const std::uint8_t* __restrict mask, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    const Bits kept = static_cast<Bits>(load<Bits>(w, i) & -static_cast<Bits>(mask[i] != 0));
    std::memcpy(w + i * static_cast<std::int64_t>(sizeof(Bits)), &kept, sizeof(Bits));
  }
}

template <class Bits>
void apply(const Plane& w, const std::uint8_t* mask, std::int64_t row_stride, std::int64_t col_stride) {
  // 64 x 128 tiles: a mask in the other order is then read from L1 all the same.
  constexpr std::int64_t height = 64, width = kChunk / height;
  const std::int64_t panels = ceil_div(w.cols, col_stride == 1 ? kChunk : width),
                     step = col_stride == 1 ? kChunk : width;
  const std::int64_t rows = col_stride == 1 ? std::max<std::int64_t>(1, kChunk / w.cols) : height;
  sweep(
      ceil_div(w.rows, rows) * panels, num_threads(),
      [&](std::int64_t task, int) {
        const std::int64_t first = task / panels * rows, col = task % panels * step,
                           n = std::min(step, w.cols - col);
        std::uint8_t gathered[width];
        for (std::int64_t row = first; row < std::min(w.rows, first + rows); ++row) {
          const std::uint8_t* m = mask + row * row_stride + col * col_stride;
          if (col_stride != 1) {
            for (std::int64_t j = 0; j < n; ++j) gathered[j] = m[j * col_stride];
            m = gathered;
          }
          apply_line<Bits>(const_cast<std::uint8_t*>(w.at(row, col)), m, n);
        }
      },
      Interrupt::deferred);
}

}  // namespace

void apply_mask(const Plane& w, const std::uint8_t* mask, std::int64_t row_stride, std::int64_t col_stride) {
  if (w.size() == 0) return;
  switch (dtype_size(w.dtype)) {
    case 8:
      return apply<std::uint64_t>(w, mask, row_stride, col_stride);
    case 4:
      return apply<std::uint32_t>(w, mask, row_stride, col_stride);
    case 2:
      return apply<std::uint16_t>(w, mask, row_stride, col_stride);
    default:
      throw ValueError(expected_got("w", "float32, float64, float16 or bfloat16", dtype_name(w.dtype)));
  }
}

}  // namespace prunus
