// Parts of a radix select: the digits of a key, a sum over the threads of a block, the bin of a rank.
#pragma once
#include "cuda/device.h"

namespace prunus::cuda {

constexpr int kDigitBits = 11, kBins = 1 << kDigitBits;

// The digit that a pass looks at, the topmost first.
struct Digit {
  int shift, bits;
};
__host__ __device__ constexpr int passes_of(int key_bits) { return (key_bits + kDigitBits - 1) / kDigitBits; }
__host__ __device__ constexpr Digit digit_of(int key_bits, int pass) {
  const int left = key_bits - pass * kDigitBits;
  return left < kDigitBits ? Digit{0, left} : Digit{left - kDigitBits, kDigitBits};
}

// Which keys a pass counts: those that begin with the digits found so far.
template <typename Key>
struct Counted {
  Key found;
  Digit digit;
  bool first;  // no digit has been found

  __device__ __forceinline__ bool has(Key key) const {
    const int above = digit.shift + digit.bits;  // as wide as the key in the first pass
    return first || key >> above == found >> above;
  }
  __device__ __forceinline__ int bin(Key key) const {
    return static_cast<int>(key >> digit.shift) & ((1 << digit.bits) - 1);
  }
};

// The sum of the values of all threads before this one, and of all threads. Every thread of a block of whole
// warps in one dimension calls it. room: kWarp values that the block shares.
template <typename Count>
__device__ Count sum_before(Count value, Count* room, Count& total) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  Count sum = value;
  for (int by = 1; by < kWarp; by *= 2) {
    const Count other = __shfl_up_sync(kAllLanes, sum, by);
    if (lane >= by) sum += other;
  }
  __syncthreads();  // an earlier call has read the room
  if (lane == kWarp - 1) room[warp] = sum;
  __syncthreads();
  Count before = 0;
  total = 0;
  for (int w = 0; w < warps; ++w) {
    if (w < warp) before += room[w];
    total += room[w];
  }
  return before + sum - value;
}

struct Bin {
  long long before, count;  // entries in the bins before, and in it
  int index;
};

template <typename Count>
__device__ __forceinline__ Count sum_of(const Count* counts, int n) {
  Count sum = 0;
  for (int i = 0; i < n; ++i) sum += counts[i];
  return sum;
}
// In shared memory, aligned to 16 bytes: four at a time, or neighbouring threads would wait for one bank.
template <>
__device__ __forceinline__ unsigned sum_of(const unsigned* counts, int n) {
  unsigned sum = 0;
  if (n % 4 > 0) {
    for (int i = 0; i < n; ++i) sum += counts[i];
  } else {
    for (int i = 0; i < n; i += 4) {
      const uint4 four = *reinterpret_cast<const uint4*>(counts + i);
      sum += four.x + four.y + four.z + four.w;
    }
  }
  return sum;
}

// The one of `bins` that holds the entry of this rank, into `found`, which the block shares; readable after
// the next barrier. Threads and bins are powers of two.
template <typename Count>
__device__ void find_bin(const Count* counts, int bins, Count rank, Count* room, Bin* found) {
  const int threads = blockDim.x, each = bins > threads ? bins / threads : 1, first = threadIdx.x * each;
  const Count mine = first < bins ? sum_of(counts + first, each) : 0;
  Count total, before = sum_before(mine, room, total);
  if (rank < before || rank >= before + mine) return;
  for (int i = first;; ++i) {
    const Count count = counts[i];
    if (rank < before + count) {
      *found = {static_cast<long long>(before), static_cast<long long>(count), i};
      return;
    }
    before += count;
  }
}

}  // namespace prunus::cuda
