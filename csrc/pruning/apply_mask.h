// Zeros where a mask says so.
#pragma once
#include "pruning/plane.h"

namespace prunus {

// Entries of w whose mask byte is 0 become +0.0, whatever they were (NaN, -0.0); the others keep every bit.
// mask: rows x cols bytes of any strides. Only w.data is written.
void apply_mask(const Plane& w, const std::uint8_t* mask, std::int64_t row_stride, std::int64_t col_stride);

}  // namespace prunus
