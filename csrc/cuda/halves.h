// The 16-bit floats on a device: the conversions of core/dtype.h, which only the host can call.
#pragma once
#include "core/dtype.h"
#include "cuda/device.h"

namespace prunus::cuda {

template <typename To, typename From>
__device__ __forceinline__ To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

__device__ __forceinline__ float float_of(float v) { return v; }
__device__ __forceinline__ float float_of(bf16_t v) {
  return same_bits<float>(static_cast<std::uint32_t>(v.bits) << 16);
}
__device__ __forceinline__ float float_of(f16_t v) {
  const std::uint32_t sign = (v.bits & 0x8000u) << 16, exponent = v.bits >> 10 & 31, mantissa = v.bits & 1023;
  if (exponent == 31) return same_bits<float>(sign | 0x7f800000u | mantissa << 13);
  if (exponent != 0) return same_bits<float>(sign | (exponent + 112) << 23 | mantissa << 13);
  // Zero and subnormals: exact in fp32.
  return same_bits<float>(same_bits<std::uint32_t>(static_cast<float>(mantissa) * 0x1p-24f) | sign);
}

// To the nearest, of two as near the even one.
__device__ __forceinline__ bf16_t bf16_of(float v) {
  const auto u = same_bits<std::uint32_t>(v);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<std::uint16_t>(u >> 16 | 0x40)};  // quiet NaN
  return {static_cast<std::uint16_t>((u + 0x7fffu + (u >> 16 & 1)) >> 16)};
}
__device__ __forceinline__ f16_t f16_of(float v) {
  auto u = same_bits<std::uint32_t>(v);
  const std::uint32_t sign = u >> 16 & 0x8000u;
  u &= 0x7fffffffu;
  if (u > 0x7f800000u) return {static_cast<std::uint16_t>(sign | 0x7e00)};   // NaN
  if (u >= 0x477ff000u) return {static_cast<std::uint16_t>(sign | 0x7c00)};  // rounds past 65504: infinity
  if (u < 0x38800000u)  // a subnormal: the adder of fp32 rounds at 2^-24
    return {static_cast<std::uint16_t>(sign |
                                       (same_bits<std::uint32_t>(same_bits<float>(u) + 0.5f) - 0x3f000000u))};
  return {static_cast<std::uint16_t>(sign | (u + 0xc8000fffu + (u >> 13 & 1)) >> 13)};
}

}  // namespace prunus::cuda
