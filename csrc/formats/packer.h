// From w to the tiles of a format: what pack.cpp asks a format for. Most formats list the nonzeros of a tile
// (NonzeroCodec); dot reads whole rows of w.
#pragma once
#include <memory>

#include "formats/pack.h"
#include "formats/tiles.h"

namespace prunus {

// What is packed; dtype: of the stored values.
struct PackSource {
  const Dense& w;
  const KeptBits& kept;
  Geometry geo;
  Dtype dtype;
};

struct TileSize {
  std::uint64_t bytes;  // a multiple of 8
  std::uint64_t slots;  // values stored for places of w, in formats that may have holes
};

// Of one thread: it may keep what it needs for a tile.
class Packer {
 public:
  virtual ~Packer() = default;
  virtual TileSize size(std::int64_t tile) = 0;
  // scales: of the tile's rows, for int8, or nullptr. bytes: what size said, of out.
  virtual void write(std::int64_t tile, const float* scales, std::uint64_t bytes, std::uint8_t* out) = 0;
};

// The nonzeros of one dense tile, by row.
struct TileRows {
  int rows, cols;
  Unit unit;
  int count[kMaxTileRows];
  std::uint8_t columns[kMaxTileRows][kMaxTileCols + 1];
  float values[kMaxTileRows][kMaxTileCols + 1];
};

// What of a tile is needed: how many a row has, where they are, or what they are too.
enum class Read { counts, columns, values };

struct NonzeroCodec {
  Read for_size;
  std::uint64_t (*size)(const TileRows& tile, Dtype dtype);
  std::uint64_t (*slots)(const TileRows& tile);  // nullptr: no holes
  void (*write)(const TileRows& tile, Dtype dtype, const float* scales, std::uint8_t* out);
};
std::unique_ptr<Packer> nonzero_packer(const PackSource& from, const NonzeroCodec& codec);

}  // namespace prunus
