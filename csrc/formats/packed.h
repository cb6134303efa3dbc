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

const char* format_name(Format format);
Format format_from_name(const std::string& name);  // throws ValueError; "auto" is resolved by the caller

inline constexpr std::uint32_t kPackedMagic = 0x534e5250;  // "PRNS", little endian
inline constexpr std::uint8_t kPackedVersion = 1;

// What a format's index points at. nm: `rows` kept of every `cols` consecutive columns; block: rows x cols
// weights. Zero for the others.
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
  std::uint16_t tile_rows, tile_cols;  // of one tile (format's meaning)
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

// Cheap, every call: magic, version, checksum, known format and dtype, size. Throws FormatError naming the
// field.
PackedView read_header(const std::uint8_t* bytes, std::size_t size);

// Complete, once per buffer that came from outside: every offset and index is in range. Throws FormatError.
PackedView validate_packed(const std::uint8_t* bytes, std::size_t size);

}  // namespace prunus
