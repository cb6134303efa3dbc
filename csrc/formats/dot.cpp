// dot: blocks of r rows x one lane of 32 bits. Its bytes: layout/dot.inl.h and the diagram in README.md.
#include "formats/dot.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "core/parallel.h"
#include "formats/bits.h"
#include "formats/packer.h"
#include "formats/values.h"

namespace prunus {
namespace {

#include "formats/layout/dot.inl.h"

// The lanes of a group that hold a kept weight, as bits.
void find_lanes(const KeptBits& kept, std::int64_t first_row, int rows, const DotLayout& l, int cols,
                std::uint64_t* bits) {
  std::fill_n(bits, l.words, 0);  // not memset: a weight without inputs has no words, and no bits either
  const int lanes_of_word = 64 / cols;
  for (int word = 0; word * lanes_of_word < l.lanes; ++word) {
    std::uint64_t any = 0;
    for (int i = 0; i < rows; ++i) any |= kept.row(first_row + i)[word];
    for (int lane = 0; any != 0; ++lane, any >>= cols)
      if (any & ((1u << cols) - 1)) {
        const int at = word * lanes_of_word + lane;
        bits[at / 64] |= std::uint64_t{1} << (at % 64);
      }
  }
}

int rows_of_group(const DotLayout& l, int g, int rows) { return std::min(l.r, rows - g * l.r); }

// fn(group, bits, blocks of it) for every group of row tile t.
template <typename Fn>
void for_each_group(const KeptBits& kept, const Geometry& geo, std::int64_t t, const DotLayout& l, Fn fn) {
  std::vector<std::uint64_t> bits(static_cast<std::size_t>(l.words));
  for (int g = 0; g < l.groups; ++g) {
    find_lanes(kept, t * geo.tile_rows + g * l.r, rows_of_group(l, g, geo.rows_of(t)), l, geo.unit.cols,
               bits.data());
    std::int64_t blocks = 0;
    for (const std::uint64_t word : bits) blocks += count_bits(word);
    fn(g, bits.data(), blocks);
  }
}

struct Writer {
  const Dense& w;
  const DotLayout& l;
  Dtype dtype;
  const float* scales;  // of the tile's rows, or nullptr
  std::int64_t first_row;
  int rows, cols, unit_cols;

