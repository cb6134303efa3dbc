#include "pruning/nm.h"

#include <algorithm>
#include <atomic>
#include <type_traits>

#include "pruning/cut.h"
#include "pruning/sweep.h"

namespace prunus {
namespace {

constexpr std::int64_t kLanes = 64;  // groups side by side, so that plain loops vectorise

// Entry j of group g.
template <class Key>
using KeyTile = Key[kCountedGroup][kLanes];
using KeepTile = std::uint8_t[kCountedGroup][kLanes];

// M known and small: one comparison settles both entries of a pair, and GCC unrolls all pairs into vector
// code (0.6 ns per entry for 2:4 in float32, a third of counting every entry's rivals in a loop).
template <int M, class Key>
void rank_pairs(const KeyTile<Key>& keys, Key n, KeepTile& keep) {
  for (std::int64_t g = 0; g < kLanes; ++g) {
    Key beaten[M];  // by how many; at first every earlier entry is taken to win
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) beaten[i] = static_cast<Key>(i);
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
#pragma GCC unroll 16
      for (int j = i + 1; j < M; ++j) {
        const Key later_wins = keys[j][g] > keys[i][g];
        beaten[i] = static_cast<Key>(beaten[i] + later_wins);
        beaten[j] = static_cast<Key>(beaten[j] - later_wins);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) keep[i][g] = beaten[i] < n;
  }
}

template <class Key>
void rank_any(const KeyTile<Key>& keys, Key n, std::int64_t m, KeepTile& keep) {
  for (std::int64_t i = 0; i < m; ++i) {
    Key beaten[kLanes] = {};
    for (std::int64_t j = 0; j < i; ++j)
      for (std::int64_t g = 0; g < kLanes; ++g)
        beaten[g] = static_cast<Key>(beaten[g] + (keys[j][g] >= keys[i][g]));
    for (std::int64_t j = i + 1; j < m; ++j)
      for (std::int64_t g = 0; g < kLanes; ++g)
        beaten[g] = static_cast<Key>(beaten[g] + (keys[j][g] > keys[i][g]));
    for (std::int64_t g = 0; g < kLanes; ++g) keep[i][g] = beaten[g] < n;
  }
}

template <int M, class Key>
void rank(const KeyTile<Key>& keys, std::int64_t n, std::int64_t m, KeepTile& keep) {
  if constexpr (M > 0) {
    rank_pairs<M>(keys, static_cast<Key>(n), keep);
  } else {
    rank_any(keys, static_cast<Key>(n), m, keep);
  }
}

// Calls fn with m as a constant where that pays, else with 0.
template <class Fn>
void with_group(std::int64_t m, Fn&& fn) {
  switch (m) {
    case 2:
      return fn(std::integral_constant<int, 2>{});
    case 4:
      return fn(std::integral_constant<int, 4>{});
    case 8:
      return fn(std::integral_constant<int, 8>{});
    case 16:
      return fn(std::integral_constant<int, 16>{});
    default:
      return fn(std::integral_constant<int, 0>{});
  }
}

// kLanes groups of neighbours.
template <int M, class Key>
void flag_tile(const Key* __restrict in, std::int64_t n, std::int64_t runtime_m,
               std::uint8_t* __restrict out) {
  const std::int64_t m = M > 0 ? M : runtime_m;
  KeyTile<Key> keys;
  KeepTile keep;
  for (std::int64_t g = 0; g < kLanes; ++g)
    for (std::int64_t j = 0; j < m; ++j) keys[j][g] = in[g * m + j];
  rank<M, Key>(keys, n, m, keep);
  for (std::int64_t g = 0; g < kLanes; ++g)
    for (std::int64_t j = 0; j < m; ++j) out[g * m + j] = keep[j][g];
}

// Tiles of kLanes groups; the last is filled up with whatever the buffer holds.
template <class Key>
bool prune_rows(const Scored<Key>& part, std::int64_t begin, std::int64_t count, std::int64_t n,
                std::int64_t m) {
  Key keys[kChunk] = {};
  std::uint8_t keep[kChunk];
  const bool ordered = part.read(begin, count, keys);
  with_group(m, [&](auto group) {
    for (std::int64_t i = 0; i < count; i += kLanes * m) flag_tile<group.value>(keys + i, n, m, keep + i);
  });
  part.write(begin, count, keep);
  return ordered;
}

template <class Key>
bool prune_tile_by_column(const Scored<Key>& part, std::int64_t row, std::int64_t col, std::int64_t n,
                          std::int64_t m) {
  KeyTile<Key> keys = {};
  KeepTile keep;
  bool ordered = true;
  const std::int64_t lanes = std::min(kLanes, part.cols - col);
  for (std::int64_t j = 0; j < m; ++j) ordered &= part.read((row + j) * part.cols + col, lanes, keys[j]);
  with_group(m, [&](auto group) { rank<group.value, Key>(keys, n, m, keep); });
  for (std::int64_t j = 0; j < m; ++j) part.write((row + j) * part.cols + col, lanes, keep[j]);
  return ordered;
}

}  // namespace

template <class Key>
void prune_nm(const Scored<Key>& part, std::int64_t n, std::int64_t m) {
  std::atomic<bool> ordered{true};
  if (part.by_column) {
    const std::int64_t panels = ceil_div(part.cols, kLanes);
    sweep(part.rows / m * panels, num_threads(), [&](std::int64_t task, int) {
      if (!prune_tile_by_column(part, task / panels * m, task % panels * kLanes, n, m))
        ordered.store(false, std::memory_order_relaxed);
    });
  } else {
    const std::int64_t entries = kChunk / (kLanes * m) * (kLanes * m);  // m <= 64: at least two tiles
    sweep(ceil_div(part.size(), entries), num_threads(), [&](std::int64_t task, int) {
      const std::int64_t begin = task * entries;
      if (!prune_rows(part, begin, std::min(entries, part.size() - begin), n, m))
        ordered.store(false, std::memory_order_relaxed);
    });
  }
  if (!ordered) throw NoOrder{};
}

template void prune_nm(const Scored<std::int16_t>&, std::int64_t, std::int64_t);
template void prune_nm(const Scored<std::int32_t>&, std::int64_t, std::int64_t);
template void prune_nm(const Scored<std::int64_t>&, std::int64_t, std::int64_t);

}  // namespace prunus
