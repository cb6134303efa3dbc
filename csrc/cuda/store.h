// What becomes of a sum: scale, bias, activation, residual.
#pragma once
#include <cmath>

#include "core/activation.h"
#include "core/dtype.h"
#include "cuda/floats.h"
#include "cuda/products.h"

namespace prunus::cuda {

__device__ __forceinline__ float activate(float v, int activation) {
  switch (static_cast<Activation>(activation)) {
    case Activation::relu:
      return v > 0 || v != v ? v : 0.0f;
    case Activation::gelu:
      return 0.5f * v * (1.0f + erff(v * 0.70710678118654752f));
    case Activation::gelu_tanh:
      return 0.5f * v * (1.0f + tanhf(0.79788456080286536f * (v + 0.044715f * v * v * v)));
    case Activation::silu:
      return v / (1.0f + expf(-v));
    case Activation::none:
      break;
  }
  return v;
}

template <typename X>
__device__ __forceinline__ void store(const Linear& call, std::int64_t token, std::int64_t row, float sum) {
  using Bits = typename X::Bits;
  if (call.bias)
    sum += call.bias_dtype == static_cast<int>(Dtype::f32)
               ? static_cast<const float*>(call.bias)[row]
               : X::to_float(static_cast<const Bits*>(call.bias)[row]);
  sum = activate(sum, call.activation);
  if (call.residual)
    sum += X::to_float(static_cast<const Bits*>(call.residual)[token * call.residual_stride + row]);
  Bits* const y = static_cast<Bits*>(call.y) + token * call.w.n + row;
  *y = X::from_float(call.times_y ? sum * X::to_float(*y) : sum);
}

}  // namespace prunus::cuda
