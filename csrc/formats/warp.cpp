// warp: for CUDA, the kept weights of a few rows as one warp reads them. Its bytes: layout/warp.inl.h and the
// diagram in README.md.
#include <algorithm>
#include <cstring>
#include <vector>

#include "formats/bits.h"
#include "formats/packer.h"
#include "formats/values.h"

namespace prunus {
namespace {

#include "formats/layout/warp.inl.h"

constexpr int kLanes = WarpLayout::lanes, kEight = WarpLayout::eight;

std::uint64_t step_bytes(Dtype dtype) {
  return static_cast<std::uint64_t>(WarpLayout::step_bytes(static_cast<int>(dtype_size(dtype))));
}

// Slots between two kept weights that only bridge the gap.
int bridges(std::int64_t from, std::int64_t to) {
  return static_cast<int>((to - from - 1) / (WarpLayout::most_skipped + 1));
}

// The kept columns of one row, and the part of them that lane `i` of `lanes` walks.
struct Row {
  std::vector<std::int32_t> columns;

  void read(const KeptBits& kept, std::int64_t row, std::int64_t k) {
    columns.clear();
    for_each_kept(kept.row(row), 0, k,
                  [&](std::int64_t c) { columns.push_back(static_cast<std::int32_t>(c)); });
  }
  std::size_t first(int i, int lanes) const {
    return columns.size() * static_cast<std::size_t>(i) / static_cast<std::size_t>(lanes);
  }
  int slots(int i, int lanes) const {
    int slots = 0;
    for (std::size_t j = first(i, lanes); j < first(i + 1, lanes); ++j)
      slots += 1 + (j == first(i, lanes) ? 0 : bridges(columns[j - 1], columns[j]));
    return slots;
  }
};

// Where slot `q` of a lane lies in a tile: its value, and the bits of its gap.
struct Slot {
  std::uint64_t value, gaps;
  int shift;
};
Slot slot_at(int lane, int q, Dtype dtype) {
  const std::uint64_t size = dtype_size(dtype),
                      step = WarpLayout::head + static_cast<std::uint64_t>(q / kEight) * step_bytes(dtype);
  return {step + static_cast<std::uint64_t>(lane * kEight + q % kEight) * size,
          step + static_cast<std::uint64_t>(WarpLayout::gaps_at(static_cast<int>(size)) + lane * 4),
          q % kEight * 4};
}

void put_gap(std::uint8_t* tile, const Slot& slot, std::uint32_t skipped) {
  std::uint32_t gaps;
  std::memcpy(&gaps, tile + slot.gaps, sizeof gaps);
  gaps |= skipped << slot.shift;
  std::memcpy(tile + slot.gaps, &gaps, sizeof gaps);
}

class WarpPacker : public Packer {
 public:
  explicit WarpPacker(const PackSource& from) : from_(from) {}

  TileSize size(std::int64_t t) override {
    int most = 0;
    for (int r = 0; r < from_.geo.rows_of(t); ++r) {
      row_.read(from_.kept, t * from_.geo.tile_rows + r, from_.geo.k);
      for (int i = 0; i < lanes(); ++i) most = std::max(most, row_.slots(i, lanes()));
    }
    const auto steps = static_cast<std::uint64_t>((most + kEight - 1) / kEight);
    return {WarpLayout::head + steps * step_bytes(from_.dtype), steps * kLanes * kEight};
  }

  void write(std::int64_t t, const float* scales, std::uint64_t bytes, std::uint8_t* out) override {
    std::memset(out, 0, static_cast<std::size_t>(bytes));
    for (int r = 0; r < from_.geo.rows_of(t); ++r) {
      const std::int64_t row = t * from_.geo.tile_rows + r;
      row_.read(from_.kept, row, from_.geo.k);
      with_row(from_.w, row, [&](const auto* values) {
        for (int i = 0; i < lanes(); ++i) write_lane(values, i, r * lanes() + i, scales ? scales[r] : 1, out);
      });
    }
  }

 private:
  int lanes() const { return kLanes / from_.geo.tile_rows; }

  template <typename T>
  void write_lane(const T* values, int i, int lane, float scale, std::uint8_t* out) const {
    const std::size_t first = row_.first(i, lanes()), end = row_.first(i + 1, lanes());
    int q = 0;
    std::int32_t before = 0;
    for (std::size_t j = first; j < end; ++j, ++q) {
      const std::int32_t column = row_.columns[j];
      if (j == first) {
        const auto start = static_cast<std::uint16_t>(column);
        std::memcpy(out + lane * 2, &start, sizeof start);
        before = column - 1;
      }
      for (; column - before - 1 > WarpLayout::most_skipped; ++q, before += WarpLayout::most_skipped + 1)
        put_gap(out, slot_at(lane, q, from_.dtype), WarpLayout::most_skipped);
      const Slot slot = slot_at(lane, q, from_.dtype);
      put_gap(out, slot, static_cast<std::uint32_t>(column - before - 1));
      write_value(to_float(values[column]), from_.dtype, scale, out + slot.value);
      before = column;
    }
  }

  const PackSource from_;
  Row row_;
};

std::unique_ptr<Packer> packer(const PackSource& from) { return std::make_unique<WarpPacker>(from); }

// Kernels read whole steps of those that fit.
std::uint64_t most(const TileShape&, Dtype) { return WarpLayout::head; }
bool fits(const std::uint8_t*, std::uint64_t bytes, const TileShape&, Dtype) {
  return bytes >= static_cast<std::uint64_t>(WarpLayout::head);
}

// One lane: returns how many of its slots hold a value.
std::uint64_t read_lane(const std::uint8_t* tile, int lane, int slots, const TileShape& shape, Dtype dtype,
                        const std::uint8_t* scales, const Target* to) {
  const int row = lane / (kLanes / shape.unit.rows);
  std::uint16_t start;
  std::memcpy(&start, tile + lane * 2, sizeof start);
  std::uint64_t count = 0;
  std::int64_t column = std::int64_t{start} - 1;
  for (int q = 0; q < slots; ++q) {
    const Slot slot = slot_at(lane, q, dtype);
    std::uint32_t gaps;
    std::memcpy(&gaps, tile + slot.gaps, sizeof gaps);
    column += 1 + (gaps >> slot.shift & 15);
    if (read_value(tile + slot.value, dtype, 1) == 0.0f) continue;
    require(row < shape.rows && column < shape.cols, "values", "zeros outside the matrix");
    ++count;
    if (to)
      to->put(row, static_cast<int>(column), read_value(tile + slot.value, dtype, scale_at(scales, row)),
              tile + slot.value);
  }
  return count;
}

Entries read(const std::uint8_t* tile, std::uint64_t bytes, const TileShape& shape, Dtype dtype,
             const std::uint8_t* scales, const Target* to) {
  require(bytes >= static_cast<std::uint64_t>(WarpLayout::head) &&
              (bytes - WarpLayout::head) % step_bytes(dtype) == 0,
          "offsets", "tiles of whole steps");
  const std::uint64_t steps = (bytes - WarpLayout::head) / step_bytes(dtype);
  // A lane has at most as many slots as columns, to the next eight.
  require(steps * kEight < static_cast<std::uint64_t>(shape.cols) + kEight, "offsets", "steps within k");
  Entries all{0, steps * kLanes * kEight};
  for (int lane = 0; lane < kLanes; ++lane)
    all.count += read_lane(tile, lane, static_cast<int>(steps) * kEight, shape, dtype, scales, to);
  return all;
}

}  // namespace

const TileCodec kWarpCodec{packer, read, most, fits};

}  // namespace prunus
