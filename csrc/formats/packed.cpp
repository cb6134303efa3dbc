#include "formats/packed.h"

#include <cstring>
#include <string>

#include "formats/tiles.h"

namespace prunus {
namespace {

std::uint32_t fnv1a(const std::uint8_t* bytes, std::size_t size) {
  std::uint32_t h = 2166136261u;
  for (std::size_t i = 0; i < size; ++i) h = (h ^ bytes[i]) * 16777619u;
  return h;
}

constexpr std::size_t kChecksummed = offsetof(PackedHeader, checksum);

[[noreturn]] void refuse(const char* field, const std::string& expected, const std::string& got) {
  throw FormatError(expected_got(("packed." + std::string(field)).c_str(), expected, got));
}

bool pow2_upto(int v, int most) { return v > 0 && v <= most && (v & (v - 1)) == 0; }

bool known(Format format) {
  switch (format) {
#define X(word, number) case Format::word:
#include "formats/formats.def"
#undef X
    return true;
  }
  return false;
}

bool storable_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32:
    case Dtype::bf16:
    case Dtype::f16:
    case Dtype::i8:
      return true;
    case Dtype::f64:
      return false;
  }
  return false;
}

bool unit_fits(const PackedHeader& h) {
  const int rows = h.unit.rows, cols = h.unit.cols;
  switch (h.format) {
    case Format::nm:
      return rows > 0 && rows < cols && cols <= kMaxM && h.tile_cols % cols == 0;
    case Format::block:
      return pow2_upto(rows, kMaxBlockRows) && pow2_upto(cols, kMaxBlockCols) && h.tile_rows % rows == 0 &&
             h.tile_cols % cols == 0;
    case Format::dot:  // one tile of all columns, and rows that whole groups of 32 fit
      return (rows == 1 || rows == 4 || rows == 16 || rows == 32) && h.tile_rows % kDotGroupRows == 0 &&
             h.tile_cols >= h.k && cols * static_cast<int>(dtype_size(h.dtype)) == kDotLaneBytes;
    case Format::warp:  // rows that share a warp; one tile of all columns
      return pow2_upto(rows, 8) && cols == 1 && h.tile_rows == rows && h.tile_cols >= h.k;
    case Format::col8:
    case Format::bitmap:
      return rows == 0 && cols == 0;
  }
  return false;
}

std::string pair_text(std::uint64_t a, std::uint64_t b) {
  return std::to_string(a) + ", " + std::to_string(b);
}

// What kernels and loops assume of the header's numbers, all of it.
void check_numbers(const PackedHeader& h) {
  if (h.holes > 1) refuse("holes", "0 or 1", std::to_string(h.holes));
  if (h.n > kMaxExtent || h.k > kMaxExtent)
    refuse("shape", "n and k of at most " + std::to_string(kMaxExtent), pair_text(h.n, h.k));
  const int most_cols = most_tile_cols(h.format);
  const int rows_unit = h.format == Format::warp ? 1 : 8;
  if (h.tile_rows == 0 || h.tile_rows > kMaxTileRows || h.tile_rows % rows_unit != 0 || h.tile_cols == 0 ||
      h.tile_cols > most_cols)
    refuse("tile",
           std::to_string(rows_unit) + "..256 rows by " + std::to_string(rows_unit) + " and 1.." +
               std::to_string(most_cols) + " columns",
           pair_text(h.tile_rows, h.tile_cols));
  if (!unit_fits(h))
    refuse("unit", "one that this format has and that divides the tiles",
           pair_text(h.unit.rows, h.unit.cols));
  if (h.nnz > h.n * h.k) refuse("nnz", "at most n * k", std::to_string(h.nnz));
  const Geometry geo = geometry(h);  // its products fit: 2^31 / 8 row tiles and 2^31 column tiles
  const auto tiles =
      static_cast<std::uint64_t>(geo.row_tiles()) * static_cast<std::uint64_t>(geo.col_tiles());
  const std::uint64_t payload = h.bytes - sizeof(PackedHeader);
  if (tiles >= payload / 8 || preamble_bytes(geo, h.dtype, least_alignment(h.format)) > payload)
    refuse("bytes", "room for the offsets of " + std::to_string(tiles) + " tiles", std::to_string(h.bytes));
}

// The tiles lie behind the preamble, one after another, up to the end.
void check_offsets(const PackedView& w, const Geometry& geo) {
  const std::int64_t tiles = geo.row_tiles() * geo.col_tiles();
  const auto behind = [&](std::uint64_t alignment) {
    return tile_offset(w, 0) == preamble_bytes(geo, w.header.dtype, alignment);
  };
  require(behind(tile_alignment(w.header.format)) || behind(least_alignment(w.header.format)), "offsets",
          "tiles right after the offsets");
  require(tile_offset(w, tiles) == w.header.bytes - sizeof(PackedHeader), "offsets",
          "the last tile to end the buffer");
  bool ascending = true;
  for (std::int64_t i = 0; i < tiles; ++i) ascending &= tile_offset(w, i) <= tile_offset(w, i + 1);
  require(ascending, "offsets", "ascending offsets");
}

}  // namespace

