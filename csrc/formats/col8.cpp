// col8: 8-bit columns in lock-step groups of 8 rows. Its bytes: layout/col8.inl.h and the diagram in
// README.md.
//
// The rows of a tile are sorted by their count of nonzeros (most first) and taken 8 at a time: a group. A
// group is walked in lock-step: step q holds the q-th nonzero of each of its 8 rows. So one text serves many
// tokens (a row is a lane, read at stride 8) and one token (8 rows are 8 SIMD lanes). Sorting keeps the
// padding at 1-3 % and the trip counts predictable. Padding is value 0 in the column behind the last, which
// the panel keeps at zero.
#include <cstring>

#include "formats/lockstep.h"
#include "formats/packer.h"
#include "formats/values.h"

namespace prunus {
namespace {

#include "formats/layout/col8.inl.h"

constexpr int kGroup = Col8Layout::lanes;

int bytes_of(Dtype dtype) { return static_cast<int>(dtype_size(dtype)); }

std::uint64_t size(const TileRows& tile, Dtype dtype) {
  const Order o = sort_by_count(tile.count, tile.rows);
  const Col8Layout layout(tile.rows);
  int steps = 0;
  for (int g = 0; g < layout.groups; ++g) steps += o.count[g * kGroup];
  return static_cast<std::uint64_t>(layout.head_bytes() + Col8Layout::group_bytes(steps, bytes_of(dtype)));
}

void write(const TileRows& tile, Dtype dtype, const float* scales, std::uint8_t* out) {
  const Order o = sort_by_count(tile.count, tile.rows);
  const Col8Layout layout(tile.rows);
  std::memset(out, 0, static_cast<std::size_t>(layout.head_bytes()));
  std::memcpy(out, o.row, static_cast<std::size_t>(layout.steps_at()));
  std::uint8_t* values = out + layout.head_bytes();
  for (int g = 0; g < layout.groups; ++g) {
    const int steps = o.count[g * kGroup], entries = steps * kGroup;
    std::uint8_t* columns = values + Col8Layout::value_bytes(steps, bytes_of(dtype));
    out[layout.steps_at() + g] = static_cast<std::uint8_t>(steps);
    std::memset(values, 0, static_cast<std::size_t>(columns - values));
    std::memset(columns, tile.cols, static_cast<std::size_t>(entries));
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
    if (to) to->put(row, c, read_value(at, dtype, scale_at(scales, row)), at);
  }
  return static_cast<std::uint64_t>(count);
}

Entries read(const std::uint8_t* tile, std::uint64_t bytes, const TileShape& shape, Dtype dtype,
             const std::uint8_t* scales, const Target* to) {
  const int rows = shape.rows, cols = shape.cols;
  const Col8Layout layout(rows);
  std::uint64_t used = static_cast<std::uint64_t>(layout.head_bytes()), nnz = 0;
  require(used <= bytes, "offsets", "tiles that hold their row order");
  check_order(tile, layout.steps_at());
  const std::uint8_t* counts = tile + layout.steps_at();
  for (int g = 0; g < layout.groups; ++g) {
    const int steps = counts[g];
    require(steps <= cols && (g == 0 || steps <= counts[g - 1]), "steps",
            "descending counts within the tile");
    const std::uint8_t* values = tile + used;
    used += static_cast<std::uint64_t>(Col8Layout::group_bytes(steps, bytes_of(dtype)));
    require(used <= bytes, "steps", "groups that fit their tile");
    const std::uint8_t* columns = values + Col8Layout::value_bytes(steps, bytes_of(dtype));
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
  return {nnz, nnz};
}

std::uint64_t most(const TileShape& shape, Dtype dtype) {
  const Col8Layout layout(shape.rows);
  return static_cast<std::uint64_t>(layout.head_bytes() +
                                    Col8Layout::group_bytes(255 * layout.groups, bytes_of(dtype)));
}

bool fits(const std::uint8_t* tile, std::uint64_t bytes, const TileShape& shape, Dtype dtype) {
  const Col8Layout layout(shape.rows);
  const auto head = static_cast<std::uint64_t>(layout.head_bytes());
  if (head > bytes) return false;
  const int steps = static_cast<int>(sum_bytes(tile + layout.steps_at(), layout.groups));
  return head + static_cast<std::uint64_t>(Col8Layout::group_bytes(steps, bytes_of(dtype))) <= bytes;
}

constexpr NonzeroCodec kNonzeros{Read::counts, size, nullptr, write};
std::unique_ptr<Packer> packer(const PackSource& from) { return nonzero_packer(from, kNonzeros); }

}  // namespace

const TileCodec kCol8Codec{packer, read, most, fits};

}  // namespace prunus
