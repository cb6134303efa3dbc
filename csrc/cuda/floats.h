// Element types on a device: how their bits become float32 and back.
#pragma once
#include "core/dtype.h"
#include "cuda/device.h"

namespace prunus::cuda {

struct F32 {
  using Bits = float;
  static __device__ __forceinline__ float to_float(Bits v) { return v; }
  static __device__ __forceinline__ Bits from_float(float v) { return v; }
};

struct Bf16 {
  using Bits = std::uint16_t;
  static __device__ __forceinline__ float to_float(Bits v) {
    return __uint_as_float(static_cast<unsigned>(v) << 16);
  }
  static __device__ __forceinline__ Bits from_float(float v) {
#ifdef PRUNUS_CUDA_ON_HOST
    return prunus::to_bf16(v).bits;
#else
    Bits bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(v));
    return bits;
#endif
  }
};

struct F16 {
  using Bits = std::uint16_t;
  static __device__ __forceinline__ float to_float(Bits v) {
#ifdef PRUNUS_CUDA_ON_HOST
    return prunus::to_float(f16_t{v});
#else
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v));
    return f;
#endif
  }
  static __device__ __forceinline__ Bits from_float(float v) {
#ifdef PRUNUS_CUDA_ON_HOST
    return prunus::to_f16(v).bits;
#else
    Bits bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(v));
    return bits;
#endif
  }
};

// fn of the type that a Dtype's number stands for, an error like it gives; CUDA's of another number.
template <typename Fn>
int with_type(int dtype, Fn fn) {
  switch (static_cast<Dtype>(dtype)) {
    case Dtype::bf16:
      return fn(Bf16{});
    case Dtype::f16:
      return fn(F16{});
    case Dtype::f32:
      return fn(F32{});
    case Dtype::i8:
    case Dtype::f64:
      break;
  }
  return static_cast<int>(cudaErrorInvalidValue);
}

// The two 16-bit values of a word.
template <typename T>
__device__ __forceinline__ float low(unsigned word) {
  return T::to_float(static_cast<std::uint16_t>(word));
}
template <typename T>
__device__ __forceinline__ float high(unsigned word) {
  return T::to_float(static_cast<std::uint16_t>(word >> 16));
}
template <>
__device__ __forceinline__ float high<Bf16>(unsigned word) {
  return __uint_as_float(word & 0xffff0000u);
}

}  // namespace prunus::cuda