const char* format_name(Format format) {
  switch (format) {
#define X(word, number) \
  case Format::word:    \
    return #word;
#include "formats/formats.def"
#undef X
  }
  __builtin_unreachable();
}

Format format_from_name(const std::string& name) {
  std::string words = "auto";
#define X(word, number)                   \
  if (name == #word) return Format::word; \
  words += ", " #word;
#include "formats/formats.def"
#undef X
  throw ValueError(expected_got("format", "one of " + words, "'" + name + "'"));
}

void write_header(PackedHeader header, std::uint8_t* bytes) {
  header.magic = kPackedMagic;
  header.version = kPackedVersion;
  std::memcpy(bytes, &header, sizeof header);
  header.checksum = fnv1a(bytes, kChecksummed);
  std::memcpy(bytes, &header, sizeof header);
}

PackedView read_header(const std::uint8_t* bytes, std::size_t size) {
  if (size < sizeof(PackedHeader)) refuse("size", "at least 64 bytes", std::to_string(size));
  PackedView view{};
  view.bytes = bytes;
  std::memcpy(&view.header, bytes, sizeof(PackedHeader));
  const PackedHeader& h = view.header;
  if (h.magic != kPackedMagic) refuse("magic", "'PRNS'", std::to_string(h.magic));
  if (h.version > kPackedVersion)
    refuse("version", "at most " + std::to_string(kPackedVersion) + " (update prunus to read it)",
           std::to_string(h.version));
  if (h.checksum != fnv1a(bytes, kChecksummed))
    refuse("checksum", "that of the header", std::to_string(h.checksum));
  if (!known(h.format)) refuse("format", "a known format", std::to_string(static_cast<int>(h.format)));
  if (!storable_type(h.dtype))
    refuse("dtype", "float32, bfloat16, float16 or int8", std::to_string(static_cast<int>(h.dtype)));
  if (h.format == Format::dot && !has_dot_lanes(h.dtype))
    refuse("dtype", "bfloat16 or int8 for format dot", dtype_name(h.dtype));
  if (h.bytes != size) refuse("bytes", std::to_string(h.bytes) + " bytes", std::to_string(size));
  check_numbers(h);
  return view;
}

const TileCodec& codec(Format format) {
  switch (format) {
    case Format::col8:
      return kCol8Codec;
    case Format::bitmap:
      return kBitmapCodec;
    case Format::nm:
      return kNmCodec;
    case Format::block:
      return kBlockCodec;
    case Format::dot:
      return kDotCodec;
    case Format::warp:
      return kWarpCodec;
  }
  __builtin_unreachable();
}

PackedView open_packed(const std::uint8_t* bytes, std::size_t size) {
  const PackedView view = read_header(bytes, size);
  const PackedHeader& h = view.header;
  const Geometry geo = geometry(h);
  check_offsets(view, geo);
  const TileCodec& format = codec(h.format);
  if (format.most({h.tile_rows, h.tile_cols, h.unit}, h.dtype) != kEveryTile) return view;
  for (std::int64_t i = 0; i < geo.row_tiles() * geo.col_tiles(); ++i)
    require(format.fits(tile_bytes(view, i), tile_offset(view, i + 1) - tile_offset(view, i),
                        geo.shape_of(i / geo.col_tiles(), i % geo.col_tiles()), h.dtype),
            "tiles", "tiles that hold what they count");
  return view;
}

PackedView validate_packed(const std::uint8_t* bytes, std::size_t size) {
  const PackedView view = read_header(bytes, size);
  const PackedHeader& h = view.header;
  const Geometry geo = geometry(h);
  check_offsets(view, geo);
  Entries all{};
  for (std::int64_t i = 0; i < geo.row_tiles() * geo.col_tiles(); ++i) {
    const Entries tile = codec(h.format).read(
        tile_bytes(view, i), tile_offset(view, i + 1) - tile_offset(view, i),
        geo.shape_of(i / geo.col_tiles(), i % geo.col_tiles()), h.dtype, nullptr, nullptr);
    all.count += tile.count;
    all.slots += tile.slots;
  }
  // In slots that may be holes, a weight that rounds to zero in its type cannot be told from one.
  const bool exact = !may_have_holes(h.format) || h.dtype == Dtype::f32 || h.dtype == Dtype::bf16;
  require(exact ? all.count == h.nnz : all.count <= h.nnz && h.nnz <= all.slots, "nnz",
          "as many as stored values");
  require(h.holes == (all.slots != h.nnz), "holes", "1 where slots are no kept weights, else 0");
  return view;
}

}  // namespace prunus
