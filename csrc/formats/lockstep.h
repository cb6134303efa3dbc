// Rows (col8) or rows of blocks (block) of a tile in lock-step groups: sorted so that neighbours have nearly
// equal counts.
#pragma once
#include "formats/tiles.h"

namespace prunus {

// By descending count, stable; positions past the last row have count 0 and ids that follow on.
struct Order {
  std::uint8_t row[kMaxTileRows];
  int count[kMaxTileRows];  // by position
};

inline Order sort_by_count(const int* count, int rows) {
  Order o{};
  int first[kMaxTileCols + 1] = {};
  for (int r = 0; r < rows; ++r) ++first[count[r]];
  for (int c = kMaxTileCols, at = 0; c >= 0; --c) {
    const int many = first[c];
    first[c] = at;
    at += many;
  }
  for (int r = 0; r < rows; ++r) {
    const int at = first[count[r]]++;
    o.row[at] = static_cast<std::uint8_t>(r);
    o.count[at] = count[r];
  }
  for (int r = rows; r < kMaxTileRows; ++r) o.row[r] = static_cast<std::uint8_t>(r);
  return o;
}

// Eight at a time: this is asked of small weights in every call.
inline unsigned sum_bytes(const std::uint8_t* p, int count) {
  constexpr std::uint64_t even = 0x00ff00ff00ff00ffu;
  unsigned sum = 0;
  int i = 0;
  for (; i + 8 <= count; i += 8) {
    std::uint64_t v;
    __builtin_memcpy(&v, p + i, 8);
    sum += static_cast<unsigned>(((v & even) + (v >> 8 & even)) * 0x0001000100010001u >> 48);
  }
  for (; i < count; ++i) sum += p[i];
  return sum;
}

inline void check_order(const std::uint8_t* order, int lanes) {
  bool seen[kMaxTileRows] = {};
  for (int l = 0; l < lanes; ++l) {
    require(order[l] < lanes && !seen[order[l]], "order", "a permutation of the tile's rows");
    seen[order[l]] = true;
  }
}

}  // namespace prunus
