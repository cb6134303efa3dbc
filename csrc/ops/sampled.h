// The gradient of the values that a weight keeps: dw = grad^T . x at those places alone (SDDMM).
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace prunus {

struct SampledProduct {
  Dtype dtype;  // of grad and x: f32, bf16 or f16; sums are float
  std::int64_t m, n, k;
  const void* grad;  // (m, n), last dimension contiguous
  std::int64_t grad_stride;
  const void* x;  // (m, k), last dimension contiguous
  std::int64_t x_stride;
  // Which places (formats/value_index.h, KeptColumns); `first` ascends from 0.
  const std::int32_t* first;
  const std::uint8_t* column;
  float* out;  // of each entry
};

// The same bits for any thread count. A column that is not one of its tile gives a wrong answer, no crash.
void sampled_product(const SampledProduct& product);

}  // namespace prunus
