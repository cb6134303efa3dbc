// The rank-th smallest key of an array.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "kernels/score_kernels.h"

namespace prunus {

// What selection needs to know about the entry of a given rank (0-based, from the smallest).
template <class Key>
struct Cut {
  Key value;
  std::int64_t below, equal;  // entries smaller than value, and equal to it
};

inline constexpr int kRadixBits = 11;  // 2048 counters, 8 or 16 KB: a histogram stays in L1
inline constexpr std::int64_t kBuckets = std::int64_t{1} << kRadixBits;

// Distance of two keys, and wide enough to shift without promotion surprises.
template <class Key>
using Distance = std::conditional_t<sizeof(Key) == 8, std::uint64_t, std::uint32_t>;

template <class Key>
inline Distance<Key> distance(Key low, Key key) {
  return static_cast<Distance<Key>>(key) - static_cast<Distance<Key>>(low);
}

template <class Key>
inline Key advance(Key low, Distance<Key> by) {
  return static_cast<Key>(static_cast<Distance<Key>>(low) + by);
}

template <class Wide>
inline int bit_width(Wide v) {
  return v == 0 ? 0 : 64 - __builtin_clzll(static_cast<unsigned long long>(v));
}

template <class Key>
struct Range {
  Key low, high;
};

// Eight at a time: a single running minimum was compiled to a chain of conditional moves.
template <class Key>
Range<Key> range_of(const Key* keys, std::int64_t n) {
  constexpr std::int64_t lanes = 8;
  Key low[lanes], high[lanes];
  for (std::int64_t l = 0; l < lanes; ++l) low[l] = high[l] = keys[0];
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (std::int64_t l = 0; l < lanes; ++l) {
      low[l] = keys[i + l] < low[l] ? keys[i + l] : low[l];
      high[l] = keys[i + l] > high[l] ? keys[i + l] : high[l];
    }
  Range<Key> r{*std::min_element(low, low + lanes), *std::max_element(high, high + lanes)};
  for (; i < n; ++i) r = {std::min(r.low, keys[i]), std::max(r.high, keys[i])};
  return r;
}

// Keys in [low, high): `below` are under low, `under` under high. The entry looked for is among them.
template <class Key>
struct Window {
  Key low = std::numeric_limits<Key>::min(), high = std::numeric_limits<Key>::max();
  std::int64_t below, under;
  std::int64_t inside() const { return under - below; }
  bool bracketed() const {
    return low != std::numeric_limits<Key>::min() && high != std::numeric_limits<Key>::max();
  }
  // Without an upper bound even the highest key is inside (only a NaN has it).
  Key last() const { return static_cast<Key>(high - (high != std::numeric_limits<Key>::max())); }
};

// Two keys guessed to enclose the entry of this rank, from 64 keys spread over all.
template <class Key>
void guess_from_sample(const Key* keys, std::int64_t n, std::int64_t rank, Key (&bounds)[2]) {
  Key sample[kSampleKeys];
  for (std::int64_t i = 0; i < kSampleKeys; ++i) sample[i] = keys[(2 * i + 1) * n / (2 * kSampleKeys)];
  // 8 of 64 is two standard deviations in the middle; with less the other side is found next time.
  const int middle = static_cast<int>(rank * kSampleKeys / n);
  key_kernels<Key>().quantiles(sample, {std::max(0, middle - 7), std::min(kSampleKeys - 1, middle + 8)},
                               bounds);
}

// The same by a straight line through the window's ends, three standard deviations off.
template <class Key>
void guess_between(const Window<Key>& w, std::int64_t rank, Key (&bounds)[2]) {
  const double inside = static_cast<double>(w.inside()), at = static_cast<double>(rank - w.below) / inside;
  const double margin = (3 * std::sqrt(inside * at * (1 - at)) + 4) / inside;
  const double span = static_cast<double>(distance(w.low, w.high));
  const auto key_at = [&](double part) {
    return advance(w.low, static_cast<Distance<Key>>(std::clamp(part, 0.0, 0.999) * span));
  };
  bounds[0] = key_at(at - margin);
  bounds[1] = key_at(at + margin);
}

template <class Key>
void narrow(const Key* keys, std::int64_t n, std::int64_t rank, Key (&bounds)[2], Window<Key>& w) {
  // One value may hold many entries: then it gets a window of its own.
  if (bounds[0] == bounds[1] && bounds[1] != std::numeric_limits<Key>::max()) ++bounds[1];
  std::int64_t below[2];
  key_kernels<Key>().count_below(keys, n, bounds, below);
  for (int i = 0; i < 2; ++i) {
    if (below[i] <= rank && bounds[i] > w.low) w.low = bounds[i], w.below = below[i];
    if (below[i] > rank && bounds[i] < w.high) w.high = bounds[i], w.under = below[i];
  }
}

// By counting: a pass over keys in cache takes a tenth of a histogram's time.
template <class Key>
Window<Key> find_window(const Key* keys, std::int64_t n, std::int64_t rank) {
  Window<Key> w;
  w.below = 0, w.under = n;
  Key bounds[2];
  guess_from_sample(keys, n, rank, bounds);
  narrow(keys, n, rank, bounds, w);
  for (int round = 0; round < 3 && w.bracketed() && w.inside() > n / 16 && distance(w.low, w.high) > 1;
       ++round) {
    guess_between(w, rank, bounds);
    narrow(keys, n, rank, bounds, w);
  }
  return w;
}

// n in [1, 2^32), rank in [0, n): radix select inside the range of the keys. scratch as below.
template <class Key>
Cut<Key> nth_by_histogram(const Key* keys, std::int64_t n, std::int64_t rank, Key* scratch) {
  std::uint32_t count[kBuckets];
  for (std::int64_t below = 0;;) {
    const Range<Key> r = range_of(keys, n);
    if (r.low == r.high) return {r.low, below, n};
    // As many buckets as entries at most: clearing and walking them is a cost per call.
    const int bits = std::clamp(bit_width(static_cast<std::uint64_t>(n)), 4, kRadixBits);
    const Distance<Key> span = distance(r.low, r.high);
    const int shift = std::max(0, bit_width(span) - bits);
    std::memset(count, 0, ((span >> shift) + 1) * sizeof(count[0]));
    for (std::int64_t i = 0; i < n; ++i) ++count[distance(r.low, keys[i]) >> shift];
    std::int64_t bucket = 0, before = 0;
    while (before + count[bucket] <= rank) before += count[bucket++];
    below += before;
    const Key low = advance(r.low, static_cast<Distance<Key>>(bucket) << shift);
    if (shift == 0) return {low, below, count[bucket]};
    rank -= before;
    // The range's ends lie in different buckets, so n shrinks.
    const Distance<Key> width = (Distance<Key>{1} << shift) - 1;
    n = key_kernels<Key>().copy_within(keys, n, low, advance(low, std::min(width, distance(low, r.high))),
                                       scratch);
    keys = scratch;
  }
}

// n in [1, 2^32), rank in [0, n). scratch holds n keys and may be `keys` itself where those may be
// overwritten.
template <class Key>
Cut<Key> nth_key(const Key* keys, std::int64_t n, std::int64_t rank, Key* scratch) {
  std::int64_t below = 0;
  while (n > 4 * kSampleKeys) {
    const Window<Key> w = find_window(keys, n, rank);
    if (distance(w.low, w.high) == 1) return {w.low, below + w.below, w.inside()};
    if (w.inside() > n / 2) break;
    n = key_kernels<Key>().copy_within(keys, n, w.low, w.last(), scratch);
    keys = scratch;
    rank -= w.below;
    below += w.below;
  }
  Cut<Key> cut = nth_by_histogram(keys, n, rank, scratch);
  cut.below += below;
  return cut;
}

}  // namespace prunus
