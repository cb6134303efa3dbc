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

// n in [1, 2^32), rank in [0, n). scratch holds n keys and may be `keys` itself where those may be
// overwritten.
template <class Key>
Cut<Key> nth_key(const Key* keys, std::int64_t n, std::int64_t rank, Key* scratch) {
  std::uint32_t count[kBuckets];
  for (std::int64_t below = 0;;) {
    Key low = keys[0], high = keys[0];
    for (std::int64_t i = 0; i < n; ++i) {
      low = std::min(low, keys[i]);
      high = std::max(high, keys[i]);
    }
    if (low == high) return {low, below, n};
    // As many buckets as entries at most: clearing and walking them is a cost per call.
    const int bits = std::clamp(bit_width(static_cast<std::uint64_t>(n)), 4, kRadixBits);
    const Distance<Key> span = distance(low, high);
    const int shift = std::max(0, bit_width(span) - bits);
    std::memset(count, 0, ((span >> shift) + 1) * sizeof(count[0]));
    for (std::int64_t i = 0; i < n; ++i) ++count[distance(low, keys[i]) >> shift];
    std::int64_t bucket = 0, before = 0;
    while (before + count[bucket] <= rank) before += count[bucket++];
    below += before;
    if (shift == 0) return {advance(low, static_cast<Distance<Key>>(bucket)), below, count[bucket]};
    rank -= before;
    // low and high lie in different buckets, so n shrinks.
    std::int64_t kept = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const Key key = keys[i];
      scratch[kept] = key;
      kept += static_cast<std::int64_t>(distance(low, key) >> shift) == bucket;
    }
    keys = scratch;
    n = kept;
  }
}

}  // namespace prunus
