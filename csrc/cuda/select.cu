// One budget over any number of arrays: a radix select. Every pass counts a digit of the keys that begin with
// the digits found so far; then the flags are written, and the ties of the cut are settled in the order of
// their index. Nothing comes back to the host between the passes.
#include <type_traits>

#include "cuda/radix.h"
#include "cuda/runs.h"
#include "cuda/selection.h"
#include "cuda/ties.h"

namespace prunus::cuda {
namespace {

constexpr long long kBlocks = 792;  // of the counting: six for each multiprocessor of an H100
// Counters of one bin in a block: neighbours in a warp often have the same digit, and wait for each other.
constexpr int kCopies = 4;

struct Workspace {
  Cut* cut;
  unsigned long long* histogram;  // kBins
  long long* ties;                // per tile, then in all tiles before; one more than there are tiles
};
constexpr std::int64_t kCutBytes = 64;

long long tiles_of(std::int64_t size) { return (size + kTile - 1) / kTile; }

Workspace workspace_at(void* memory) {
  auto* bytes = static_cast<unsigned char*>(memory);
  auto* histogram = reinterpret_cast<unsigned long long*>(bytes + kCutBytes);
  return {reinterpret_cast<Cut*>(bytes), histogram, reinterpret_cast<long long*>(histogram + kBins)};
}

template <typename F, int run>
__device__ __forceinline__ void count_keys(const KeyType<F> (&keys)[run], int count,
                                           const Counted<KeyType<F>>& counted, unsigned* counts) {
#pragma unroll
  for (int v = 0; v < run; ++v)
    if (v < count && counted.has(keys[v])) atomicAdd(&counts[counted.bin(keys[v]) * kCopies], 1u);
}

template <typename F, typename T>
__global__ void __launch_bounds__(kThreads)
    count_digits(const T* __restrict__ scores, long long n, bool aligned, Digit digit, bool first,
                 const Cut* cut, unsigned long long* histogram, int* nan) {
  __shared__ unsigned counts[kBins * kCopies];
  const int thread = threadIdx.x;
  for (int i = thread; i < kBins * kCopies; i += kThreads) counts[i] = 0;
  __syncthreads();
  const Counted<KeyType<F>> counted{first ? 0 : static_cast<KeyType<F>>(cut->key), digit, first};
  unsigned* const mine = counts + thread % kCopies;
  const long long step = static_cast<long long>(gridDim.x) * kThreads * kRun<T>;
  long long i = (static_cast<long long>(blockIdx.x) * kThreads + thread) * kRun<T>;
  KeyType<F> keys[kRun<T>];
  bool unordered = false;
  // Two loads are under way at once.
  for (; aligned && i + step + kRun<T> <= n; i += 2 * step) {
    const Run<T> here = load_aligned(scores, i), there = load_aligned(scores, i + step);
    keys_of<F, T>(here, keys, unordered);
    count_keys<F>(keys, kRun<T>, counted, mine);
    keys_of<F, T>(there, keys, unordered);
    count_keys<F>(keys, kRun<T>, counted, mine);
  }
  for (; i < n; i += step) {
    const int count = read_run<F, T>(scores, i, n, aligned, keys, unordered);
    count_keys<F>(keys, count, counted, mine);
  }
  if (unordered) *nan = 1;
  __syncthreads();
  for (int bin = thread; bin < kBins; bin += kThreads) {
    unsigned sum = 0;
    for (int copy = 0; copy < kCopies; ++copy) sum += counts[bin * kCopies + copy];
    if (sum > 0) atomicAdd(&histogram[bin], static_cast<unsigned long long>(sum));
  }
}

// One block: the digit of the cut, and an empty histogram for the next pass.
__global__ void __launch_bounds__(kThreads)
    pick_digit(unsigned long long* histogram, Digit digit, bool first, long long rank, Cut* cut) {
  __shared__ unsigned long long room[kWarp];
  __shared__ Bin bin;
  if (!first) rank = cut->rank;
  find_bin(histogram, kBins, static_cast<unsigned long long>(rank), room, &bin);
  __syncthreads();
  for (int i = threadIdx.x; i < kBins; i += kThreads) histogram[i] = 0;
  if (threadIdx.x > 0) return;
  const unsigned long long found = first ? 0 : cut->key;
  cut->key = found | static_cast<unsigned long long>(bin.index) << digit.shift;
  cut->rank = rank - bin.before;
  cut->kept_ties = bin.count - (cut->rank + 1);
}

// Writes the flags of a run; how many of its entries are ties, which stay where `some` do.
template <typename F, int run>
__device__ __forceinline__ int flag_keys(const KeyType<F> (&keys)[run], int count, KeyType<F> at, bool some,
                                         unsigned char* mask, long long i, bool aligned) {
  unsigned keep = 0;
  int ties = 0;
#pragma unroll
  for (int v = 0; v < run; ++v) {
    const bool tie = v < count && keys[v] == at;
    keep |= static_cast<unsigned>(keys[v] > at || (tie && some)) << v;
    ties += tie;
  }
  write_run<run>(mask, i, count, aligned, keep);
  return ties;
}

// A block per tile. Where some ties stay, all do for now, and are counted. (5: with fewer registers, which
// ptxas would choose for sm_80, one is spilled.)
template <typename F, typename T>
__global__ void __launch_bounds__(kThreads, 5)
    write_flags(const T* __restrict__ scores, unsigned char* __restrict__ mask, long long n, bool aligned,
                const Cut* cut, long long* ties) {
  __shared__ int found;
  if (threadIdx.x == 0) found = 0;
  __syncthreads();
  constexpr int turn = kThreads * kRun<T>, turns = static_cast<int>(kTile) / turn;
  const long long begin = static_cast<long long>(blockIdx.x) * kTile;
  const long long first = begin + threadIdx.x * kRun<T>;
  const auto at = static_cast<KeyType<F>>(cut->key);
  const bool some = cut->kept_ties > 0;
  KeyType<F> keys[kRun<T>];
  int mine = 0;
  bool nan = false;  // has been looked for
  if (aligned && n - begin >= kTile) {
    Run<T> runs[turns];
#pragma unroll
    for (int t = 0; t < turns; ++t) runs[t] = load_aligned(scores, first + t * turn);
#pragma unroll
    for (int t = 0; t < turns; ++t) {
      keys_of<F, T>(runs[t], keys, nan);
      mine += flag_keys<F>(keys, kRun<T>, at, some, mask, first + t * turn, true);
    }
  } else {
    const long long end = n - begin < kTile ? n : begin + kTile;
    for (long long i = first; i < end; i += turn) {
      const int count = read_run<F, T>(scores, i, end, aligned, keys, nan);
      mine += flag_keys<F>(keys, count, at, some, mask, i, aligned);
    }
  }
  if (some && mine > 0) atomicAdd(&found, mine);
  __syncthreads();
  if (threadIdx.x == 0) ties[blockIdx.x] = found;
}

constexpr int kSumThreads = 1024, kEach = 4;  // tiles that a thread adds up at once

// One block: from the ties of every tile to those of all tiles before.
__global__ void __launch_bounds__(kSumThreads) add_up_ties(long long* ties, long long tiles, const Cut* cut) {
  __shared__ long long room[kWarp];
  if (cut->kept_ties == 0) return;
  long long before = 0;
  for (long long base = 0; base < tiles; base += kSumThreads * kEach) {
    const long long first = base + threadIdx.x * kEach;
    long long mine[kEach], sum = 0, total;
#pragma unroll
    for (int i = 0; i < kEach; ++i) sum += mine[i] = first + i < tiles ? ties[first + i] : 0;
    long long place = before + sum_before(sum, room, total);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (first + i < tiles) ties[first + i] = place;
      place += mine[i];
    }
    before += total;
  }
  if (threadIdx.x == 0) ties[tiles] = before;
}

unsigned grid_of(long long wanted, long long most) {
  return static_cast<unsigned>(wanted < most ? wanted : most);
}

// The steps of a selection for one array, whose element is T and compared as F.
template <typename F, typename T>
struct Steps {
  static int count(const ScoreArray& a, const Workspace& w, Digit digit, bool first, void* stream) {
    const unsigned grid = grid_of((a.size + 2 * kTile - 1) / (2 * kTile), kBlocks);
    return launch(count_digits<F, T>, dim3(grid), dim3(kThreads), 0, stream, static_cast<const T*>(a.scores),
                  static_cast<long long>(a.size), is_aligned(a.scores, 16), digit, first,
                  static_cast<const Cut*>(w.cut), w.histogram, a.nan);
  }
  static int flag(const ScoreArray& a, const Workspace& w, long long* ties, void* stream) {
    return launch(write_flags<F, T>, dim3(static_cast<unsigned>(tiles_of(a.size))), dim3(kThreads), 0, stream,
                  static_cast<const T*>(a.scores), static_cast<unsigned char*>(a.mask),
                  static_cast<long long>(a.size), is_aligned(a.scores, 16) && is_aligned(a.mask, 16),
                  static_cast<const Cut*>(w.cut), ties);
  }
  static int drop(const ScoreArray& a, const Workspace& w, const long long* ties, void* stream) {
    return launch(drop_ties<F, T>, dim3(grid_of(tiles_of(a.size), kBlocks)), dim3(kThreads), 0, stream,
                  static_cast<const T*>(a.scores), static_cast<unsigned char*>(a.mask),
                  static_cast<long long>(a.size), is_aligned(a.scores, 16), static_cast<const Cut*>(w.cut),
                  ties, tiles_of(a.size));
  }
};

// Calls fn with the steps of an array, whose elements F holds exactly; CUDA's error or 0.
template <typename F, typename Fn>
int with_steps(const ScoreArray& a, Fn&& fn) {
  int error = static_cast<int>(cudaErrorInvalidValue);
  with_element(a.dtype, [&](auto element) {
    using T = decltype(element);
    if constexpr (std::is_same_v<F, T> || (KeyOf<F>::kKeyBits > KeyOf<T>::kKeyBits))
      error = fn(Steps<F, T>{});
  });
  return error;
}

template <typename F>
int select_as(const ScoreArray* all, int count, std::int64_t prune, const Workspace& w, void* stream) {
  constexpr int key_bits = KeyOf<F>::kKeyBits;
  // With nothing to prune there is no cut; the first pass looks for NaN all the same.
  const int passes = prune > 0 ? passes_of(key_bits) : 1;
  auto* queue = static_cast<cudaStream_t>(stream);
  if (const int e = static_cast<int>(cudaMemsetAsync(w.histogram, 0, kBins * sizeof(*w.histogram), queue)))
    return e;
  for (int pass = 0; pass < passes; ++pass) {
    const Digit digit = digit_of(key_bits, pass);
    for (int i = 0; i < count; ++i)
      if (const int e =
              with_steps<F>(all[i], [&](auto s) { return s.count(all[i], w, digit, pass == 0, stream); }))
        return e;
    if (prune == 0) break;
    if (const int e = launch(pick_digit, dim3(1), dim3(kThreads), 0, stream, w.histogram, digit, pass == 0,
                             static_cast<long long>(prune - 1), w.cut))
      return e;
  }
  long long tiles = 0;
  for (int i = 0; i < count; ++i) {
    const int e =
        prune == 0
            ? static_cast<int>(cudaMemsetAsync(all[i].mask, 1, static_cast<std::size_t>(all[i].size), queue))
            : with_steps<F>(all[i], [&](auto s) { return s.flag(all[i], w, w.ties + tiles, stream); });
    if (e) return e;
    tiles += tiles_of(all[i].size);
  }
  if (prune == 0) return 0;
  if (const int e = launch(add_up_ties, dim3(1), dim3(kSumThreads), 0, stream, w.ties, tiles,
                           static_cast<const Cut*>(w.cut)))
    return e;
  tiles = 0;
  for (int i = 0; i < count; ++i) {
    if (const int e =
            with_steps<F>(all[i], [&](auto s) { return s.drop(all[i], w, w.ties + tiles, stream); }))
      return e;
    tiles += tiles_of(all[i].size);
  }
  return 0;
}

}  // namespace

std::int64_t select_bytes(const ScoreArray* all, int count) {
  std::int64_t tiles = 1;
  for (int i = 0; i < count; ++i) tiles += tiles_of(all[i].size);
  return kCutBytes + static_cast<std::int64_t>(sizeof(unsigned long long)) * (kBins + tiles);
}

int select(const ScoreArray* all, int count, int compared, std::int64_t prune, void* workspace,
           void* stream) {
  int error = static_cast<int>(cudaErrorInvalidValue);
  with_element(compared, [&](auto t) {
    error = select_as<decltype(t)>(all, count, prune, workspace_at(workspace), stream);
  });
  return error;
}

}  // namespace prunus::cuda
