// The cut of a selection, and the entries that are equal to it: of those the first in the order of their
// index stay.
#pragma once
#include "cuda/radix.h"
#include "cuda/runs.h"

namespace prunus::cuda {

constexpr int kThreads = 256;
constexpr long long kTile = 4096;  // entries whose ties are counted together

struct Cut {
  unsigned long long key;  // the digits found so far, then the cut itself
  long long rank;          // of the cut among the keys that begin with them
  long long kept_ties;     // of the entries equal to the cut the first so many stay
};

// Clears the flags of the ties of one tile that are not among the first `kept`; `before` lie in tiles before.
template <typename F, typename T>
__device__ void drop_in_tile(const T* scores, unsigned char* mask, long long begin, long long end,
                             bool aligned, const Cut& cut, long long before) {
  __shared__ long long room[kWarp];
  for (long long first = begin; first < end; first += kThreads * kRun<T>) {
    const long long i = first + threadIdx.x * kRun<T>;
    KeyType<F> keys[kRun<T>];
    bool nan = false;
    const int count = i < end ? read_run<F, T>(scores, i, end, aligned, keys, nan) : 0;
    long long mine = 0, total = 0;
#pragma unroll
    for (int v = 0; v < kRun<T>; ++v) mine += v < count && keys[v] == static_cast<KeyType<F>>(cut.key);
    long long rank = before;
    if (before < cut.kept_ties) rank += sum_before(mine, room, total);  // for the whole block or for no one
    before += total;
    if (mine == 0) continue;
#pragma unroll
    for (int v = 0; v < kRun<T>; ++v)
      if (v < count && keys[v] == static_cast<KeyType<F>>(cut.key) && rank++ >= cut.kept_ties)
        mask[i + v] = 0;
  }
}

template <typename F, typename T>
__global__ void __launch_bounds__(kThreads)
    drop_ties(const T* scores, unsigned char* mask, long long n, bool aligned, const Cut* cut_at,
              const long long* ties, long long tiles) {
  const Cut cut = *cut_at;
  if (cut.kept_ties == 0) return;
  for (long long tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const long long before = ties[tile], after = ties[tile + 1];
    if (after <= cut.kept_ties || before == after) continue;
    const long long begin = tile * kTile, end = n - begin < kTile ? n : begin + kTile;
    drop_in_tile<F, T>(scores, mask, begin, end, aligned, cut, before);
  }
}

}  // namespace prunus::cuda
