// The kept weights of a row as bits.
#pragma once
#include <cstdint>

#include "formats/pack.h"
#include "formats/values.h"

namespace prunus {

template <typename T>
inline void bits_of(const T* row, const std::uint8_t* mask, std::int64_t cols, std::uint64_t* bits) {
  for (std::int64_t c = 0; c < cols; c += 64) {
    std::uint64_t word = 0;
    for (std::int64_t j = c; j < cols && j < c + 64; ++j)
      word |= static_cast<std::uint64_t>(storable(to_float(row[j])) & (mask == nullptr || mask[j] != 0))
              << (j - c);
    bits[c / 64] = word;
  }
}

// Row r of w, 64 columns a word, zeros past the last.
inline void row_bits(const Dense& w, std::int64_t r, std::uint64_t* bits) {
  const std::uint8_t* mask = w.mask ? w.mask + r * w.mask_stride : nullptr;
  const std::int64_t at = r * w.stride;
  switch (w.dtype) {
    case Dtype::f64:
      return bits_of(static_cast<const double*>(w.data) + at, mask, w.k, bits);
    case Dtype::f16:
      return bits_of(static_cast<const f16_t*>(w.data) + at, mask, w.k, bits);
    case Dtype::bf16:
      return bits_of(static_cast<const bf16_t*>(w.data) + at, mask, w.k, bits);
    default:
      return bits_of(static_cast<const float*>(w.data) + at, mask, w.k, bits);
  }
}

}  // namespace prunus
