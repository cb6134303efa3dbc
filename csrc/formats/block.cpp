// block: r x c weights share one 8-bit column. Its bytes: layout/block.inl.h and the diagram in README.md.
//
// The rows of blocks of a tile are sorted by their number of blocks and walked in lock-step, as many of them
// as make 8 lanes (one, of r lanes, for taller blocks): a group. Step q of a group holds the q-th block of
// each, column by column, so that a vector of values has one activation (or few) to be multiplied with.
//
// A column id of c * ceil(cols / c) is padding: there the panel is zero. Zeros of w inside a block are stored
// (holes).
#include <algorithm>
#include <cstring>

#include "formats/lockstep.h"
#include "formats/packer.h"
#include "formats/values.h"

namespace prunus {
namespace {

#include "formats/layout/block.inl.h"

int bytes_of(Dtype dtype) { return static_cast<int>(dtype_size(dtype)); }

// With `end`: the column id of padding.
struct Parts : BlockLayout {
  int end;
  Parts(int rows, int cols, Unit unit) : BlockLayout(rows, unit), end(round_up(cols, c)) {}
};

// Which block columns of every row of blocks hold a nonzero.
struct Occupied {
  bool at[kMaxTileRows][kMaxTileCols + 1];
  int count[kMaxTileRows];
};

void find_blocks(const TileRows& tile, const Parts& p, Occupied& o) {
  const int block_rows = (tile.rows + p.r - 1) / p.r, block_cols = p.end / p.c;
  for (int b = 0; b < block_rows; ++b) {
    std::memset(o.at[b], 0, static_cast<std::size_t>(block_cols));
    const int last = (b + 1) * p.r < tile.rows ? (b + 1) * p.r : tile.rows;
    for (int r = b * p.r; r < last; ++r)
      for (int q = 0; q < tile.count[r]; ++q) o.at[b][tile.columns[r][q] / p.c] = true;
    o.count[b] = 0;
    for (int j = 0; j < block_cols; ++j) o.count[b] += o.at[b][j];
  }
}

std::uint64_t size(const TileRows& tile, Dtype dtype) {
  const Parts p(tile.rows, tile.cols, tile.unit);
  Occupied occupied;
  find_blocks(tile, p, occupied);
  const Order o = sort_by_count(occupied.count, (tile.rows + p.r - 1) / p.r);
  int steps = 0;
  for (int g = 0; g < p.groups; ++g) steps += o.count[g * p.per_group];
  return static_cast<std::uint64_t>(round_up(p.head_bytes() + p.group_bytes(steps, bytes_of(dtype)), 8));
}

// Only those inside the matrix: what lies outside meets zero activations or rows that are not stored.
std::uint64_t slots(const TileRows& tile) {
  const Parts p(tile.rows, tile.cols, tile.unit);
  Occupied occupied;
  find_blocks(tile, p, occupied);
  std::uint64_t all = 0;
  for (int b = 0; b * p.r < tile.rows; ++b)
    for (int j = 0; j * p.c < tile.cols; ++j)
      if (occupied.at[b][j])
        all += static_cast<std::uint64_t>(std::min(p.r, tile.rows - b * p.r)) *
               static_cast<std::uint64_t>(std::min(p.c, tile.cols - j * p.c));
  return all;
}

// The values of one row of w: its slot in a step, and the step of each of its blocks.
void write_row(const TileRows& tile, int row, const int* step_of, const Parts& p, int lane, Dtype dtype,
               float scale, std::uint8_t* values) {
  for (int q = 0; q < tile.count[row]; ++q) {
    const int col = tile.columns[row][q];
    const std::size_t slot =
        static_cast<std::size_t>((step_of[col / p.c] * p.c + col % p.c) * p.lanes + lane);
    write_value(tile.values[row][q], dtype, scale, values + slot * dtype_size(dtype));
  }
}

void write(const TileRows& tile, Dtype dtype, const float* scales, std::uint8_t* out) {
  const Parts p(tile.rows, tile.cols, tile.unit);
  Occupied occupied;
  find_blocks(tile, p, occupied);
  const Order o = sort_by_count(occupied.count, (tile.rows + p.r - 1) / p.r);
  std::memset(out, 0, size(tile, dtype));
  std::memcpy(out, o.row, static_cast<std::size_t>(p.steps_at()));
  std::uint8_t* values = out + p.head_bytes();
  for (int g = 0; g < p.groups; ++g) {
    const int steps = o.count[g * p.per_group];
    std::uint8_t* columns = values + p.value_bytes(steps, bytes_of(dtype));
    out[p.steps_at() + g] = static_cast<std::uint8_t>(steps);
    std::memset(columns, p.end, static_cast<std::size_t>(steps * p.per_group));
    for (int b = 0; b < p.per_group; ++b) {
      const int at = g * p.per_group + b, first_row = o.row[at] * p.r;
      int step_of[kMaxTileCols + 1], next = 0;
      for (int j = 0; o.count[at] > next; ++j) {
        if (!occupied.at[o.row[at]][j]) continue;
        columns[next * p.per_group + b] = static_cast<std::uint8_t>(j * p.c);
        step_of[j] = next++;
      }
      for (int i = 0; i < p.r && first_row + i < tile.rows; ++i)
        write_row(tile, first_row + i, step_of, p, b * p.r + i, dtype, scales ? scales[first_row + i] : 1,
                  values);
    }
    values = columns + static_cast<std::size_t>(steps * p.per_group);
  }
}

// The blocks of one row of blocks in a group: increasing columns before the padding, zeros in it.
struct BlockRow {
  const std::uint8_t *values, *columns;
  int steps, slot, first_row;
};

Entries read_block_row(const BlockRow& b, const Parts& p, const TileShape& shape, Dtype dtype,
                       const std::uint8_t* scales, const Target* to) {
  Entries all{};
  for (int q = 0, last = -1; q < b.steps; ++q) {
    const int id = b.columns[q * p.per_group + b.slot];
    require(id <= p.end && id % p.c == 0 && (id == p.end || id > last) && (last < p.end || id == p.end),
            "columns", "increasing block columns inside the tile, then padding");
    last = id;
    if (id < p.end && b.first_row < shape.rows)  // as slots() counts them
      all.slots += static_cast<std::uint64_t>(std::min(p.r, shape.rows - b.first_row)) *
                   static_cast<std::uint64_t>(std::min(p.c, shape.cols - id));
    for (int j = 0; j < p.c; ++j)
      for (int i = 0; i < p.r; ++i) {
        const int slot = (q * p.c + j) * p.lanes + b.slot * p.r + i, row = b.first_row + i, col = id + j;
        const std::uint8_t* at = b.values + static_cast<std::size_t>(slot) * dtype_size(dtype);
        if (read_value(at, dtype, 1) == 0.0f) continue;
        require(row < shape.rows && col < shape.cols, "values", "zeros outside the matrix");
        ++all.count;
        if (to) to->put(row, col, read_value(at, dtype, scale_at(scales, row)), at);
      }
  }
  return all;
}

Entries read(const std::uint8_t* tile, std::uint64_t bytes, const TileShape& shape, Dtype dtype,
             const std::uint8_t* scales, const Target* to) {
  const Parts p(shape.rows, shape.cols, shape.unit);
  std::uint64_t used = static_cast<std::uint64_t>(p.head_bytes());
  Entries all{};
  require(used <= bytes, "offsets", "tiles that hold their row order");
  check_order(tile, p.steps_at());
  const std::uint8_t* counts = tile + p.steps_at();
  for (int g = 0; g < p.groups; ++g) {
    const int steps = counts[g];
    require(steps <= p.end / p.c && (g == 0 || steps <= counts[g - 1]), "steps",
            "descending counts within the tile");
    const std::uint8_t* values = tile + used;
    used += static_cast<std::uint64_t>(p.group_bytes(steps, bytes_of(dtype)));
    require(used <= bytes, "steps", "groups that fit their tile");
    const std::uint8_t* columns = values + p.value_bytes(steps, bytes_of(dtype));
    for (int b = 0; b < p.per_group; ++b) {
      const Entries row = read_block_row({values, columns, steps, b, tile[g * p.per_group + b] * p.r}, p,
                                         shape, dtype, scales, to);
      all.count += row.count;
      all.slots += row.slots;
    }
  }
  require((used + 7) / 8 * 8 == bytes, "offsets", "tiles without gaps");
  return all;
}

// Kernels walk no more steps of a group than this (BlockTile).
std::uint64_t most(const TileShape& shape, Dtype dtype) {
  const BlockLayout p(shape.rows, shape.unit);
  return static_cast<std::uint64_t>(p.head_bytes() +
                                    p.group_bytes(p.most_steps() * p.groups, bytes_of(dtype)));
}

bool fits(const std::uint8_t* tile, std::uint64_t bytes, const TileShape& shape, Dtype dtype) {
  const BlockLayout p(shape.rows, shape.unit);
  const auto head = static_cast<std::uint64_t>(p.head_bytes());
  if (head > bytes) return false;
  const int steps = static_cast<int>(sum_bytes(tile + p.steps_at(), p.groups));
  return head + static_cast<std::uint64_t>(p.group_bytes(steps, bytes_of(dtype))) <= bytes;
}

constexpr NonzeroCodec kNonzeros{Read::columns, size, slots, write};
std::unique_ptr<Packer> packer(const PackSource& from) { return nonzero_packer(from, kNonzeros); }

}  // namespace

const TileCodec kBlockCodec{packer, read, most, fits};

}  // namespace prunus
