// What the tiled formats share: how w (n, k) is cut, where a tile lies, and the nonzeros of one tile.
#pragma once
#include <memory>
#include <string>

#include "core/check.h"
#include "formats/packed.h"

namespace prunus {

inline constexpr int kMaxTileRows = 256;  // row ids of a tile are one byte
// Where column ids are one byte; one more id is left for padding.
inline constexpr int kMaxTileCols = most_tile_cols(Format::col8);

struct TileShape {
  int rows, cols;
  Unit unit;
};

struct Geometry {
  std::int64_t n, k;
  std::int32_t tile_rows, tile_cols;
  Unit unit;
  std::int64_t row_tiles() const { return (n + tile_rows - 1) / tile_rows; }
  std::int64_t col_tiles() const { return (k + tile_cols - 1) / tile_cols; }
  int rows_of(std::int64_t t) const { return within(n, t, tile_rows); }
  int cols_of(std::int64_t b) const { return within(k, b, tile_cols); }
  TileShape shape_of(std::int64_t t, std::int64_t b) const { return {rows_of(t), cols_of(b), unit}; }

 private:
  static int within(std::int64_t extent, std::int64_t tile, std::int32_t size) {
    const std::int64_t left = extent - tile * size;
    return static_cast<int>(left < size ? left : size);
  }
};

inline Geometry geometry(const PackedHeader& h) {
  return {static_cast<std::int64_t>(h.n), static_cast<std::int64_t>(h.k), h.tile_rows, h.tile_cols, h.unit};
}

// Payload: u64 offset of every tile (row tiles outermost) and of the end; for int8 a float scale per row;
// tiles.
inline std::uint64_t tile_offset(const PackedView& w, std::int64_t index) {
  std::uint64_t offset;
  __builtin_memcpy(&offset, w.payload() + 8 * index, 8);
  return offset;
}
inline const std::uint8_t* tile_bytes(const PackedView& w, std::int64_t index) {
  return w.payload() + tile_offset(w, index);
}

// Bytes of the offsets, and of offsets and scales together: where the scales and the first tile begin.
inline std::uint64_t offsets_bytes(const Geometry& geo) {
  return 8 * (static_cast<std::uint64_t>(geo.row_tiles()) * static_cast<std::uint64_t>(geo.col_tiles()) + 1);
}
inline std::uint64_t preamble_bytes(const Geometry& geo, Dtype dtype, std::uint64_t unit) {
  const std::uint64_t scales = dtype == Dtype::i8 ? static_cast<std::uint64_t>(geo.n) * sizeof(float) : 0;
  return (offsets_bytes(geo) + scales + unit - 1) / unit * unit;
}
// Tiles of which whole lines are loaded lie at multiples of 64, as the header is 64 bytes long. Those of dot
// did not before (decision 0050).
inline std::uint64_t tile_alignment(Format format) {
  return format == Format::warp || format == Format::dot ? 64 : 8;
}
inline std::uint64_t least_alignment(Format format) { return format == Format::warp ? 64 : 8; }
// Scale of `row`, at any alignment; nullptr unless the values are int8.
inline const std::uint8_t* row_scales(const PackedView& w, std::int64_t row) {
  if (w.header.dtype != Dtype::i8) return nullptr;
  return w.payload() + offsets_bytes(geometry(w.header)) + static_cast<std::uint64_t>(row) * sizeof(float);
}

inline constexpr int kBitmapColumns = most_tile_cols(Format::bitmap);  // one word of bits
inline constexpr int kMaxM = 16, kMaxBlockRows = 32, kMaxBlockCols = 16;

inline constexpr int kDotLaneBytes = 4, kDotGroupRows = 32;  // sums of dot come in such groups
// The types that dot instructions multiply.
inline bool has_dot_lanes(Dtype dtype) { return dtype == Dtype::i8 || dtype == Dtype::bf16; }

inline bool may_have_holes(Format f) {
  return f == Format::nm || f == Format::block || f == Format::dot || f == Format::warp;
}

inline int round_up(int v, int multiple) { return (v + multiple - 1) / multiple * multiple; }

// Rows of one lock-step group: tiles and accumulators are whole groups.
inline int group_rows(Format format, Unit unit) {
  if (format == Format::dot) return kDotGroupRows;
  return format == Format::block && unit.rows > 8 ? unit.rows : 8;
}
inline int group_rows(const PackedHeader& h) { return group_rows(h.format, h.unit); }

// For codecs: a FormatError that names the field.
[[noreturn]] inline void refuse(const char* field, const char* expected) {
  throw FormatError("packed." + std::string(field) + ": expected " + expected + ", got a corrupt buffer");
}
inline void require(bool ok, const char* field, const char* expected) {
  if (__builtin_expect(!ok, 0)) refuse(field, expected);
}

// Where a tile's entries go, for a dense (n, k): their values, or where those are, counted from `bytes`.
struct Target {
  float* data;
  std::int64_t stride;
  std::uint32_t* places = nullptr;
  const std::uint8_t* bytes = nullptr;
  void put(int row, int col, float value, const std::uint8_t* at) const {
    const std::int64_t i = row * stride + col;
    if (places)
      places[i] = static_cast<std::uint32_t>(at - bytes);
    else
      data[i] = value;
  }
};

// What a tile holds: entries of w, and values stored for places of w (as many, unless there are holes).
struct Entries {
  std::uint64_t count, slots;
};

struct PackSource;
class Packer;

// One format: how a tile becomes bytes and back. `dtype` is that of the stored values.
struct TileCodec {
  std::unique_ptr<Packer> (*packer)(const PackSource& from);  // packer.h
  // Checks everything the kernels rely on (FormatError), and writes the entries when `to` is given.
  Entries (*read)(const std::uint8_t* tile, std::uint64_t bytes, const TileShape& shape, Dtype dtype,
                  const std::uint8_t* scales, const Target* to);
  // The bytes of a tile that kernels may read at most, whatever is in it.
  std::uint64_t (*most)(const TileShape& shape, Dtype dtype);
  // Those that they read of this tile are within `bytes`. Cheap: it is asked of many tiles in every call.
  bool (*fits)(const std::uint8_t* tile, std::uint64_t bytes, const TileShape& shape, Dtype dtype);
};

extern const TileCodec kCol8Codec, kBitmapCodec, kNmCodec, kBlockCodec, kDotCodec, kWarpCodec;
const TileCodec& codec(Format format);

// `most` of a format whose tiles are looked at whatever lies behind them: open_packed does, once a call.
inline constexpr std::uint64_t kEveryTile = std::uint64_t{1} << 62;

// The tiles of a packed weight as kernels get them, each proved to keep them in the buffer. Not beforehand:
// asked for all tiles at the start of a call, this cost one token 5 % of a small layer.
class SafeTiles {
 public:
  explicit SafeTiles(const PackedView& w)
      : w_(w),
        codec_(codec(w.header.format)),
        payload_(w.header.bytes - sizeof(PackedHeader)),
        most_(codec_.most({w.header.tile_rows, w.header.tile_cols, w.header.unit}, w.header.dtype)) {
    if (most_ == kEveryTile) most_ = 0;
  }

