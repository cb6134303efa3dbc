// col8: 8-bit columns in lock-step groups of 8 rows. Byte diagram in csrc/README.md.
//
// The rows of a tile are sorted by their count of nonzeros (most first) and taken 8 at a time: a group. A
// group is walked in lock-step: step q holds the q-th nonzero of each of its 8 rows. So one text serves many
// tokens (a row is a lane, read at stride 8) and one token (8 rows are 8 SIMD lanes). Sorting keeps the
// padding at 1-3 % and the trip counts predictable. Padding is value 0 in the column behind the last, which
// the panel keeps at zero.
//
//   u8 order[groups * 8] | u8 steps[groups] | pad to 8 | per group: values [steps][8], then u8 columns
//   [steps][8]
#include <cstring>

#include "formats/lockstep.h"
#include "formats/tiles.h"
#include "formats/values.h"

namespace prunus {
namespace {

constexpr int kGroup = 8;

int groups_of(int rows) { return (rows + kGroup - 1) / kGroup; }
std::uint64_t round8(std::uint64_t v) { return (v + 7) / 8 * 8; }
std::uint64_t head_bytes(int rows) {
  return round8(static_cast<std::uint64_t>(groups_of(rows)) * (kGroup + 1));
}
std::uint64_t step_bytes(Dtype dtype) { return kGroup * (dtype_size(dtype) + 1); }

std::uint64_t size(const TileRows& tile, Dtype dtype) {
  const Order o = sort_by_count(tile.count, tile.rows);
  std::uint64_t steps = 0;
  for (int g = 0; g < groups_of(tile.rows); ++g) steps += static_cast<std::uint64_t>(o.count[g * kGroup]);
  return head_bytes(tile.rows) + steps * step_bytes(dtype);
}

void write(const TileRows& tile, Dtype dtype, const float* scales, std::uint8_t* out) {
  const Order o = sort_by_count(tile.count, tile.rows);
  const int groups = groups_of(tile.rows);
  const std::size_t value_size = dtype_size(dtype);
  std::memset(out, 0, head_bytes(tile.rows));
  std::memcpy(out, o.row, static_cast<std::size_t>(groups) * kGroup);
  std::uint8_t* values = out + head_bytes(tile.rows);
  for (int g = 0; g < groups; ++g) {
    const std::size_t entries = static_cast<std::size_t>(o.count[g * kGroup]) * kGroup;
    std::uint8_t* columns = values + entries * value_size;
    out[groups * kGroup + g] = static_cast<std::uint8_t>(o.count[g * kGroup]);
    std::memset(values, 0, entries * value_size);
    std::memset(columns, tile.cols, entries);
    with_stored(dtype, [&](auto type) {
      for (int l = 0; l < kGroup; ++l) {
        const int r = o.row[g * kGroup + l];
        const float scale = scales && r < tile.rows ? scales[r] : 1;
        for (int q = 0; q < o.count[g * kGroup + l]; ++q) {
          write_value(tile.values[r][q], type(), scale,
                      values + static_cast<std::size_t>(q * kGroup + l) * dtype_size(type()));
          columns[q * kGroup + l] = tile.columns[r][q];
        }
      }
    });
    values = columns + entries;
  }
}

// One lane of a group: strictly increasing columns, then zeros in the padding column.
std::uint64_t read_lane(const std::uint8_t* values, const std::uint8_t* columns, int steps, int lane, int row,
                        int cols, Dtype dtype, const std::uint8_t* scales, const Target* to) {
  int count = 0, last = -1;
  for (int q = 0; q < steps; ++q) {
    const int e = q * kGroup + lane, c = columns[e];
    const std::uint8_t* at = values + static_cast<std::size_t>(e) * dtype_size(dtype);
    require(c <= cols, "columns", "column ids inside the tile");
    if (c == cols) {
      require(read_value(at, dtype, 1) == 0.0f, "values", "zeros in the padding");
      continue;
    }
    require(count == q && c > last, "columns", "increasing columns before the padding");
    last = c;
    ++count;
    if (to) to->put(row, c, read_value(at, dtype, scale_at(scales, row)));
  }
  return static_cast<std::uint64_t>(count);
}

std::uint64_t read(const std::uint8_t* tile, std::uint64_t bytes, const TileShape& shape, Dtype dtype,
                   const std::uint8_t* scales, const Target* to) {
  const int rows = shape.rows, cols = shape.cols;
  const int groups = groups_of(rows);
  std::uint64_t used = head_bytes(rows), nnz = 0;
  require(used <= bytes, "offsets", "tiles that hold their row order");
  check_order(tile, groups * kGroup);
  const std::uint8_t* counts = tile + groups * kGroup;
  for (int g = 0; g < groups; ++g) {
    const int steps = counts[g];
    require(steps <= cols && (g == 0 || steps <= counts[g - 1]), "steps",
            "descending counts within the tile");
    const std::uint8_t* values = tile + used;
    used += static_cast<std::uint64_t>(steps) * step_bytes(dtype);
    require(used <= bytes, "steps", "groups that fit their tile");
    const std::uint8_t* columns = values + static_cast<std::size_t>(steps) * kGroup * dtype_size(dtype);
    for (int l = 0; l < kGroup; ++l) {
      const int row = tile[g * kGroup + l];
      const std::uint64_t many = row < rows
                                     ? read_lane(values, columns, steps, l, row, cols, dtype, scales, to)
                                     : read_lane(values, columns, steps, l, 0, cols, dtype, nullptr, nullptr);
      require(many == 0 || row < rows, "order", "no nonzeros past the last row");
      nnz += many;
    }
  }
  require(used == bytes, "offsets", "tiles without gaps");
  return nnz;
}

// A strip of tokens x tile_cols should stay in L1: 96 columns of 64 tokens are 24 KB. Once segments get
// short, their fixed cost outweighs L1 misses, and decode gains a third: 192. csrc/README.md, 2026-11-23.
std::int32_t tile_cols(std::int64_t k, double density, Unit) {
  return even_tiles(k, density > 0.15 ? 96 : 192);
}

}  // namespace

const TileCodec kCol8Codec{size, nullptr, write, read, tile_cols};

}  // namespace prunus
