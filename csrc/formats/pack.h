// Dense weight + mask -> packed weight, and back. Format-independent; formats/<format>.cpp knows the bytes of
// a tile.
#pragma once
#include <vector>

#include "formats/packed.h"

namespace prunus {

// Dense weight (n, k), row stride in elements; mask (n, k) bytes or nullptr. Zeros and subnormals are not
// stored.
struct Dense {
  const void* data;
  Dtype dtype;
  std::int64_t n, k, stride;
  const std::uint8_t* mask;
  std::int64_t mask_stride;
};

// A bit per weight: kept and storable. Rows of whole words and an empty one, bit j % 64 of word j / 64.
struct KeptBits {
  std::int64_t words = 0;  // per row
  std::vector<std::uint64_t> bits;
  const std::uint64_t* row(std::int64_t r) const { return bits.data() + r * words; }
};

struct Kept {
  KeptBits bits;
  std::uint64_t count;
};
Kept find_kept(const Dense& w);
double density(const Dense& w, const Kept& kept);  // share of kept weights

// How w is to be stored: decided by ops/policy.
struct Choice {
  Format format;
  Unit unit;
  std::int32_t tile_rows, tile_cols;
};

// Two steps so that the caller owns the buffer: plan its bytes, then fill them. Both parallel.
struct Layout {
  PackedHeader header;
  std::vector<std::uint64_t> offsets;  // of every tile, and the end
  std::vector<float> scales;           // per row, for int8
  KeptBits kept;
};

Layout plan_layout(const Dense& w, Dtype dtype, Kept kept, const Choice& choice);
void pack(const Dense& w, const Layout& layout, std::uint8_t* out);  // out: layout.header.bytes

void unpack(const PackedView& w, float* out, std::int64_t stride);  // the stored values, zeros elsewhere

}  // namespace prunus
