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

void check_unit(const PackedHeader& h) {
  const int rows = h.unit.rows, cols = h.unit.cols;
  if (h.holes > 1) refuse("holes", "0 or 1", std::to_string(h.holes));
  const bool ok = h.format == Format::nm ? rows > 0 && rows < cols && cols <= kMaxM && h.tile_cols % cols == 0
                  : h.format == Format::block
                      ? pow2_upto(rows, kMaxBlockRows) && pow2_upto(cols, kMaxBlockCols) &&
                            h.tile_rows % rows == 0 && h.tile_cols % cols == 0 && h.tile_cols <= 240
                      : rows == 0 && cols == 0;
  if (!ok)
    refuse("unit", "one that this format has and that divides the tiles",
           std::to_string(rows) + ", " + std::to_string(cols));
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
  if (h.bytes != size) refuse("bytes", std::to_string(h.bytes) + " bytes", std::to_string(size));
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
  }
  __builtin_unreachable();
}

PackedView validate_packed(const std::uint8_t* bytes, std::size_t size) {
  const PackedView view = read_header(bytes, size);
  const PackedHeader& h = view.header;
  const auto require = [](bool ok, const char* field, const std::string& expected) {
    if (!ok) refuse(field, expected, "a corrupt buffer");
  };
  require(h.n <= (1ull << 40) && h.k <= (1ull << 40), "shape", "n and k below 2^40");
  check_unit(h);
  require(h.tile_rows > 0 && h.tile_rows <= kMaxTileRows && h.tile_rows % 8 == 0, "tile_rows", "8..256 by 8");
  require(h.tile_cols > 0 && h.tile_cols <= kMaxTileCols, "tile_cols", "1..255");
  const Geometry geo = geometry(h);
  const std::uint64_t payload = h.bytes - sizeof(PackedHeader);
  const std::size_t tiles =
      checked_mul(static_cast<std::size_t>(geo.row_tiles()), static_cast<std::size_t>(geo.col_tiles()));
  require(tiles < payload / 8 && preamble_bytes(geo, h.dtype) <= payload, "bytes", "room for the offsets");
  require(tile_offset(view, 0) == preamble_bytes(geo, h.dtype), "offsets", "tiles right after the offsets");
  require(tile_offset(view, static_cast<std::int64_t>(tiles)) == payload, "offsets",
          "the last tile to end the buffer");
  std::uint64_t nnz = 0;
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(tiles); ++i) {
    const std::uint64_t begin = tile_offset(view, i), end = tile_offset(view, i + 1);
    require(begin <= end && end <= payload, "offsets", "ascending offsets");
    nnz += codec(h.format).read(tile_bytes(view, i), end - begin,
                                geo.shape_of(i / geo.col_tiles(), i % geo.col_tiles()), h.dtype, nullptr,
                                nullptr);
  }
  // In slots that may be holes, a weight that rounds to zero in its type cannot be told from one.
  const bool exact = !may_have_holes(h.format) || h.dtype == Dtype::f32 || h.dtype == Dtype::bf16;
  require(exact ? nnz == h.nnz : nnz <= h.nnz, "nnz", std::to_string(h.nnz) + " stored values");
  require(h.nnz <= h.n * h.k, "nnz", "at most n * k");
  return view;
}

}  // namespace prunus
