// From the cut to the masks: one pass writes every flag, and where only some entries equal to the cut are
// pruned, the chunks that hold the last of them are written again.
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>

#include "pruning/chunks.h"
#include "pruning/cut.h"
#include "pruning/flags.h"

namespace prunus {
namespace {

struct Rewrite {
  std::int64_t task, drop;
};

template <class Key>
void rewrite_chunks(const Parts<Key>& parts, const Chunks<Key>& chunks, const std::vector<Rewrite>& rewrites,
                    Key tie) {
  sweep(static_cast<std::int64_t>(rewrites.size()), num_threads(), [&](std::int64_t i, int) {
    Key keys[kChunk];
    std::uint8_t keep[kChunk];
    const Rewrite& r = rewrites[static_cast<std::size_t>(i)];
    const Chunk chunk = chunks.at(r.task);
    parts[chunk.part]->read(chunk.begin, chunk.count, keys);
    flag(keys, chunk.count, tie, tie, keep);
    drop_last(keys, chunk.count, tie, r.drop, keep);
    parts[chunk.part]->write(chunk.begin, chunk.count, keep);
  });
}

// The last `drop` ties in column order. Columns are counted first; then every tie of the later columns goes.
template <class Key>
void drop_by_column(const Scored<Key>& part, Key tie, std::int64_t drop) {
  constexpr std::int64_t width = 64;
  const std::int64_t rows = part.rows, cols = part.cols;
  std::vector<std::int64_t> ties(static_cast<std::size_t>(cols)), dropped(static_cast<std::size_t>(cols));
  const auto each_row = [&](std::int64_t col, auto&& fn) {
    const std::int64_t n = std::min(width, cols - col);
    Key keys[width];
    for (std::int64_t row = rows; row-- > 0;) {
      part.read(row * cols + col, n, keys);
      fn(row, n, keys);
    }
  };
  sweep(ceil_div(cols, width), num_threads(), [&](std::int64_t panel, int) {
    each_row(panel * width, [&](std::int64_t, std::int64_t n, const Key* keys) {
      for (std::int64_t j = 0; j < n; ++j)
        ties[static_cast<std::size_t>(panel * width + j)] += keys[j] == tie;
    });
  });
  for (std::int64_t col = cols; col-- > 0;) {
    std::int64_t& d = dropped[static_cast<std::size_t>(col)];
    d = std::min(drop, ties[static_cast<std::size_t>(col)]);
    drop -= d;
  }
  sweep(ceil_div(cols, width), num_threads(), [&](std::int64_t panel, int) {
    const std::int64_t col = panel * width;
    if (std::all_of(&dropped[col], &dropped[col] + std::min(width, cols - col),
                    [](std::int64_t d) { return d == 0; }))
      return;
    std::uint8_t keep[width];
    each_row(col, [&](std::int64_t row, std::int64_t n, const Key* keys) {
      flag(keys, n, tie, tie, keep);
      for (std::int64_t j = 0; j < n; ++j) {
        std::int64_t& left = dropped[static_cast<std::size_t>(col + j)];
        if (keys[j] != tie || left == 0) continue;
        keep[j] = 0;
        --left;
      }
      part.write(row * cols + col, n, keep);
    });
  });
}

template <class Key>
void drop_ties(const Parts<Key>& parts, const Chunks<Key>& chunks, const std::vector<std::int32_t>& ties,
               Key tie, std::int64_t drop) {
  std::vector<Rewrite> rewrites;
  for (std::size_t p = parts.size(); p-- > 0 && drop > 0;) {
    if (parts[p]->by_column) {
      std::int64_t here = 0;
      for (std::int64_t t = chunks.first(p); t < chunks.end(p); ++t)
        here += ties[static_cast<std::size_t>(t)];
      const std::int64_t d = std::min(drop, here);
      if (d > 0) drop_by_column(*parts[p], tie, d);
      drop -= d;
      continue;
    }
    for (std::int64_t t = chunks.end(p); t-- > chunks.first(p) && drop > 0;) {
      const std::int64_t d = std::min<std::int64_t>(drop, ties[static_cast<std::size_t>(t)]);
      if (d > 0) rewrites.push_back({t, d});
      drop -= d;
    }
  }
  rewrite_chunks(parts, chunks, rewrites, tie);
}

}  // namespace

std::int64_t pruned_count(double sparsity, std::int64_t n) {
  const double count = std::floor(sparsity * static_cast<double>(n) + 0.5);
  return std::min(n, static_cast<std::int64_t>(count));
}

template <class Key>
void prune_lowest(const Parts<Key>& parts, std::int64_t prune) {
  const Chunks<Key> chunks(parts);
  if (chunks.entries() == 0) return;
  // All kept: a floor below every key. Nobody has read the keys then, so this pass looks for NaN too.
  Floor<Key> floor{std::numeric_limits<Key>::min(), 0, 0};
  if (prune > 0) floor = floor_of(find_cut(parts, prune - 1), prune);
  std::vector<std::int32_t> ties(static_cast<std::size_t>(floor.drop == 0 ? 0 : chunks.count()));
  std::atomic<bool> ordered{true};
  sweep(chunks.count(), num_threads(), [&](std::int64_t task, int) {
    Key keys[kChunk];
    std::uint8_t keep[kChunk];
    const Chunk chunk = chunks.at(task);
    if (!parts[chunk.part]->read(chunk.begin, chunk.count, keys))
      ordered.store(false, std::memory_order_relaxed);
    const std::int64_t n = flag(keys, chunk.count, floor.value, floor.tie, keep);
    if (floor.drop > 0) ties[static_cast<std::size_t>(task)] = static_cast<std::int32_t>(n);
    parts[chunk.part]->write(chunk.begin, chunk.count, keep);
  });
  if (!ordered) throw NoOrder{};
  if (floor.drop > 0) drop_ties(parts, chunks, ties, floor.tie, floor.drop);
}

template void prune_lowest(const Parts<std::int16_t>&, std::int64_t);
template void prune_lowest(const Parts<std::int32_t>&, std::int64_t);
template void prune_lowest(const Parts<std::int64_t>&, std::int64_t);

}  // namespace prunus
