// Stored values: fp32, bf16, fp16, or int8 with one scale per row.
#pragma once
#include <cmath>
#include <cstring>
#include <type_traits>

#include "core/dtype.h"

namespace prunus {

inline void write_value(float v, Dtype dtype, float scale, std::uint8_t* out) {
  if (dtype == Dtype::f32) {
    std::memcpy(out, &v, sizeof v);
  } else if (dtype == Dtype::i8) {
    // |v| <= 127 scale. lrint is one instruction; nearbyint is a call where there is no SSE4.
    *out = static_cast<std::uint8_t>(scale > 0 ? static_cast<std::int8_t>(std::lrint(v / scale)) : 0);
  } else {
    const std::uint16_t bits = dtype == Dtype::bf16 ? to_bf16(v).bits : to_f16(v).bits;
    std::memcpy(out, &bits, sizeof bits);
  }
}

inline float read_value(const std::uint8_t* in, Dtype dtype, float scale) {
  if (dtype == Dtype::f32) {
    float v;
    std::memcpy(&v, in, sizeof v);
    return v;
  }
  if (dtype == Dtype::i8) return static_cast<float>(static_cast<std::int8_t>(*in)) * scale;
  std::uint16_t bits;
  std::memcpy(&bits, in, sizeof bits);
  return dtype == Dtype::bf16 ? to_float(bf16_t{bits}) : to_float(f16_t{bits});
}

// Calls fn with the type of the stored values as a constant, so that the loops inside do not ask again.
template <typename Fn>
inline void with_stored(Dtype dtype, Fn&& fn) {
  switch (dtype) {
    case Dtype::bf16:
      return fn(std::integral_constant<Dtype, Dtype::bf16>{});
    case Dtype::f16:
      return fn(std::integral_constant<Dtype, Dtype::f16>{});
    case Dtype::i8:
      return fn(std::integral_constant<Dtype, Dtype::i8>{});
    case Dtype::f32:
      return fn(std::integral_constant<Dtype, Dtype::f32>{});
    case Dtype::f64:
      break;
  }
  __builtin_unreachable();  // no header that was read has another
}

inline float scale_at(const std::uint8_t* scales, int row) {
  if (!scales) return 1.0f;
  float s;
  std::memcpy(&s, scales + row * sizeof s, sizeof s);
  return s;
}

// True when a kept weight survives storage: rounding to the stored type must not make it zero or subnormal.
inline bool storable(float v) { return !(std::fabs(v) < 1.17549435e-38f); }

}  // namespace prunus
