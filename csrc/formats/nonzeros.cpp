// The nonzeros of a tile, for formats that list them.
#include "formats/bits.h"
#include "formats/packer.h"
#include "formats/values.h"

namespace prunus {
namespace {

void read_row(const Dense& w, const std::uint64_t* kept, std::int64_t r, std::int64_t c, Read what, int i,
              TileRows& tile) {
  int count = 0;
  if (what == Read::counts) {
    for (int j = 0; j < tile.cols; j += 64) count += count_bits(bits_from(kept, c + j, tile.cols - j));
  } else if (what == Read::columns) {
    for_each_kept(kept, c, tile.cols,
                  [&](std::int64_t j) { tile.columns[i][count++] = static_cast<std::uint8_t>(j); });
  } else {
    with_row(w, r, [&](const auto* row) {
      for_each_kept(kept, c, tile.cols, [&](std::int64_t j) {
        tile.columns[i][count] = static_cast<std::uint8_t>(j);
        tile.values[i][count++] = to_float(row[c + j]);
      });
    });
  }
  tile.count[i] = count;
}

class NonzeroPacker : public Packer {
 public:
  NonzeroPacker(const PackSource& from, const NonzeroCodec& codec) : from_(from), codec_(codec) {}

  TileSize size(std::int64_t index) override {
    read(index, codec_.for_size);
    return {codec_.size(tile_, from_.dtype), codec_.slots ? codec_.slots(tile_) : 0};
  }
  void write(std::int64_t index, const float* scales, std::uint64_t, std::uint8_t* out) override {
    read(index, Read::values);
    codec_.write(tile_, from_.dtype, scales, out);
  }

 private:
  void read(std::int64_t index, Read what) {
    const Geometry& geo = from_.geo;
    const std::int64_t t = index / geo.col_tiles(), b = index % geo.col_tiles();
    tile_.rows = geo.rows_of(t);
    tile_.cols = geo.cols_of(b);
    tile_.unit = geo.unit;
    for (int i = 0; i < tile_.rows; ++i) {
      const std::int64_t row = t * geo.tile_rows + i;
      read_row(from_.w, from_.kept.row(row), row, b * geo.tile_cols, what, i, tile_);
    }
  }

  const PackSource from_;
  const NonzeroCodec& codec_;
  TileRows tile_;  // 330 KB
};

}  // namespace

std::unique_ptr<Packer> nonzero_packer(const PackSource& from, const NonzeroCodec& codec) {
  return std::make_unique<NonzeroPacker>(from, codec);
}

}  // namespace prunus