  const std::uint8_t* tile(std::int64_t index, const TileShape& shape) const {
    const std::uint64_t begin = tile_offset(w_, index);  // once: somebody may be writing
    const std::uint8_t* const bytes = w_.payload() + begin;
    // One that far from the end keeps kernels in the buffer whatever is in it.
    if (__builtin_expect(payload_ - begin < most_ || begin > payload_, 0))
      check_last(index, begin, bytes, shape);
    return bytes;
  }

 private:
  void check_last(std::int64_t index, std::uint64_t begin, const std::uint8_t* bytes,
                  const TileShape& shape) const {
    const std::uint64_t end = tile_offset(w_, index + 1);
    require(begin <= end && end <= payload_, "offsets", "ascending offsets");
    require(codec_.fits(bytes, end - begin, shape, w_.header.dtype), "tiles",
            "tiles that hold what they count");
  }

  const PackedView& w_;
  const TileCodec& codec_;
  std::uint64_t payload_, most_;
};

// The smallest number of equal tiles of at most `target`: no narrow last one.
inline std::int32_t even_tiles(std::int64_t extent, std::int32_t target) {
  if (extent <= target) return extent > 0 ? static_cast<std::int32_t>(extent) : target;
  const std::int64_t tiles = (extent + target - 1) / target;
  return static_cast<std::int32_t>((extent + tiles - 1) / tiles);
}

}  // namespace prunus
