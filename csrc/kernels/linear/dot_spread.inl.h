// A dot tile without its missing blocks: zeros stand for them, and groups have 32 rows. What tile products
// want of blocks of few rows.

// Rows of 16 lanes of the groups of `from`, one run after the other.
inline void spread_rows(const DotTile& from, int row, std::uint8_t* to, int runs) {
  const int g = row / from.r < from.groups ? row / from.r : from.groups - 1;
  const int count = from.first(g + 1) - from.first(g);
  const std::uint8_t* next = from.values(g) + row % from.r * count * 4;
  const std::uint8_t* bits = from.tile + g * from.words * 8;
  for (int s = 0; s < runs; ++s, to += 32 * 64) {
    std::uint16_t mask;
    __builtin_memcpy(&mask, bits + s * 2, sizeof mask);
    spread_lanes(mask, next, to);
    next += __builtin_popcount(mask) * 4;
  }
}

// The result's place, sums of weights and the like are the caller's to take from the tile.
void dot_spread(const TileArgs& a, std::uint8_t* out) {
  const DotTile from(a.tile, a.rows, a.cols, a.unit);
  const int runs = (from.lanes + 15) / 16;
  const DotLayout to(a.rows, runs * 16 * a.unit.cols, {32, a.unit.cols});
  for (int g = 0; g <= to.groups; ++g) {
    const auto first = static_cast<std::uint32_t>(g * to.lanes);
    __builtin_memcpy(out + to.first_at + g * 4, &first, sizeof first);
  }
  for (int row = 0; row < to.groups * 32; ++row)
    spread_rows(from, row,
                out + to.values_at + row / 32 * static_cast<std::int64_t>(to.lanes) * 128 + row % 32 * 64,
                runs);
}
