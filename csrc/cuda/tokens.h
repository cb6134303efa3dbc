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

// Two neighbours of one token: as they lie, and as numbers.
template <typename X>
struct Pair {
  unsigned word;
  __device__ __forceinline__ void load(const typename X::Bits* from) {
    word = __ldcg(reinterpret_cast<const unsigned*>(from));
  }
  __device__ __forceinline__ void clear() { word = 0; }
  __device__ __forceinline__ float first() const { return low<X>(word); }
  __device__ __forceinline__ float second() const { return high<X>(word); }
};
template <>
struct Pair<F32> {
  float2 both;
  __device__ __forceinline__ void load(const float* from) {
    both = __ldcg(reinterpret_cast<const float2*>(from));
  }
  __device__ __forceinline__ void clear() { both = float2{0, 0}; }
  __device__ __forceinline__ float first() const { return both.x; }
  __device__ __forceinline__ float second() const { return both.y; }
};

// The pairs of a thread in one round: all are on their way before one is used.
template <typename X, int T>
struct Round {
  static constexpr int count = T <= 2 ? 8 : T == 4 ? 4 : 2;
  Pair<X> pairs[count][T];

  __device__ __forceinline__ void load(const typename X::Bits* x, std::int64_t stride, int tokens, int first,
                                       int step, int end) {
#pragma unroll
    for (int i = 0; i < count; ++i)
#pragma unroll
      for (int t = 0; t < T; ++t) {
        pairs[i][t].clear();
        if (t < tokens && first + i * step < end) pairs[i][t].load(x + t * stride + first + i * step);
      }
  }
  __device__ __forceinline__ void store(Column<X, T>* columns, int first, int step, int end) const {
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const int c = first + i * step;
      float left[T], right[T];
#pragma unroll
      for (int t = 0; t < T; ++t) left[t] = pairs[i][t].first(), right[t] = pairs[i][t].second();
      if (c < end) columns[c].set(left), columns[c + 1].set(right);
    }
  }
};

// Columns [0, k) of `tokens` tokens, at most T, by a whole block, and zeros behind them up to `padded`.
// in_pairs: two neighbours are aligned, in every token, and k is even. More of them side by side for a thread
// would put the threads of a warp on the same banks.
template <typename X, int T>
__device__ __forceinline__ void load_tokens(const typename X::Bits* x, std::int64_t stride, int tokens, int k,
                                            int padded, bool in_pairs, Column<X, T>* columns) {
  const int whole = in_pairs ? k : 0, threads = static_cast<int>(blockDim.x),
            me = static_cast<int>(threadIdx.x);
#pragma unroll 1
  for (int c = me * 2; c < whole; c += threads * 2 * Round<X, T>::count) {
    Round<X, T> round;
    round.load(x, stride, tokens, c, threads * 2, whole);
    round.store(columns, c, threads * 2, whole);
  }
#pragma unroll 1
  for (int c = whole + me; c < padded; c += threads) {
    float v[T];
#pragma unroll
    for (int t = 0; t < T; ++t) v[t] = c < k && t < tokens ? X::to_float(x[t * stride + c]) : 0.0f;
    columns[c].set(v);
  }
}

}  // namespace prunus::cuda
