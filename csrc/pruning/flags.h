// From keys and a cut to keep flags.
#pragma once
#include <cstdint>
#include <cstring>

#include "pruning/nth_key.h"

namespace prunus {

// keep = key >= floor.
template <class Key>
void flag(const Key* keys, std::int64_t n, Key floor, std::uint8_t* keep) {
  key_kernels<Key>().flag(keys, n, floor, keep);
}

template <class Key>
std::int64_t count_ties(const Key* keys, std::int64_t n, Key tie) {
  std::int64_t below[2];
  key_kernels<Key>().count_below(keys, n, {tie, static_cast<Key>(tie + 1)}, below);
  return below[1] - below[0];
}

// Clears the flags of the last `drop` ties.
template <class Key>
void drop_last(const Key* keys, std::int64_t n, Key tie, std::int64_t drop, std::uint8_t* keep) {
  for (std::int64_t i = n; i-- > 0 && drop > 0;) {
    if (keys[i] != tie) continue;
    keep[i] = 0;
    --drop;
  }
}

// The lowest key that stays when `prune` entries go, if all ties of the cut are kept (`all` false) or
// dropped.
template <class Key>
struct Floor {
  Key value;
  Key tie;
  std::int64_t drop;  // ties to drop from the end; 0 when value already excludes them
};

template <class Key>
Floor<Key> floor_of(const Cut<Key>& cut, std::int64_t prune) {
  const std::int64_t drop = prune - cut.below;
  if (drop == cut.equal) return {static_cast<Key>(cut.value + 1), cut.value, 0};
  return {cut.value, cut.value, drop};
}

// Flags of one small group. scratch holds n keys.
template <class Key>
void flag_lowest(const Key* keys, std::int64_t n, std::int64_t prune, Key* scratch, std::uint8_t* keep) {
  if (prune == 0) {
    std::memset(keep, 1, static_cast<std::size_t>(n));
    return;
  }
  const Floor<Key> floor = floor_of(nth_key(keys, n, prune - 1, scratch), prune);
  flag(keys, n, floor.value, keep);
  drop_last(keys, n, floor.tie, floor.drop, keep);
}

}  // namespace prunus
