#include "pruning/nm.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "pruning/cut.h"
#include "pruning/sweep.h"

namespace prunus {
namespace {

constexpr std::int64_t kLanes = 64;  // groups side by side, so that plain loops vectorise

template <class Key>
struct Tile {
  Key keys[kCountedGroup][kLanes];
  std::uint8_t keep[kCountedGroup][kLanes];
};

// M = 0: m at run time.
template <int M, class Key>
void count_tile(Tile<Key>& t, std::int64_t n, std::int64_t runtime_m) {
  const std::int64_t m = M > 0 ? M : runtime_m;
  for (std::int64_t i = 0; i < m; ++i) {
    Key beaten[kLanes] = {};
    const Key* mine = t.keys[i];
    for (std::int64_t j = 0; j < i; ++j)
      for (std::int64_t g = 0; g < kLanes; ++g)
        beaten[g] = static_cast<Key>(beaten[g] + (t.keys[j][g] >= mine[g]));
    for (std::int64_t j = i + 1; j < m; ++j)
      for (std::int64_t g = 0; g < kLanes; ++g)
        beaten[g] = static_cast<Key>(beaten[g] + (t.keys[j][g] > mine[g]));
    for (std::int64_t g = 0; g < kLanes; ++g) t.keep[i][g] = beaten[g] < static_cast<Key>(n);
  }
}

// `groups` groups of m neighbours.
template <int M, class Key>
void flag_rows(const Key* keys, std::int64_t groups, std::int64_t n, std::int64_t runtime_m,
               std::uint8_t* keep) {
  const std::int64_t m = M > 0 ? M : runtime_m;
  Tile<Key> t;
  for (std::int64_t first = 0; first < groups; first += kLanes) {
    const std::int64_t lanes = std::min(kLanes, groups - first);
    const Key* in = keys + first * m;
    std::uint8_t* out = keep + first * m;
    for (std::int64_t g = 0; g < lanes; ++g)
      for (std::int64_t j = 0; j < m; ++j) t.keys[j][g] = in[g * m + j];
    count_tile<M>(t, n, m);
    for (std::int64_t g = 0; g < lanes; ++g)
      for (std::int64_t j = 0; j < m; ++j) out[g * m + j] = t.keep[j][g];
  }
}

template <class Key>
bool prune_rows(const Scored<Key>& part, std::int64_t begin, std::int64_t count, std::int64_t n,
                std::int64_t m) {
  Key keys[kChunk];
  std::uint8_t keep[kChunk];
  const bool ordered = part.read(begin, count, keys);
  if (m == 4) {
    flag_rows<4>(keys, count / m, n, m, keep);
  } else if (m == 8) {
    flag_rows<8>(keys, count / m, n, m, keep);
  } else {
    flag_rows<0>(keys, count / m, n, m, keep);
  }
  part.write(begin, count, keep);
  return ordered;
}

template <class Key>
bool prune_tile_by_column(const Scored<Key>& part, std::int64_t row, std::int64_t col, std::int64_t n,
                          std::int64_t m) {
  Tile<Key> t;
  bool ordered = true;
  const std::int64_t lanes = std::min(kLanes, part.cols - col);
  for (std::int64_t j = 0; j < m; ++j) ordered &= part.read((row + j) * part.cols + col, lanes, t.keys[j]);
  if (m == 4) {
    count_tile<4>(t, n, m);
  } else {
    count_tile<0>(t, n, m);
  }
  for (std::int64_t j = 0; j < m; ++j) part.write((row + j) * part.cols + col, lanes, t.keep[j]);
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
    const std::int64_t entries = kChunk / m * m;
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
