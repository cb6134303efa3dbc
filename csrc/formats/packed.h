// A packed weight: one run of bytes, a 64-byte header and a payload. Plain data, shared by every layer above
// core.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "core/dtype.h"

namespace prunus {

enum class Format : std::uint8_t {
#define X(format, number) format = number,
#include "formats/formats.def"
#undef X
};

inline constexpr int kFormats = 8;  // room for all numbers, in tables by format

// The most columns of a tile, by format: what its kernels take and what read_header lets pass. Ids are one
// byte, and one is left for padding (col8, nm) or a block's width (block); a bitmap's row is one word; sums
// of dot are products of 255 and 127 in 31 bits; with warp the inputs of a token lie in shared memory.
inline constexpr int kMostTileCols[kFormats] = {0, 255, 64, 255, 240, 65535, 40960};
constexpr int most_tile_cols(Format format) { return kMostTileCols[static_cast<int>(format)]; }
static_assert(std::int64_t{255} * 127 * most_tile_cols(Format::dot) < std::int64_t{1} << 31);
// The most rows and columns of w: more is no weight but an attack on loops over rows.
inline constexpr std::uint64_t kMaxExtent = (std::uint64_t{1} << 31) - 1;

const char* format_name(Format format);
Format format_from_name(const std::string& name);  // throws ValueError; "auto" is resolved by the caller

inline constexpr std::uint32_t kPackedMagic = 0x534e5250;  // "PRNS", little endian
inline constexpr std::uint8_t kPackedVersion = 1;

// What a format's index points at. nm: `rows` kept of every `cols` consecutive columns; block: rows x cols
// weights, and so dot, whose columns are one lane of 32 bits; warp: the rows that share one, and 1. Zero for
// the others.
struct Unit {
  std::uint16_t rows, cols;
};

// First 64 bytes of every packed weight. Little endian; fields beyond the known are zero.
struct PackedHeader {
  std::uint32_t magic;
  std::uint8_t version;
  Format format;
  Dtype dtype;                         // of the stored values
  std::uint8_t holes;                  // 1: some stored slots are zeros of w, which kernels multiply
  std::uint64_t n, k, nnz;             // w is (n, k) with nnz kept entries
  std::uint64_t bytes;                 // of the whole buffer, header included
  std::uint16_t tile_rows, tile_cols;  // of one tile (format's meaning; most_tile_cols)
  Unit unit;
  std::uint32_t reserved[3];
  std::uint32_t checksum;  // FNV-1a of the 60 bytes before it: a random buffer is refused at every call
};
static_assert(sizeof(PackedHeader) == 64 && offsetof(PackedHeader, checksum) == 60,
              "the header is 64 bytes on disk, the checksum its last 4");

// Read access to a packed weight. The bytes need no alignment; header is a copy.
struct PackedView {
  PackedHeader header;
  const std::uint8_t* bytes;  // of the whole buffer
  const std::uint8_t* payload() const { return bytes + sizeof(PackedHeader); }
};

// Fills magic, version, checksum.
void write_header(PackedHeader header, std::uint8_t* bytes);

// Three doors, each behind the one before it. All throw FormatError naming the field.
// The 64 bytes: magic, version, checksum, size, and that every field is one that kernels and loops take.
PackedView read_header(const std::uint8_t* bytes, std::size_t size);

// For every product: the offsets ascend. Whatever else the bytes say, no kernel leaves the buffer, its panel
// or its sums: SafeTiles (tiles.h) looks at each tile near the buffer's end before a kernel does, and indices
// need no look, because panels and sums have room for every value that an index can have
// (ops/panels/panel.h). Damaged indices so give a wrong answer, never a crash.
PackedView open_packed(const std::uint8_t* bytes, std::size_t size);

// Complete, once per buffer that came from outside: every offset, index and count is what pack would write.
PackedView validate_packed(const std::uint8_t* bytes, std::size_t size);

}  // namespace prunus
