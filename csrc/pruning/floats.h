// Element conversions that plain loops can vectorise, and the switch over element types.
#pragma once
#include <cstdint>
#include <cstring>

#include "core/dtype.h"

namespace prunus {

inline double to_double(float v) { return v; }
inline double to_double(double v) { return v; }
inline double to_double(bf16_t v) { return to_float(v); }
inline double to_double(f16_t v) { return to_float(v); }

template <class T>
inline T from_double(double v);
template <>
inline float from_double<float>(double v) {
  return static_cast<float>(v);
}
template <>
inline double from_double<double>(double v) {
  return v;
}
// Twice rounded, through fp32: off by one in the last place of 16 bits once in some 10^4 values.
template <>
inline f16_t from_double<f16_t>(double v) {
  return to_f16(static_cast<float>(v));
}
template <>
inline bf16_t from_double<bf16_t>(double v) {
  return to_bf16(static_cast<float>(v));
}

// Calls fn with a value of the element type.
template <class Fn>
void with_float(Dtype dtype, Fn&& fn) {
  switch (dtype) {
    case Dtype::f32:
      return fn(float{});
    case Dtype::f64:
      return fn(double{});
    case Dtype::f16:
      return fn(f16_t{});
    case Dtype::bf16:
      return fn(bf16_t{});
    case Dtype::i8:
      break;
  }
  throw ValueError(expected_got("dtype", "float32, float64, float16 or bfloat16", dtype_name(dtype)));
}

}  // namespace prunus
