// Neighbours that one thread reads and flags together: 16 bytes of scores.
#pragma once
#include "cuda/keys.h"

namespace prunus::cuda {

template <typename T>
constexpr int kRun = 16 / static_cast<int>(sizeof(T));

template <int bytes>
struct Unsigned;
template <>
struct Unsigned<2> {
  using type = std::uint16_t;
};
template <>
struct Unsigned<4> {
  using type = std::uint32_t;
};
template <>
struct Unsigned<8> {
  using type = std::uint64_t;
};

inline bool is_aligned(const void* p, std::size_t bytes) {
  return reinterpret_cast<std::uintptr_t>(p) % bytes == 0;
}

// Their bits.
template <typename T>
struct Run {
  WordOf<T> words[kRun<T>];
};

template <typename T>
__device__ __forceinline__ Run<T> load_aligned(const T* p, long long i) {
  const uint4 raw = *reinterpret_cast<const uint4*>(p + i);
  Run<T> run;
  std::memcpy(&run, &raw, sizeof raw);
  return run;
}

// Keys compared as F.
template <typename F, typename T>
__device__ __forceinline__ void keys_of(const Run<T>& run, KeyType<F> (&keys)[kRun<T>], bool& nan) {
#pragma unroll
  for (int v = 0; v < kRun<T>; ++v) keys[v] = key_of<F, T>(run.words[v], nan);
}

// Keys of the entries [i, i + kRun) of p; how many of them lie before the end. `aligned`: p and i allow one
// load.
template <typename F, typename T>
__device__ __forceinline__ int read_run(const T* p, long long i, long long end, bool aligned,
                                        KeyType<F> (&keys)[kRun<T>], bool& nan) {
  const int count = end - i < kRun<T> ? static_cast<int>(end - i) : kRun<T>;
  if (aligned && count == kRun<T>) {
    keys_of<F, T>(load_aligned(p, i), keys, nan);
  } else {
    const auto* words = reinterpret_cast<const WordOf<T>*>(p) + i;
#pragma unroll
    for (int v = 0; v < kRun<T>; ++v) keys[v] = v < count ? key_of<F, T>(words[v], nan) : 0;
  }
  return count;
}

// Flags of `count` entries from i on, bit v of `keep` for entry i + v.
template <int run>
__device__ __forceinline__ void write_run(unsigned char* mask, long long i, int count, bool aligned,
                                          unsigned keep) {
  using Flags = typename Unsigned<run>::type;
  if (aligned && count == run) {
    Flags flags = 0;
#pragma unroll
    for (int v = 0; v < run; ++v) flags |= static_cast<Flags>(static_cast<Flags>(keep >> v & 1) << (8 * v));
    *reinterpret_cast<Flags*>(mask + i) = flags;
  } else {
#pragma unroll
    for (int v = 0; v < run; ++v)
      if (v < count) mask[i + v] = keep >> v & 1;
  }
}

}  // namespace prunus::cuda