  // One row of a group: returns the sum of its integers.
  std::int32_t row(const std::uint64_t* bits, const std::uint64_t* kept, int i, int in_group, int count,
                   std::uint8_t* values) const {
    std::int32_t sum = 0;
    with_row(w, first_row + i, [&](const auto* from) {
      int q = 0;
      for (int word = 0; word < l.words; ++word)
        for (std::uint64_t left = bits[word]; left != 0; left &= left - 1, ++q) {
          const int lane = word * 64 + __builtin_ctzll(left);
          std::uint8_t* at = values + l.block_at(q) + in_group * l.row_stride(q, count);
          for (int j = 0; j < unit_cols; ++j) {
            const int c = lane * unit_cols + j;
            if (c >= cols || !(kept[c / 64] >> (c % 64) & 1)) continue;
            std::uint8_t* to = at + j * static_cast<int>(dtype_size(dtype));
            write_value(to_float(from[c]), dtype, scales ? scales[i] : 1.0f, to);
            if (dtype == Dtype::i8) sum += static_cast<std::int8_t>(*to);
          }
        }
    });
    return sum;
  }
};

template <typename T>
T load(const std::uint8_t* p) {
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <typename T>
void store(std::uint8_t* p, T v) {
  std::memcpy(p, &v, sizeof v);
}

// The blocks of a group: checks and counts, and puts the nonzeros. Rows and columns outside of the tile hold
// zeros.
struct Reader {
  const std::uint8_t* tile;
  const DotLayout& l;
  const TileShape& shape;
  Dtype dtype;
  const std::uint8_t* scales;
  const Target* to;
  std::vector<int> row_at;           // by place
  std::vector<std::int32_t> sums{};  // by place

  Entries all{};

  void block(const std::uint8_t* at, int place, int lane) {
    const int size = static_cast<int>(dtype_size(dtype)), row = row_at[static_cast<std::size_t>(place)];
    for (int j = 0; j < shape.unit.cols; ++j, at += size) {
      const int col = lane * shape.unit.cols + j;
      all.slots += row < shape.rows && col < shape.cols;
      if (read_value(at, dtype, 1) == 0.0f) continue;
      require(row < shape.rows && col < shape.cols, "values", "zeros outside the matrix");
      ++all.count;
      if (dtype == Dtype::i8) sums[static_cast<std::size_t>(place)] += static_cast<std::int8_t>(*at);
      if (to) to->put(row, col, read_value(at, dtype, scale_at(scales, row)), at);
    }
  }
  void group(int g, const std::uint8_t* values, int count) {
    int q = 0;
    for (int word = 0; word < l.words; ++word)
      for (auto left = load<std::uint64_t>(tile + (g * l.words + word) * 8); left != 0; left &= left - 1, ++q)
        for (int i = 0; i < l.r; ++i)
          block(values + l.block_at(q) + i * l.row_stride(q, count), g * l.r + i,
                word * 64 + __builtin_ctzll(left));
  }
};

void check_places(const std::uint8_t* place, const DotLayout& l, Reader& reader) {
  const int all = l.groups * l.r;
  reader.row_at.assign(static_cast<std::size_t>(all), -1);
  for (int i = 0; i < all; ++i) {
    require(place[i] < all && reader.row_at[place[i]] < 0, "place", "a permutation of the tile's rows");
    reader.row_at[place[i]] = i;
  }
}

// Blocks of a group, by its bits; -1 where a bit is no lane of the tile.
int blocks_of(const std::uint8_t* tile, const DotLayout& l, int g) {
  int count = 0;
  for (int word = 0; word < l.words; ++word)
    count += count_bits(load<std::uint64_t>(tile + (g * l.words + word) * 8));
  const int last = l.lanes % 64;
  return last != 0 && load<std::uint64_t>(tile + (g * l.words + l.words - 1) * 8) >> last != 0 ? -1 : count;
}

// All that kernels read is where bits and counts say, and those agree and end with the tile.
bool fits(const std::uint8_t* tile, std::uint64_t bytes, const TileShape& shape, Dtype) {
  const DotLayout l(shape.rows, shape.cols, shape.unit);
  if (static_cast<std::uint64_t>(l.values_at) + DotLayout::slack > bytes) return false;
  std::int64_t before = 0;
  for (int g = 0; g <= l.groups; ++g) {
    if (load<std::uint32_t>(tile + l.first_at + g * 4) != before) return false;
    const int count = g < l.groups ? blocks_of(tile, l, g) : 0;
    if (count < 0) return false;
    before += count;
  }
  return static_cast<std::uint64_t>(l.bytes(before)) <= bytes;
}

// Whatever is in a tile, kernels must find bits and counts that agree: all tiles are looked at.
std::uint64_t most(const TileShape&, Dtype) { return kEveryTile; }

Entries read(const std::uint8_t* tile, std::uint64_t bytes, const TileShape& shape, Dtype dtype,
             const std::uint8_t* scales, const Target* to) {
  const DotLayout l(shape.rows, shape.cols, shape.unit);
  require(fits(tile, bytes, shape, dtype), "first", "the blocks that bits say, within the tile");
  Reader reader{tile, l, shape, dtype, scales, to, {}};
  reader.sums.assign(static_cast<std::size_t>(l.groups * l.r), 0);
  check_places(tile + l.place_at, l, reader);
  const auto before = [&](int g) { return std::int64_t{load<std::uint32_t>(tile + l.first_at + g * 4)}; };
  require(static_cast<std::uint64_t>(l.bytes(before(l.groups))) == bytes, "offsets", "tiles without gaps");
  for (int g = 0; g < l.groups; ++g)
    reader.group(g, tile + l.values_at + before(g) * l.block_bytes(),
                 static_cast<int>(before(g + 1) - before(g)));
  if (dtype == Dtype::i8)
    for (int i = 0; i < l.groups * l.r; ++i)
      require(load<std::int32_t>(tile + l.weights_at + i * 4) == reader.sums[tile[l.place_at + i]], "weights",
              "the sums of the rows");
  return reader.all;
}

TileSize tile_size(const PackSource& from, std::int64_t t) {
  const Geometry& geo = from.geo;
  const int rows = geo.rows_of(t), cols = geo.cols_of(0);
  const DotLayout l(rows, cols, geo.unit);
  std::int64_t blocks = 0;
  std::uint64_t slots = 0;
  for_each_group(from.kept, geo, t, l, [&](int g, const std::uint64_t* bits, std::int64_t count) {
    blocks += count;
    const int last = cols - (l.lanes - 1) * geo.unit.cols;  // columns of the last lane
    std::int64_t columns = count * geo.unit.cols;
    if (l.lanes > 0 && bits[(l.lanes - 1) / 64] >> ((l.lanes - 1) % 64) & 1) columns -= geo.unit.cols - last;
    slots += static_cast<std::uint64_t>(columns * rows_of_group(l, g, rows));
  });
  return {static_cast<std::uint64_t>(l.bytes(blocks)), slots};
}

void write_tile(const PackSource& from, std::int64_t t, const float* scales, std::uint64_t bytes,
                std::uint8_t* out) {
  const Geometry& geo = from.geo;
  const int rows = geo.rows_of(t), cols = geo.cols_of(0);
  const DotLayout l(rows, cols, geo.unit);
  std::memset(out, 0, static_cast<std::size_t>(bytes));
  const Writer writer{from.w, l, from.dtype, scales, t * geo.tile_rows, rows, cols, geo.unit.cols};
  std::int64_t before = 0;
  for (int i = 0; i < l.groups * l.r; ++i) out[l.place_at + i] = static_cast<std::uint8_t>(i);
  for_each_group(from.kept, geo, t, l, [&](int g, const std::uint64_t* bits, std::int64_t count) {
    if (l.words > 0) std::memcpy(out + g * l.words * 8, bits, static_cast<std::size_t>(l.words) * 8);
    store(out + l.first_at + g * 4, static_cast<std::uint32_t>(before));
    std::uint8_t* values = out + l.values_at + before * l.block_bytes();
    for (int i = 0; i < rows_of_group(l, g, rows); ++i) {
      const int row = g * l.r + i;
      const std::int32_t sum =
          writer.row(bits, from.kept.row(writer.first_row + row), row, i, static_cast<int>(count), values);
      if (from.dtype == Dtype::i8) store(out + l.weights_at + row * 4, sum);
    }
    before += count;
  });
  store(out + l.first_at + l.groups * 4, static_cast<std::uint32_t>(before));
}

// A tile has all columns: it is read from whole rows of w.
class RowPacker : public Packer {
 public:
  explicit RowPacker(const PackSource& from) : from_(from) {}
  TileSize size(std::int64_t t) override { return tile_size(from_, t); }
  void write(std::int64_t t, const float* scales, std::uint64_t bytes, std::uint8_t* out) override {
    write_tile(from_, t, scales, bytes, out);
  }

 private:
  const PackSource from_;
};

std::unique_ptr<Packer> packer(const PackSource& from) { return std::make_unique<RowPacker>(from); }

}  // namespace

std::uint64_t dot_blocks(const Dense& w, const KeptBits& kept, Unit unit) {
  const std::int64_t groups = (w.n + unit.rows - 1) / unit.rows;
  const auto cols = static_cast<int>(w.k);
  const DotLayout l(unit.rows, cols, unit);
  std::atomic<std::uint64_t> blocks{0};
  parallel_for(groups, [&](std::int64_t g) {
    std::vector<std::uint64_t> bits(static_cast<std::size_t>(l.words));
    const auto rows = static_cast<int>(std::min<std::int64_t>(unit.rows, w.n - g * unit.rows));
    find_lanes(kept, g * unit.rows, rows, l, unit.cols, bits.data());
    std::uint64_t here = 0;
    for (const std::uint64_t word : bits) here += static_cast<std::uint64_t>(count_bits(word));
    blocks += here;
  });
  return blocks;
}

const TileCodec kDotCodec{packer, read, most, fits};

}  // namespace prunus
