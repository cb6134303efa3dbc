#include "formats/packed.h"

#include <cstring>
#include <string>

#include "formats/col8.h"

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

}  // namespace

const char* format_name(Format format) {
  switch (format) {
    case Format::col8:
      return "col8";
  }
  return "?";
}

Format format_from_name(const std::string& name) {
  if (name == "col8") return Format::col8;
  throw ValueError(expected_got("format", "auto or col8", "'" + name + "'"));
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
  if (h.format != Format::col8)
    refuse("format", "a known format", std::to_string(static_cast<int>(h.format)));
  if (h.dtype != Dtype::f32) refuse("dtype", "float32", std::to_string(static_cast<int>(h.dtype)));
  if (h.bytes != size) refuse("bytes", std::to_string(h.bytes) + " bytes", std::to_string(size));
  return view;
}

PackedView validate_packed(const std::uint8_t* bytes, std::size_t size) {
  const PackedView view = read_header(bytes, size);
  col8::validate(view);
  return view;
}

}  // namespace prunus
