#include "pruning/nm.h"

#include <algorithm>
#include <atomic>

#include "pruning/cut.h"
#include "pruning/sweep.h"

namespace prunus {
namespace {

constexpr std::int64_t kLanes = kNMLanes;

// Read, ranked and written a few KB at a time: the next lines of memory arrive meanwhile.
template <class Key>
bool prune_rows(const Scored<Key>& part, std::int64_t begin, std::int64_t count, std::int64_t n,
                std::int64_t m) {
  Key keys[kLanes * kCountedGroup];
  std::uint8_t keep[kLanes * kCountedGroup];
  const auto kernel = key_kernels<Key>().nm;
  bool ordered = true;
  for (std::int64_t i = 0; i < count; i += kLanes * m) {
    const std::int64_t here = std::min(kLanes * m, count - i);
    ordered &= part.read(begin + i, here, keys);
    std::fill(keys + here, keys + kLanes * m, Key{0});
    kernel(keys, static_cast<int>(n), static_cast<int>(m), keep);
    part.write(begin + i, here, keep);
  }
  return ordered;
}

template <class Key>
bool prune_tile_by_column(const Scored<Key>& part, std::int64_t row, std::int64_t col, std::int64_t n,
                          std::int64_t m) {
  Key keys[kCountedGroup][kLanes] = {};
  std::uint8_t keep[kCountedGroup][kLanes];
  bool ordered = true;
  const std::int64_t lanes = std::min(kLanes, part.cols - col);
  for (std::int64_t j = 0; j < m; ++j) ordered &= part.read((row + j) * part.cols + col, lanes, keys[j]);
  key_kernels<Key>().nm_columns(&keys[0][0], static_cast<int>(n), static_cast<int>(m), &keep[0][0]);
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
