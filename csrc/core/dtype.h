// Element types, and the scalar conversions of the two 16-bit floats (round to nearest even).
#pragma once
#include <cstdint>
#include <cstring>
#include <string>

#include "core/check.h"

namespace prunus {

// The numbers are written to disk in packed headers: never renumber, only append.
enum class Dtype : std::uint8_t { f32 = 1, f64 = 2, f16 = 3, bf16 = 4, i8 = 5 };

struct f16_t {
  std::uint16_t bits;
};
struct bf16_t {
  std::uint16_t bits;
};

inline const char* dtype_name(Dtype d) {
  switch (d) {
    case Dtype::f32:
      return "float32";
    case Dtype::f64:
      return "float64";
    case Dtype::f16:
      return "float16";
    case Dtype::bf16:
      return "bfloat16";
    case Dtype::i8:
      return "int8";
  }
  return "?";
}

inline std::size_t dtype_size(Dtype d) {
  switch (d) {
    case Dtype::f32:
      return 4;
    case Dtype::f64:
      return 8;
    case Dtype::f16:
    case Dtype::bf16:
      return 2;
    case Dtype::i8:
      return 1;
  }
  return 0;
}

inline Dtype dtype_from_name(const std::string& name) {
  for (Dtype d : {Dtype::f32, Dtype::f64, Dtype::f16, Dtype::bf16, Dtype::i8})
    if (name == dtype_name(d)) return d;
  throw ValueError(expected_got("dtype", "float32, float64, float16, bfloat16 or int8", name));
}

inline float to_float(float v) { return v; }
inline float to_float(double v) { return static_cast<float>(v); }
inline float to_float(bf16_t v) {
  const std::uint32_t u = static_cast<std::uint32_t>(v.bits) << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
inline float to_float(f16_t v) {
  const std::uint32_t sign = (v.bits & 0x8000u) << 16, exponent = (v.bits >> 10) & 31,
                      mantissa = v.bits & 1023;
  std::uint32_t u;
  if (exponent == 31) {
    u = sign | 0x7f800000u | (mantissa << 13);
  } else if (exponent != 0) {
    u = sign | ((exponent + 112) << 23) | (mantissa << 13);
  } else {  // zero and subnormals: exact in fp32
    const float f = static_cast<float>(mantissa) * 5.9604644775390625e-8f;  // 2^-24
    std::memcpy(&u, &f, 4);
    u |= sign;
  }
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}

inline bf16_t to_bf16(float f) {
  std::uint32_t u;
  std::memcpy(&u, &f, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<std::uint16_t>((u >> 16) | 0x40)};  // quiet NaN
  u += 0x7fffu + ((u >> 16) & 1);
  return {static_cast<std::uint16_t>(u >> 16)};
}
inline f16_t to_f16(float f) {
  std::uint32_t u;
  std::memcpy(&u, &f, 4);
  const std::uint16_t sign = static_cast<std::uint16_t>((u >> 16) & 0x8000u);
  u &= 0x7fffffffu;
  if (u > 0x7f800000u) return {static_cast<std::uint16_t>(sign | 0x7e00)};   // NaN
  if (u >= 0x477ff000u) return {static_cast<std::uint16_t>(sign | 0x7c00)};  // rounds past 65504: inf
  if (u < 0x38800000u) {  // subnormal result: let the fp32 adder round at 2^-24
    float a;
    std::memcpy(&a, &u, 4);
    a += 0.5f;
    std::memcpy(&u, &a, 4);
    return {static_cast<std::uint16_t>(sign | (u - 0x3f000000u))};
  }
  u += 0xc8000fffu + ((u >> 13) & 1);  // rebias the exponent by -112 and round to nearest even
  return {static_cast<std::uint16_t>(sign | (u >> 13))};
}

}  // namespace prunus
