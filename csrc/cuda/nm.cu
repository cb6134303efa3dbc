// n kept of every m neighbours, by counting: an entry stays when fewer than n of its group beat it. Of two
// equals the earlier one wins.
#include "cuda/runs.h"
#include "cuda/selection.h"

namespace prunus::cuda {
namespace {

constexpr int kThreads = 256;

// Widest load that a group of so many bytes allows.
template <int bytes>
struct Load {
  using type = uint4;
};
template <>
struct Load<8> {
  using type = uint2;
};
template <>
struct Load<4> {
  using type = unsigned;
};
template <typename T, int m>
using LoadOf = typename Load<(m * static_cast<int>(sizeof(T)))>::type;

// A thread per group: every pair is compared once.
template <typename T, int m>
__global__ void __launch_bounds__(kThreads)
    select_in_group(const T* scores, unsigned char* mask, long long groups, int n, int* nan) {
  using Wide = LoadOf<T, m>;
  constexpr int loads = m * static_cast<int>(sizeof(T)) / static_cast<int>(sizeof(Wide));
  const long long group = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x;
  if (group >= groups) return;
  Wide raw[loads];
#pragma unroll
  for (int i = 0; i < loads; ++i) raw[i] = reinterpret_cast<const Wide*>(scores)[group * loads + i];
  WordOf<T> words[m];
  std::memcpy(words, raw, sizeof words);
  KeyType<T> keys[m];
  int beaten[m] = {};
  bool unordered = false;
#pragma unroll
  for (int j = 0; j < m; ++j) keys[j] = key_of<T, T>(words[j], unordered);
#pragma unroll
  for (int j = 1; j < m; ++j)
#pragma unroll
    for (int i = 0; i < j; ++i) {
      const bool later = keys[j] > keys[i];
      beaten[i] += later;
      beaten[j] += !later;
    }
  unsigned keep = 0;
#pragma unroll
  for (int j = 0; j < m; ++j) keep |= static_cast<unsigned>(beaten[j] < n) << j;
  if (unordered) *nan = 1;
  constexpr int piece = m < 8 ? m : 8;
#pragma unroll
  for (int j = 0; j < m; j += piece) write_run<piece>(mask, group * m + j, piece, true, keep >> j);
}

// A thread per entry, for any m.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    select_by_entry(const T* scores, unsigned char* mask, long long size, int n, int m, int* nan) {
  const long long i = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= size) return;
  const int me = static_cast<int>(i % m);
  const auto* group = reinterpret_cast<const WordOf<T>*>(scores) + (i - me);
  bool unordered = false, others = false;
  const KeyType<T> mine = key_of<T, T>(group[me], unordered);
  int beaten = 0;
  for (int j = 0; j < m; ++j) {
    const KeyType<T> key = key_of<T, T>(group[j], others);
    beaten += key > mine || (key == mine && j < me);
  }
  mask[i] = beaten < n;
  if (unordered) *nan = 1;
}

unsigned blocks_of(long long threads) { return static_cast<unsigned>((threads + kThreads - 1) / kThreads); }

template <typename T, int m>
int launch_groups(const ScoreArray& a, int n, void* stream) {
  return launch(select_in_group<T, m>, dim3(blocks_of(a.size / m)), dim3(kThreads), 0, stream,
                static_cast<const T*>(a.scores), static_cast<unsigned char*>(a.mask),
                static_cast<long long>(a.size / m), n, a.nan);
}

template <typename T>
int launch_nm(const ScoreArray& a, int n, int m, void* stream) {
  if (is_aligned(a.scores, 16) && is_aligned(a.mask, 8)) {
    if (m == 2) return launch_groups<T, 2>(a, n, stream);
    if (m == 4) return launch_groups<T, 4>(a, n, stream);
    if (m == 8) return launch_groups<T, 8>(a, n, stream);
    if (m == 16) return launch_groups<T, 16>(a, n, stream);
  }
  return launch(select_by_entry<T>, dim3(blocks_of(a.size)), dim3(kThreads), 0, stream,
                static_cast<const T*>(a.scores), static_cast<unsigned char*>(a.mask),
                static_cast<long long>(a.size), n, m, a.nan);
}

}  // namespace

int select_nm(const ScoreArray& all, std::int64_t n, std::int64_t m, void* stream) {
  int error = static_cast<int>(cudaErrorInvalidValue);
  if (m > kLargestGroup) return error;
  with_element(all.dtype, [&](auto t) {
    error = launch_nm<decltype(t)>(all, static_cast<int>(n), static_cast<int>(m), stream);
  });
  return error;
}

}  // namespace prunus::cuda
