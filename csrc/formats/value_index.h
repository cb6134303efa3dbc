// Where the kept weights of a packed weight are, one after another in row-major order of w: what training on
// its values needs besides the packed bytes.
#pragma once
#include <vector>

#include "formats/packed.h"

namespace prunus {

inline constexpr int kIndexCols = 128;  // of one column tile of KeptColumns
inline std::int64_t index_tiles(std::int64_t k) { return (k + kIndexCols - 1) / kIndexCols; }

// Row r has in column tile t the entries first[r * tiles + t] up to the next of `first`; the last is nnz.
// column: of each entry, in its tile.
struct KeptColumns {
  std::vector<std::int32_t> first;
  std::vector<std::uint8_t> column;
};

// Both read every tile as unpack does. FormatError: damaged bytes. ValueError: more kept weights or bytes
// than 31 bits count.
KeptColumns kept_columns(const PackedView& w);
// Where in the buffer the value of each kept weight is: in row-major order, or column after column.
std::vector<std::int32_t> value_places(const PackedView& w, bool by_column);

// What a kept zero is stored as: the least normal number, so that the mask can be read back from the bytes.
inline constexpr float kLeastValue = 0x1p-126f;

// values[i] to place[i] of the buffer, as float32. Throws ValueError at a place outside of the payload. type:
// of the values, f32, bf16 or f16.
void write_values(const void* values, Dtype type, const std::int32_t* place, std::int64_t count,
                  std::uint8_t* buffer, std::size_t size);

}  // namespace prunus
