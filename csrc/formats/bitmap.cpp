// bitmap: one bit per weight, then the kept values of each row. Its bytes: layout/bitmap.inl.h and the
// diagram in README.md.
//
// For sparsities where an 8-bit column costs more than its share of the bits (1 / (1 - s) bits per nonzero),
// and where walking nonzeros one by one costs more than expanding eight weights at once.
// Bit j: column j is kept.
#include <cstring>

#include "formats/bits.h"
#include "formats/packer.h"
#include "formats/values.h"

namespace prunus {
namespace {

#include "formats/layout/bitmap.inl.h"

std::uint64_t head_bytes(int rows) { return static_cast<std::uint64_t>(BitmapLayout::values_at(rows)); }
std::uint64_t total_bytes(int rows, std::uint64_t nnz, Dtype dtype) {
  return head_bytes(rows) + (nnz * dtype_size(dtype) + 7) / 8 * 8 + BitmapLayout::slack;
}

std::uint64_t size(const TileRows& tile, Dtype dtype) {
  std::uint64_t nnz = 0;
  for (int r = 0; r < tile.rows; ++r) nnz += static_cast<std::uint64_t>(tile.count[r]);
  return total_bytes(tile.rows, nnz, dtype);
}

void write(const TileRows& tile, Dtype dtype, const float* scales, std::uint8_t* out) {
  std::memset(out, 0, size(tile, dtype));
  std::uint8_t* value = out + head_bytes(tile.rows);
  with_stored(dtype, [&](auto type) {
    for (int r = 0; r < tile.rows; ++r) {
      std::uint64_t bits = 0;
      const float scale = scales ? scales[r] : 1;
      for (int q = 0; q < tile.count[r]; ++q, value += dtype_size(type())) {
        bits |= std::uint64_t{1} << tile.columns[r][q];
        write_value(tile.values[r][q], type(), scale, value);
      }
      std::memcpy(out + r * 8, &bits, sizeof bits);
    }
  });
}

std::uint64_t count_tile(const std::uint8_t* tile, int rows) {
  std::uint64_t nnz = 0;
  for (int r = 0; r < rows; ++r) {
    std::uint64_t bits;
    std::memcpy(&bits, tile + r * 8, sizeof bits);
    nnz += static_cast<std::uint64_t>(count_bits(bits));
  }
  return nnz;
}

Entries read(const std::uint8_t* tile, std::uint64_t bytes, const TileShape& shape, Dtype dtype,
             const std::uint8_t* scales, const Target* to) {
  const int rows = shape.rows, cols = shape.cols;
  const std::uint64_t head = head_bytes(rows);
  require(head + BitmapLayout::slack <= bytes, "offsets", "tiles that hold their bits");
  const std::uint64_t nnz = count_tile(tile, rows);
  require(total_bytes(rows, nnz, dtype) == bytes, "bits", "as many bits as values");
  const std::uint8_t* value = tile + head;
  with_stored(dtype, [&](auto type) {
    for (int r = 0; r < rows; ++r) {
      std::uint64_t bits;
      std::memcpy(&bits, tile + r * 8, sizeof bits);
      require(cols == kBitmapColumns || bits >> cols == 0, "bits", "no bits past the last column");
      if (!to) continue;
      const float scale = scale_at(scales, r);
      for (; bits != 0; bits &= bits - 1, value += dtype_size(type()))
        to->put(r, __builtin_ctzll(bits), read_value(value, type(), scale), value);
    }
  });
  return {nnz, nnz};
}

std::uint64_t most(const TileShape& shape, Dtype dtype) {
  return total_bytes(shape.rows, static_cast<std::uint64_t>(shape.rows) * kBitmapColumns, dtype);
}

bool fits(const std::uint8_t* tile, std::uint64_t bytes, const TileShape& shape, Dtype dtype) {
  return head_bytes(shape.rows) <= bytes &&
         total_bytes(shape.rows, count_tile(tile, shape.rows), dtype) <= bytes;
}

constexpr NonzeroCodec kNonzeros{Read::counts, size, nullptr, write};
std::unique_ptr<Packer> packer(const PackSource& from) { return nonzero_packer(from, kNonzeros); }

}  // namespace

const TileCodec kBitmapCodec{packer, read, most, fits};

}  // namespace prunus
