// The rank-th smallest key of a small array: radix select inside the array's own range.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

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

// Copies the keys in [low, high] to out, which may be `keys`; returns how many.
template <class Key>
std::int64_t copy_within(const Key* keys, std::int64_t n, Range<Key> r, Key* out) {
  constexpr std::int64_t block = 16;
  std::int64_t kept = 0;
  for (std::int64_t i = 0; i < n; i += block) {
    const std::int64_t end = std::min(n, i + block);
    if (end == i + block) {  // few blocks hold any
      Key any = 0;
      for (std::int64_t j = 0; j < block; ++j)
        any = static_cast<Key>(any | ((keys[i + j] >= r.low) & (keys[i + j] <= r.high)));
      if (!any) continue;
    }
    for (std::int64_t j = i; j < end; ++j) {
      const Key key = keys[j];
      out[kept] = key;
      kept += (key >= r.low) & (key <= r.high);
    }
  }
  return kept;
}

// n in [1, 2^32), rank in [0, n). scratch holds n keys and may be `keys` itself where those may be
// overwritten.
template <class Key>
Cut<Key> nth_key(const Key* keys, std::int64_t n, std::int64_t rank, Key* scratch) {
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
    n = copy_within(keys, n, {low, advance(low, std::min(width, distance(low, r.high)))}, scratch);
    keys = scratch;
  }
}

}  // namespace prunus
