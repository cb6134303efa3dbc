// A budget for every line (of fewer than 2^32 entries): one block per line, whose radix passes stay in its
// shared memory. Short lines are counted like N:M groups, and of a few very long ones each is selected by the
// whole device.
#include "cuda/radix.h"
#include "cuda/runs.h"
#include "cuda/selection.h"

namespace prunus::cuda {
namespace {

constexpr long long kLongLine = 1 << 16;
constexpr long long kFewLines = 64;  // fewer blocks than an H100 runs at once leave it idle

// The cut of a line: its key, and how many of the entries equal to it stay.
template <typename Key>
struct LineCut {
  Key key;
  long long kept_ties;
};

template <typename T>
__device__ LineCut<KeyType<T>> cut_of_line(const T* line, long long length, bool aligned, long long prune,
                                           int* nan) {
  using Key = KeyType<T>;
  alignas(16) __shared__ unsigned counts[kBins];
  __shared__ unsigned room[kWarp];
  __shared__ Bin bin;
  Key found = 0;
  long long rank = prune - 1, equal = 0;
#pragma unroll 1
  for (int pass = 0; pass < passes_of(KeyOf<T>::kKeyBits); ++pass) {
    const Counted<Key> counted{found, digit_of(KeyOf<T>::kKeyBits, pass), pass == 0};
    const int bins = 1 << counted.digit.bits;
    for (int i = threadIdx.x; i < bins; i += blockDim.x) counts[i] = 0;
    __syncthreads();
    bool unordered = false;
    for (long long i = threadIdx.x * kRun<T>; i < length; i += blockDim.x * kRun<T>) {
      Key keys[kRun<T>];
      const int count = read_run<T, T>(line, i, length, aligned, keys, unordered);
#pragma unroll
      for (int v = 0; v < kRun<T>; ++v)
        if (v < count && counted.has(keys[v])) atomicAdd(&counts[counted.bin(keys[v])], 1u);
    }
    if (unordered) *nan = 1;
    __syncthreads();
    find_bin(counts, bins, static_cast<unsigned>(rank), room, &bin);
    __syncthreads();
    found |= static_cast<Key>(bin.index) << counted.digit.shift;
    rank -= bin.before;
    equal = bin.count;
  }
  return {found, equal - (rank + 1)};
}

template <typename T>
__device__ void flag_line(const T* line, unsigned char* mask, long long length, bool aligned,
                          LineCut<KeyType<T>> cut) {
  __shared__ unsigned room[kWarp];
  long long before = 0;  // ties in earlier turns of the block
  for (long long first = 0; first < length; first += blockDim.x * kRun<T>) {
    const long long i = first + threadIdx.x * kRun<T>;
    KeyType<T> keys[kRun<T>];
    bool nan = false;
    const int count = i < length ? read_run<T, T>(line, i, length, aligned, keys, nan) : 0;
    unsigned keep = 0, ties = 0;
#pragma unroll
    for (int v = 0; v < kRun<T>; ++v) {
      keep |= static_cast<unsigned>(v < count && keys[v] > cut.key) << v;
      ties |= static_cast<unsigned>(v < count && keys[v] == cut.key) << v;
    }
    if (before < cut.kept_ties) {  // for the whole block or for no one
      unsigned total;
      long long rank = before + sum_before<unsigned>(__popc(ties), room, total);
#pragma unroll
      for (int v = 0; v < kRun<T>; ++v)
        if (ties >> v & 1 && rank++ < cut.kept_ties) keep |= 1u << v;
      before += total;
    }
    if (count > 0) write_run<kRun<T>>(mask, i, count, aligned, keep);
  }
}

template <typename T>
__global__ void __launch_bounds__(512) select_line(const T* scores, unsigned char* mask, long long length,
                                                   bool aligned, long long prune, int* nan) {
  const long long begin = blockIdx.x * length;
  const auto cut = cut_of_line(scores + begin, length, aligned, prune, nan);
  flag_line(scores + begin, mask + begin, length, aligned, cut);
}

template <typename T>
int launch_lines(const ScoreArray& a, long long length, long long prune, void* stream) {
  const unsigned threads = length <= 1024 ? 128 : length <= 8192 ? 256 : 512;
  const bool aligned = is_aligned(a.scores, 16) && is_aligned(a.mask, 16) && length % kRun<T> == 0;
  return launch(select_line<T>, dim3(static_cast<unsigned>(a.size / length)), dim3(threads), 0, stream,
                static_cast<const T*>(a.scores), static_cast<unsigned char*>(a.mask), length, aligned, prune,
                a.nan);
}

int select_one_by_one(const ScoreArray& all, std::int64_t length, std::int64_t prune, void* workspace,
                      void* stream) {
  ScoreArray line = all;
  line.size = length;
  std::int64_t bytes = 0;
  with_element(all.dtype, [&](auto t) { bytes = length * static_cast<std::int64_t>(sizeof t); });
  for (std::int64_t i = 0; i < all.size / length; ++i) {
    if (const int e = select(&line, 1, all.dtype, prune, workspace, stream)) return e;
    line.scores = static_cast<const unsigned char*>(line.scores) + bytes;
    line.mask += length;
  }
  return 0;
}

}  // namespace

int select_lines(const ScoreArray& all, std::int64_t length, std::int64_t prune, void* workspace,
                 void* stream) {
  if (length <= kLargestGroup) return select_nm(all, length - prune, length, stream);
  if (length >= kLongLine && all.size / length < kFewLines)
    return select_one_by_one(all, length, prune, workspace, stream);
  if (prune == 0) return select(&all, 1, all.dtype, 0, workspace, stream);  // a look for NaN
  int error = static_cast<int>(cudaErrorInvalidValue);
  with_element(all.dtype, [&](auto t) { error = launch_lines<decltype(t)>(all, length, prune, stream); });
  return error;
}

}  // namespace prunus::cuda
