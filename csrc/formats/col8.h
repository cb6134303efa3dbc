// col8: 8-bit columns in lock-step groups of 8 rows. Byte diagram in csrc/README.md.
//
// w (n, k) is cut into tiles of tile_rows x tile_cols (<= 256 x 255). In a tile the rows are sorted by their
// count of nonzeros (most first) and taken 8 at a time: a group. A group is walked in lock-step: step q holds
// the q-th nonzero of each of its 8 rows, so one text serves many tokens (a row is a lane, read at stride 8)
// and one token (8 rows are 8 SIMD lanes). Sorting keeps the padding at 1-3 % and the trip counts
// predictable.
#pragma once
#include <vector>

#include "formats/packed.h"

namespace prunus::col8 {

inline constexpr int kGroup = 8;          // rows in lock-step
inline constexpr int kMaxTileRows = 256;  // row ids of a tile are one byte
inline constexpr int kMaxTileCols = 255;  // one byte, and one more id for padding: the panel's zero column

// One tile, ready for a kernel.
struct Slice {
  const std::uint8_t* order;   // [groups * 8] row in tile of each lane
  const std::uint8_t* steps;   // [groups] descending
  const std::uint8_t* groups;  // per group: values [steps][8], then columns u8 [steps][8]
  std::int32_t group_count;
};

struct Geometry {
  std::int64_t n, k;
  std::int32_t tile_rows, tile_cols;
  std::int64_t row_tiles() const { return tile_rows ? (n + tile_rows - 1) / tile_rows : 0; }
  std::int64_t col_tiles() const { return tile_cols ? (k + tile_cols - 1) / tile_cols : 0; }
  std::int64_t rows_of(std::int64_t t) const {
    return n - t * tile_rows < tile_rows ? n - t * tile_rows : tile_rows;
  }
  std::int64_t cols_of(std::int64_t b) const {
    return k - b * tile_cols < tile_cols ? k - b * tile_cols : tile_cols;
  }
};

inline Geometry geometry(const PackedHeader& h) {
  return {static_cast<std::int64_t>(h.n), static_cast<std::int64_t>(h.k), h.tile_rows, h.tile_cols};
}

// Bytes from the payload's start to tile (t, b); index row_tiles * col_tiles is the end.
inline std::uint64_t tile_offset(const PackedView& w, std::int64_t index) {
  std::uint64_t offset;
  __builtin_memcpy(&offset, w.payload() + 8 * index, 8);
  return offset;
}

Slice slice(const PackedView& w, std::int64_t t, std::int64_t b);

// Dense weight (n, k), row stride in elements; mask (n, k) bytes or nullptr. Zeros and subnormals are not
// stored.
struct Dense {
  const void* data;
  Dtype dtype;
  std::int64_t n, k, stride;
  const std::uint8_t* mask;
  std::int64_t mask_stride;
};

// Two steps so that the caller owns the buffer: plan the bytes, then fill them. Parallel over row tiles.
struct Layout {
  PackedHeader header;
  std::vector<std::uint64_t> offsets;  // of every tile, and the end
};
Layout plan(const Dense& w);
void pack(const Dense& w, const Layout& layout, std::uint8_t* out);  // out: layout.header.bytes

void unpack(const PackedView& w, float* out, std::int64_t stride);  // exact inverse, zeros elsewhere
void validate(const PackedView& w);                                 // throws FormatError

}  // namespace prunus::col8
