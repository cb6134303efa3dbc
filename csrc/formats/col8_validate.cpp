// Everything a col8 kernel relies on, checked once for bytes that came from outside.
#include <cstring>
#include <string>

#include "core/check.h"
#include "formats/col8.h"

namespace prunus::col8 {
namespace {

void require(bool ok, const char* field, const std::string& expected) {
  if (!ok)
    throw FormatError("packed." + std::string(field) + ": expected " + expected + ", got a corrupt buffer");
}

// One lane of a group: strictly increasing columns, then padding to the end. Returns its nonzeros.
std::uint64_t check_lane(const std::uint8_t* values, const std::uint8_t* columns, int steps, int lane,
                         int cols) {
  int count = 0, last = -1;
  for (int q = 0; q < steps; ++q) {
    const int c = columns[q * kGroup + lane];
    require(c <= cols, "columns", "column ids inside the tile");
    if (c == cols) {
      float v;
      std::memcpy(&v, values + (static_cast<std::size_t>(q) * kGroup + lane) * sizeof v, sizeof v);
      require(v == 0.0f, "values", "zeros in the padding");
      continue;
    }
    require(count == q && c > last, "columns", "increasing columns before the padding");
    last = c;
    ++count;
  }
  return count;
}

std::uint64_t check_tile(const Slice& s, std::uint64_t bytes, std::int64_t rows, int cols) {
  bool seen[kMaxTileRows] = {};
  const int lanes = s.group_count * kGroup;
  for (int l = 0; l < lanes; ++l) {
    require(s.order[l] < lanes && !seen[s.order[l]], "order", "a permutation of the tile's rows");
    seen[s.order[l]] = true;
  }
  std::uint64_t used = static_cast<std::uint64_t>(s.groups - s.order), nnz = 0;
  const std::uint8_t* at = s.groups;
  for (int g = 0; g < s.group_count; ++g) {
    const int steps = s.steps[g];
    require(steps <= cols && (g == 0 || steps <= s.steps[g - 1]), "steps",
            "descending counts within the tile");
    const std::uint64_t size = static_cast<std::uint64_t>(steps) * kGroup * (sizeof(float) + 1);
    used += size;
    require(used <= bytes, "steps", "groups that fit their tile");
    for (int l = 0; l < kGroup; ++l) {
      const std::uint64_t many =
          check_lane(at, at + static_cast<std::size_t>(steps) * kGroup * sizeof(float), steps, l, cols);
      require(many == 0 || s.order[g * kGroup + l] < rows, "order", "no nonzeros past the last row");
      nnz += many;
    }
    at += size;
  }
  require(used == bytes, "offsets", "tiles without gaps");
  return nnz;
}

}  // namespace

void validate(const PackedView& w) {
  const PackedHeader& h = w.header;
  require(h.n <= (1ull << 40) && h.k <= (1ull << 40), "shape", "n and k below 2^40");
  require(h.tile_rows > 0 && h.tile_rows <= kMaxTileRows && h.tile_rows % kGroup == 0, "tile_rows",
          "8..256 by 8");
  require(h.tile_cols > 0 && h.tile_cols <= kMaxTileCols, "tile_cols", "1..255");
  const Geometry geo = geometry(h);
  const std::uint64_t payload = h.bytes - sizeof(PackedHeader);
  const std::size_t tiles = checked_mul(geo.row_tiles(), geo.col_tiles());
  require(checked_mul(checked_add(tiles, 1), 8) <= payload, "bytes", "room for the tile offsets");
  require(tile_offset(w, 0) == 8 * (tiles + 1), "offsets", "tiles right after the offsets");
  require(tile_offset(w, tiles) == payload, "offsets", "the last tile to end the buffer");
  std::uint64_t nnz = 0;
  for (std::size_t i = 0; i < tiles; ++i) {
    const std::uint64_t begin = tile_offset(w, i), end = tile_offset(w, i + 1);
    const std::int64_t t = i / geo.col_tiles(), b = i % geo.col_tiles();
    require(begin <= end && end <= payload, "offsets", "ascending offsets");
    const std::uint64_t head = (geo.rows_of(t) + kGroup - 1) / kGroup * (kGroup + 1);
    require(end - begin >= ((head + 7) & ~std::uint64_t{7}), "offsets", "tiles that hold their row order");
    nnz += check_tile(slice(w, t, b), end - begin, geo.rows_of(t), static_cast<int>(geo.cols_of(b)));
  }
  require(nnz == h.nnz, "nnz", std::to_string(h.nnz) + " stored values");
}

}  // namespace prunus::col8
