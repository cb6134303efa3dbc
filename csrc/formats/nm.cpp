// nm: n slots for every m consecutive columns of every row. Its bytes: layout/nm.inl.h and the diagram in
// README.md.
//
// The count is constant, so nothing is scanned, sorted or counted: 8 rows are taken at a time (the lanes of
// one vector) and step q of such a block holds slot q % n of the columns (q / n) * m .. + m. A position is 2,
// 3 or 4 bits, so that one vector permutation of the group's m activations feeds eight rows.
//
// Slots beyond a row's nonzeros come after them and hold value 0 at position 0: a hole.
#include <cstring>

#include "formats/packer.h"
#include "formats/values.h"

namespace prunus {
namespace {

#include "formats/layout/nm.inl.h"

int bytes_of(Dtype dtype) { return static_cast<int>(dtype_size(dtype)); }

std::uint64_t size(const TileRows& tile, Dtype dtype) {
  return static_cast<std::uint64_t>(NmLayout(tile.rows, tile.cols, tile.unit).bytes(bytes_of(dtype)));
}

std::uint64_t slots(const TileRows& tile) {
  return static_cast<std::uint64_t>(tile.rows) *
         static_cast<std::uint64_t>(NmLayout(tile.rows, tile.cols, tile.unit).steps);
}

void write(const TileRows& tile, Dtype dtype, const float* scales, std::uint8_t* out) {
  const NmLayout p(tile.rows, tile.cols, tile.unit);
  const int n = tile.unit.rows, m = tile.unit.cols;
  std::memset(out, 0, static_cast<std::size_t>(p.bytes(bytes_of(dtype))));
  for (int r = 0; r < tile.rows; ++r) {
    const int lane = r % 8, at_bit = lane * p.position_bits;
    std::uint8_t* values = out + r / 8 * p.block_bytes(bytes_of(dtype));
    std::uint8_t* positions = values + p.value_bytes(bytes_of(dtype));
    int group = -1, step = 0;
    for (int q = 0; q < tile.count[r]; ++q) {
      const int c = tile.columns[r][q];
      step = c / m == group ? step + 1 : c / m * n;
      group = c / m;
      write_value(tile.values[r][q], dtype, scales ? scales[r] : 1,
                  values + static_cast<std::size_t>(step * 8 + lane) * dtype_size(dtype));
      const unsigned bits = static_cast<unsigned>(c % m) << at_bit % 8;  // may span two bytes
      std::uint8_t* to = positions + step * p.position_bits + at_bit / 8;
      to[0] = static_cast<std::uint8_t>(to[0] | bits);
      to[1] = static_cast<std::uint8_t>(to[1] | bits >> 8);
    }
  }
}

int position(const std::uint8_t* positions, int step, int lane, int position_bits) {
  const int at_bit = lane * position_bits;
  const std::uint8_t* from = positions + step * position_bits + at_bit / 8;
  return (from[0] | from[1] << 8) >> at_bit % 8 & ((1 << position_bits) - 1);
}

Entries read(const std::uint8_t* tile, std::uint64_t bytes, const TileShape& shape, Dtype dtype,
             const std::uint8_t* scales, const Target* to) {
  const NmLayout p(shape.rows, shape.cols, shape.unit);
  const int n = shape.unit.rows, m = shape.unit.cols;
  require(static_cast<std::uint64_t>(p.bytes(bytes_of(dtype))) == bytes, "offsets",
          "tiles of n values for every m columns");
  std::uint64_t nnz = 0;
  for (int r = 0; r < p.blocks * 8; ++r) {
    const std::uint8_t* values = tile + r / 8 * p.block_bytes(bytes_of(dtype));
    const std::uint8_t* positions = values + p.value_bytes(bytes_of(dtype));
    for (int q = 0, last = -1; q < p.steps; ++q) {
      if (q % n == 0) last = -1;
      const std::uint8_t* at = values + static_cast<std::size_t>(q * 8 + r % 8) * dtype_size(dtype);
      const int pos = position(positions, q, r % 8, p.position_bits), c = q / n * m + pos;
      require(pos < m && c < shape.cols, "positions", "positions inside their group");
      if (read_value(at, dtype, 1) == 0.0f) continue;
      require(r < shape.rows && pos > last, "positions", "increasing positions, none past the last row");
      last = pos;
      ++nnz;
      if (to) to->put(r, c, read_value(at, dtype, scale_at(scales, r)), at);
    }
  }
  return {nnz, static_cast<std::uint64_t>(shape.rows) * static_cast<std::uint64_t>(p.steps)};
}

std::uint64_t most(const TileShape& shape, Dtype dtype) {
  return static_cast<std::uint64_t>(NmLayout(shape.rows, shape.cols, shape.unit).bytes(bytes_of(dtype)));
}

bool fits(const std::uint8_t*, std::uint64_t bytes, const TileShape& shape, Dtype dtype) {
  return most(shape, dtype) <= bytes;
}

constexpr NonzeroCodec kNonzeros{Read::counts, size, slots, write};
std::unique_ptr<Packer> packer(const PackSource& from) { return nonzero_packer(from, kNonzeros); }

}  // namespace

const TileCodec kNmCodec{packer, read, most, fits};

}  // namespace prunus
