// One step of format warp in registers: the eight stored values of a lane and their gaps. Loads go past L1
// (__ldcg): what is read once gains nothing there, and a kernel that starts while the one before it still
// writes (overlap.h) must not find old lines in it.
#pragma once
#include "cuda/floats.h"

namespace prunus::cuda {

#include "formats/layout/warp.inl.h"

// Stored is the type of the values; words: of 32 bits that hold eight.
template <typename Stored>
struct Eight;

template <typename Stored>
struct EightOf16 {
  static constexpr int size = 2;
  uint4 words;
  __device__ __forceinline__ void load(const std::uint8_t* values, int lane) {
    words = __ldcg(reinterpret_cast<const uint4*>(values) + lane);
  }
  __device__ __forceinline__ void clear() { words = uint4{0, 0, 0, 0}; }
  __device__ __forceinline__ void get(float (&out)[8]) const {
    out[0] = low<Stored>(words.x), out[1] = high<Stored>(words.x);
    out[2] = low<Stored>(words.y), out[3] = high<Stored>(words.y);
    out[4] = low<Stored>(words.z), out[5] = high<Stored>(words.z);
    out[6] = low<Stored>(words.w), out[7] = high<Stored>(words.w);
  }
};
template <>
struct Eight<Bf16> : EightOf16<Bf16> {};
template <>
struct Eight<F16> : EightOf16<F16> {};

template <>
struct Eight<F32> {
  static constexpr int size = 4;
  float4 first, second;
  __device__ __forceinline__ void load(const std::uint8_t* values, int lane) {
    first = __ldcg(reinterpret_cast<const float4*>(values) + 2 * lane);
    second = __ldcg(reinterpret_cast<const float4*>(values) + 2 * lane + 1);
  }
  __device__ __forceinline__ void clear() { first = second = float4{0, 0, 0, 0}; }
  __device__ __forceinline__ void get(float (&out)[8]) const {
    out[0] = first.x, out[1] = first.y, out[2] = first.z, out[3] = first.w;
    out[4] = second.x, out[5] = second.y, out[6] = second.z, out[7] = second.w;
  }
};

struct I8 {};
template <>
struct Eight<I8> {
  static constexpr int size = 1;
  uint2 words;
  __device__ __forceinline__ void load(const std::uint8_t* values, int lane) {
    words = __ldcg(reinterpret_cast<const uint2*>(values) + lane);
  }
  __device__ __forceinline__ void clear() { words = uint2{0, 0}; }
  // As the last byte of 2^23 + 128 + v, exactly: an instruction that turns integers into floats has a quarter
  // of the rate.
  __device__ __forceinline__ void get(float (&out)[8]) const {
    const unsigned biased[2] = {words.x ^ 0x80808080u, words.y ^ 0x80808080u};
#pragma unroll
    for (int i = 0; i < 8; ++i)
      out[i] = __uint_as_float(__byte_perm(biased[i / 4], 0x4b000000u, 0x7540u + i % 4)) - 8388736.0f;
  }
};

template <typename Stored>
struct Step {
  Eight<Stored> values;
  unsigned gaps;

  static constexpr int bytes = WarpLayout::step_bytes(Eight<Stored>::size);
  static constexpr int gaps_at = WarpLayout::gaps_at(Eight<Stored>::size);
  __device__ __forceinline__ void load(const std::uint8_t* step, int lane) {
    values.load(step, lane);
    gaps = __ldcg(reinterpret_cast<const unsigned*>(step + gaps_at) + lane);
  }
  __device__ __forceinline__ void clear() { values.clear(), gaps = 0; }
};

}  // namespace prunus::cuda
