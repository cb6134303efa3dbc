// How a row tile of the format dot is written: it reads whole rows of w, where the other formats get the
// nonzeros of a tile.
#pragma once
#include "formats/pack.h"
#include "formats/tiles.h"

namespace prunus {

struct DotSize {
  std::uint64_t bytes;
  std::uint64_t slots;  // values stored for places of w
};
DotSize dot_size(const KeptBits& kept, const Geometry& geo, std::int64_t t);

// How many blocks of this unit hold the kept weights.
std::uint64_t dot_blocks(const Dense& w, const KeptBits& kept, Unit unit);

// scales: of the tile's rows, for int8. bytes: what dot_size said, of out.
void dot_write(const Dense& w, const KeptBits& kept, const Geometry& geo, std::int64_t t, Dtype dtype,
               const float* scales, std::uint64_t bytes, std::uint8_t* out);

}  // namespace prunus
