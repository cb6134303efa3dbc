// Order-preserving keys: a float as the unsigned integer that sorts like it. They are the CPU's signed ones
// (pruning/keys.h) moved up by half their range, so -0.0 equals 0.0 and subnormals are apart here too.
#pragma once
#include "cuda/floats.h"

namespace prunus::cuda {

// Word: its bits. Key: what its keys are calculated in, kKeyBits of it.
template <typename T>
struct KeyOf;
template <>
struct KeyOf<float> {
  using Word = std::uint32_t;
  using Key = std::uint32_t;
  static constexpr int kKeyBits = 32;
  static constexpr Key kInfinity = 0x7f800000u;
};
template <>
struct KeyOf<double> {
  using Word = std::uint64_t;
  using Key = std::uint64_t;
  static constexpr int kKeyBits = 64;
  static constexpr Key kInfinity = 0x7ff0000000000000u;
};
template <>
struct KeyOf<f16_t> {
  using Word = std::uint16_t;
  using Key = std::uint32_t;
  static constexpr int kKeyBits = 16;
  static constexpr Key kInfinity = 0x7c00;
};
template <>
struct KeyOf<bf16_t> {
  using Word = std::uint16_t;
  using Key = std::uint32_t;
  static constexpr int kKeyBits = 16;
  static constexpr Key kInfinity = 0x7f80;
};

template <typename T>
using WordOf = typename KeyOf<T>::Word;
template <typename T>
using KeyType = typename KeyOf<T>::Key;

template <typename To, typename From>
__device__ __forceinline__ To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

__device__ __forceinline__ float float_of(float v) { return v; }
__device__ __forceinline__ float float_of(f16_t v) { return F16::to_float(v.bits); }
__device__ __forceinline__ float float_of(bf16_t v) { return Bf16::to_float(v.bits); }

// The value as F, which holds every T exactly.
template <typename F, typename T>
struct Widened {
  static __device__ __forceinline__ F value(T v) { return static_cast<F>(float_of(v)); }
};
template <typename F>
struct Widened<F, F> {
  static __device__ __forceinline__ F value(F v) { return v; }
};

// The key of an element T compared as F: T itself, or the wider one that tensors of several dtypes share.
// Sets nan where it has no order.
template <typename F, typename T>
__device__ __forceinline__ KeyType<F> key_of(WordOf<T> word, bool& nan) {
  using Key = KeyType<F>;
  constexpr Key half = Key{1} << (KeyOf<F>::kKeyBits - 1);
  const Key bits = same_bits<WordOf<F>>(Widened<F, T>::value(same_bits<T>(word)));
  const Key magnitude = bits & (half - 1);
  nan |= magnitude > KeyOf<F>::kInfinity;
  return bits & half ? half - magnitude : half + magnitude;
}

// Calls fn with a value of the element type that prunus::Dtype numbers; false for another number.
template <typename Fn>
bool with_element(int dtype, Fn&& fn) {
  switch (static_cast<Dtype>(dtype)) {
    case Dtype::f32:
      return fn(float{}), true;
    case Dtype::f64:
      return fn(double{}), true;
    case Dtype::f16:
      return fn(f16_t{}), true;
    case Dtype::bf16:
      return fn(bf16_t{}), true;
    default:
      return false;
  }
}

}  // namespace prunus::cuda
