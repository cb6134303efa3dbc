// The inputs of a few tokens side by side in shared memory, so that one load fetches what a weight meets.
#pragma once
#include "cuda/floats.h"

namespace prunus::cuda {

// Of T tokens of type X: one column. 16-bit types stay as they are, but for one token: float32 is as short as
// two of them and needs no conversion in the loop.
template <typename X, int T>
struct Column;

template <typename X>
struct Column<X, 1> {
  float value;
  __device__ __forceinline__ void set(const float (&v)[1]) { value = v[0]; }
  __device__ __forceinline__ void get(float (&v)[1]) const { v[0] = value; }
};
template <typename X>
struct alignas(4) Column<X, 2> {
  std::uint16_t values[2];
  __device__ __forceinline__ void set(const float (&v)[2]) {
    values[0] = X::from_float(v[0]), values[1] = X::from_float(v[1]);
  }
  __device__ __forceinline__ void get(float (&v)[2]) const {
    const unsigned word = *reinterpret_cast<const unsigned*>(values);
    v[0] = low<X>(word), v[1] = high<X>(word);
  }
};
template <typename X>
struct alignas(8) Column<X, 4> {
  std::uint16_t values[4];
  __device__ __forceinline__ void set(const float (&v)[4]) {
#pragma unroll
    for (int t = 0; t < 4; ++t) values[t] = X::from_float(v[t]);
  }
  __device__ __forceinline__ void get(float (&v)[4]) const {
    const uint2 words = *reinterpret_cast<const uint2*>(values);
    v[0] = low<X>(words.x), v[1] = high<X>(words.x), v[2] = low<X>(words.y), v[3] = high<X>(words.y);
  }
};
template <typename X>
struct alignas(16) Column<X, 8> {
  std::uint16_t values[8];
  __device__ __forceinline__ void set(const float (&v)[8]) {
#pragma unroll
    for (int t = 0; t < 8; ++t) values[t] = X::from_float(v[t]);
  }
  __device__ __forceinline__ void get(float (&v)[8]) const {
    const uint4 words = *reinterpret_cast<const uint4*>(values);
    v[0] = low<X>(words.x), v[1] = high<X>(words.x), v[2] = low<X>(words.y), v[3] = high<X>(words.y);
    v[4] = low<X>(words.z), v[5] = high<X>(words.z), v[6] = low<X>(words.w), v[7] = high<X>(words.w);
  }
};
template <>
struct alignas(8) Column<F32, 2> {
  float values[2];
  __device__ __forceinline__ void set(const float (&v)[2]) { values[0] = v[0], values[1] = v[1]; }
  __device__ __forceinline__ void get(float (&v)[2]) const {
    const float2 both = *reinterpret_cast<const float2*>(values);
    v[0] = both.x, v[1] = both.y;
  }
};
template <>
struct alignas(16) Column<F32, 4> {
  float values[4];
  __device__ __forceinline__ void set(const float (&v)[4]) {
#pragma unroll
    for (int t = 0; t < 4; ++t) values[t] = v[t];
  }
  __device__ __forceinline__ void get(float (&v)[4]) const {
    const float4 all = *reinterpret_cast<const float4*>(values);
    v[0] = all.x, v[1] = all.y, v[2] = all.z, v[3] = all.w;
  }
};

// Eight neighbours of one token in one load; their memory is aligned to 16 bytes.
template <typename X>
__device__ __forceinline__ void load_eight(const typename X::Bits* from, float (&out)[8]) {
  const uint4 words = __ldcg(reinterpret_cast<const uint4*>(from));
  out[0] = low<X>(words.x), out[1] = high<X>(words.x), out[2] = low<X>(words.y), out[3] = high<X>(words.y);
  out[4] = low<X>(words.z), out[5] = high<X>(words.z), out[6] = low<X>(words.w), out[7] = high<X>(words.w);
}
template <>
__device__ __forceinline__ void load_eight<F32>(const float* from, float (&out)[8]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float4 words = __ldcg(reinterpret_cast<const float4*>(from) + i);
    out[4 * i] = words.x, out[4 * i + 1] = words.y, out[4 * i + 2] = words.z, out[4 * i + 3] = words.w;
  }
}

// Columns [0, k) of `tokens` tokens, at most T, by a whole block, and zeros behind them up to `padded`.
// aligned: every token begins at a multiple of 16 bytes and k is one of 8.
template <typename X, int T>
__device__ __forceinline__ void load_tokens(const typename X::Bits* x, std::int64_t stride, int tokens, int k,
                                            int padded, bool aligned, Column<X, T>* columns) {
  const int whole = aligned ? k : 0;
  for (int c = static_cast<int>(threadIdx.x) * 8; c < whole; c += static_cast<int>(blockDim.x) * 8) {
    float eight[T][8];
#pragma unroll
    for (int t = 0; t < T; ++t) {
      if (t < tokens) {
        load_eight<X>(x + t * stride + c, eight[t]);
      } else {
#pragma unroll
        for (int i = 0; i < 8; ++i) eight[t][i] = 0;
      }
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float v[T];
#pragma unroll
      for (int t = 0; t < T; ++t) v[t] = eight[t][i];
      columns[c + i].set(v);
    }
  }
  for (int c = whole + static_cast<int>(threadIdx.x); c < padded; c += static_cast<int>(blockDim.x)) {
    float v[T];
#pragma unroll
    for (int t = 0; t < T; ++t) v[t] = c < k && t < tokens ? X::to_float(x[t * stride + c]) : 0.0f;
    columns[c].set(v);
  }
}

}  // namespace prunus::cuda
