#include "pruning/ties.h"

#include <algorithm>

namespace prunus {
namespace {

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
      flag(keys, n, tie, keep);
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

}  // namespace

template <class Key>
std::vector<TieDrop> share_ties(const Parts<Key>& parts, const Chunks<Key>& chunks,
                                const std::vector<std::int32_t>& ties, const Floor<Key>& floor) {
  std::vector<TieDrop> drops;
  std::int64_t left = floor.drop;
  for (std::size_t p = parts.size(); p-- > 0 && left > 0;) {
    std::int64_t here = 0;
    for (std::int64_t t = chunks.first(p); t < chunks.end(p); ++t) here += ties[static_cast<std::size_t>(t)];
    if (parts[p]->by_column && here > 0) {
      drop_by_column(*parts[p], floor.tie, std::min(left, here));
      left -= std::min(left, here);
      continue;
    }
    for (std::int64_t t = chunks.end(p); t-- > chunks.first(p) && left > 0;) {
      const std::int64_t count = std::min<std::int64_t>(left, ties[static_cast<std::size_t>(t)]);
      if (count > 0) drops.push_back({t, count});
      left -= count;
    }
  }
  return drops;
}

#define PRUNUS_KEY(Key)                                                           \
  template std::vector<TieDrop> share_ties(const Parts<Key>&, const Chunks<Key>&, \
                                           const std::vector<std::int32_t>&, const Floor<Key>&);
PRUNUS_KEY(std::int16_t)
PRUNUS_KEY(std::int32_t)
PRUNUS_KEY(std::int64_t)
#undef PRUNUS_KEY

}  // namespace prunus
