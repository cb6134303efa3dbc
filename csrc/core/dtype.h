// Element types, and the scalar conversions of the two 16-bit floats (round to nearest even).
#pragma once
#include <cstdint>
#include <cstring>
#include <string>

#include "core/check.h"

namespace prunus {

enum class Dtype : std::uint8_t {
#define X(type, number, name, bytes) type = number,
#include "core/dtypes.def"
#undef X
};

inline constexpr int kDtypes = 8;  // room for all numbers, in tables by dtype

struct f16_t {
  std::uint16_t bits;
};
struct bf16_t {
  std::uint16_t bits;
};

inline const char* dtype_name(Dtype d) {
  switch (d) {
#define X(type, number, name, bytes) \
  case Dtype::type:                  \
    return name;
#include "core/dtypes.def"
#undef X
  }
  __builtin_unreachable();
}

inline std::size_t dtype_size(Dtype d) {
  switch (d) {
#define X(type, number, name, bytes) \
  case Dtype::type:                  \
    return bytes;
#include "core/dtypes.def"
#undef X
  }
  __builtin_unreachable();
}

inline Dtype dtype_from_name(const std::string& name) {
#define X(type, number, dtype, bytes) \
  if (name == dtype) return Dtype::type;
#include "core/dtypes.def"
#undef X
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
