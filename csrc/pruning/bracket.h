// A guess of where the cut lies, and the sorting of entries by it.
#pragma once
#include <array>
#include <cstdint>

#include "pruning/keys.h"

namespace prunus {

template <class Key>
struct Bracket {
  Key low, high;  // low < high
  bool ends;      // so many entries may equal low or high that these have classes of their own
};

// Where an entry lies: the number of comparisons >= low, > low, >= high, > high that hold. Without `ends`
// only the middle two are made, and each counts twice.
enum Class : std::uint8_t { below = 0, at_low = 1, inside = 2, at_high = 3, above = 4 };

// How many entries hold each of the four. One per worker, a cache line each.
struct alignas(64) Tally {
  std::array<std::int64_t, 4> holds{};
};

// Classes of n <= kChunk entries; next(i) is the key of entry i.
template <bool ends, class Key, class Next>
void classify_run(std::int64_t n, Bracket<Key> b, Tally& tally, std::uint8_t* __restrict classes,
                  Next&& next) {
  Key from_low = 0, over_low = 0, from_high = 0, over_high = 0;  // kChunk over vector lanes: fits 16 bits
  for (std::int64_t i = 0; i < n; ++i) {
    const Key key = next(i);
    const Key c1 = key > b.low, c2 = key >= b.high;
    const Key c0 = ends ? key >= b.low : c1, c3 = ends ? key > b.high : c2;
    from_low = static_cast<Key>(from_low + c0);
    over_low = static_cast<Key>(over_low + c1);
    from_high = static_cast<Key>(from_high + c2);
    over_high = static_cast<Key>(over_high + c3);
    classes[i] = static_cast<std::uint8_t>(c0 + c1 + c2 + c3);
  }
  tally.holds[0] += from_low;
  tally.holds[1] += over_low;
  tally.holds[2] += from_high;
  tally.holds[3] += over_high;
}

template <class Key, class Next>
void classify_keys(std::int64_t n, Bracket<Key> b, Tally& tally, std::uint8_t* __restrict classes,
                   Next&& next) {
  b.ends ? classify_run<true>(n, b, tally, classes, next) : classify_run<false>(n, b, tally, classes, next);
}

// Classes of n <= kChunk contiguous elements straight from memory; false when one of them is NaN.
template <class T>
bool classify_elements(const std::uint8_t* __restrict p, std::int64_t n, Bracket<typename KeyOf<T>::Key> b,
                       Tally& tally, std::uint8_t* __restrict classes) {
  using Key = typename KeyOf<T>::Key;
  Key nan = 0;  // as in keys_of
  classify_keys<Key>(n, b, tally, classes, [&](std::int64_t i) {
    const Key bits = load<Key>(p, i);
    nan = static_cast<Key>(nan | (KeyOf<T>::infinity - magnitude(bits)));
    return key_of_bits(bits);
  });
  return nan >= 0;
}

}  // namespace prunus
