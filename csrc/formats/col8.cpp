#include "formats/col8.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/parallel.h"

namespace prunus::col8 {
namespace {

constexpr std::uint64_t round8(std::uint64_t v) { return (v + 7) & ~std::uint64_t{7}; }

// Bytes of one step: 8 values and 8 columns.
constexpr std::uint64_t kStepBytes = kGroup * (sizeof(float) + 1);

std::int32_t even_tiles(std::int64_t extent, std::int32_t target) {
  if (extent == 0) return target;
  const std::int64_t tiles = (extent + target - 1) / target;
  return static_cast<std::int32_t>((extent + tiles - 1) / tiles);
}

// Row tiles: as tall as one byte allows, but at least 4 of them, so that threads have something to share.
std::int32_t choose_tile_rows(std::int64_t n) {
  std::int32_t rows =
      even_tiles(n, n >= 4 * kMaxTileRows ? kMaxTileRows : static_cast<std::int32_t>((n + 3) / 4));
  rows = static_cast<std::int32_t>(round8(std::max(rows, 1)));
  return std::min(rows, kMaxTileRows);
}

// Column tiles: a strip of tokens x tile_cols must stay in L1 (measured best: 96-128 columns while the weight
// is dense enough to use them, 192-255 when segments get short). csrc/README.md, 2026-11-23.
std::int32_t choose_tile_cols(std::int64_t k, double density) {
  return even_tiles(k, density > 0.15 ? 96 : 192);
}

// The nonzeros of one row of a tile: columns and values. Subnormals count as zeros.
template <typename T>
int scan_row(const T* row, const std::uint8_t* mask, std::int64_t cols, std::uint8_t* columns,
             float* values) {
  int count = 0;
  for (std::int64_t j = 0; j < cols; ++j) {
    const float v = to_float(row[j]);
    columns[count] = static_cast<std::uint8_t>(j);  // branch-free: overwritten unless kept
    values[count] = v;
    count += (!(std::fabs(v) < 1.17549435e-38f)) & (mask == nullptr || mask[j] != 0);
  }
  return count;
}

struct RowReader {
  const Dense& w;
  int operator()(std::int64_t r, std::int64_t c0, std::int64_t cols, std::uint8_t* columns,
                 float* values) const {
    const std::int64_t at = r * w.stride + c0;
    const std::uint8_t* mask = w.mask ? w.mask + r * w.mask_stride + c0 : nullptr;
    switch (w.dtype) {
      case Dtype::f64:
        return scan_row(static_cast<const double*>(w.data) + at, mask, cols, columns, values);
      case Dtype::f16:
        return scan_row(static_cast<const f16_t*>(w.data) + at, mask, cols, columns, values);
      case Dtype::bf16:
        return scan_row(static_cast<const bf16_t*>(w.data) + at, mask, cols, columns, values);
      default:
        return scan_row(static_cast<const float*>(w.data) + at, mask, cols, columns, values);
    }
  }
};

// Lanes of a tile in walking order: stable, most nonzeros first. Lanes past the last row have count 0.
struct Order {
  std::uint8_t row[kMaxTileRows];
  int count[kMaxTileRows];  // by position in row[]
  int groups;
};

Order sort_rows(const int* counts, int rows) {
  Order o{};
  o.groups = (rows + kGroup - 1) / kGroup;
  int first[kMaxTileCols + 2] = {};
  for (int r = 0; r < rows; ++r) ++first[counts[r]];
  for (int c = kMaxTileCols, at = 0; c >= 0; --c) {
    const int many = first[c];
    first[c] = at;
    at += many;
  }
  for (int r = 0; r < rows; ++r) {
    const int at = first[counts[r]]++;
    o.row[at] = static_cast<std::uint8_t>(r);
    o.count[at] = counts[r];
  }
  for (int r = rows; r < o.groups * kGroup; ++r) o.row[r] = static_cast<std::uint8_t>(r);
  return o;
}

std::uint64_t head_bytes(std::int64_t groups) {
  return round8(static_cast<std::uint64_t>(groups) * (kGroup + 1));
}

std::uint64_t tile_bytes(const Order& o) {
  std::uint64_t steps = 0;
  for (int g = 0; g < o.groups; ++g) steps += o.count[g * kGroup];
  return head_bytes(o.groups) + steps * kStepBytes;
}

// Counts of every row of tile (t, b).
void count_tile(const Dense& w, const Geometry& geo, std::int64_t t, std::int64_t b, int* counts) {
  std::uint8_t columns[kMaxTileCols + 1];
  float values[kMaxTileCols + 1];
  for (int r = 0; r < geo.rows_of(t); ++r)
    counts[r] = RowReader{w}(t * geo.tile_rows + r, b * geo.tile_cols, geo.cols_of(b), columns, values);
}

void fill_tile(const Dense& w, const Geometry& geo, std::int64_t t, std::int64_t b, const Order& o,
               std::uint8_t* out) {
  std::uint8_t* steps = out + o.groups * kGroup;
  std::memset(out, 0, head_bytes(o.groups));
  std::memcpy(out, o.row, o.groups * kGroup);
  std::uint8_t* at = out + head_bytes(o.groups);
  const std::int64_t cols = geo.cols_of(b);
  std::uint8_t columns[kMaxTileCols + 1];
  float values[kMaxTileCols + 1];
  for (int g = 0; g < o.groups; ++g) {
    const int many = o.count[g * kGroup];
    steps[g] = static_cast<std::uint8_t>(many);
    std::uint8_t* group_columns = at + static_cast<std::size_t>(many) * kGroup * sizeof(float);
    std::memset(at, 0, static_cast<std::size_t>(many) * kGroup * sizeof(float));
    std::memset(group_columns, static_cast<int>(cols), static_cast<std::size_t>(many) * kGroup);
    for (int l = 0; l < kGroup; ++l) {
      const int lane = g * kGroup + l;
      if (o.count[lane] == 0) continue;
      const int count =
          RowReader{w}(t * geo.tile_rows + o.row[lane], b * geo.tile_cols, cols, columns, values);
      for (int q = 0; q < count; ++q) {
        std::memcpy(at + (static_cast<std::size_t>(q) * kGroup + l) * sizeof(float), values + q,
                    sizeof(float));
        group_columns[q * kGroup + l] = columns[q];
      }
    }
    at += static_cast<std::size_t>(many) * kStepBytes;
  }
}

std::uint64_t count_kept(const Dense& w, std::int64_t r) {
  std::uint8_t columns[kMaxTileCols + 1];
  float values[kMaxTileCols + 1];
  std::uint64_t kept = 0;
  for (std::int64_t c = 0; c < w.k; c += kMaxTileCols)
    kept += RowReader{w}(r, c, std::min<std::int64_t>(kMaxTileCols, w.k - c), columns, values);
  return kept;
}

}  // namespace

Slice slice(const PackedView& w, std::int64_t t, std::int64_t b) {
  const Geometry geo = geometry(w.header);
  const std::uint8_t* at = w.payload() + tile_offset(w, t * geo.col_tiles() + b);
  const auto groups = static_cast<std::int32_t>((geo.rows_of(t) + kGroup - 1) / kGroup);
  return {at, at + groups * kGroup, at + head_bytes(groups), groups};
}

Layout plan(const Dense& w) {
  std::vector<std::uint64_t> kept(w.n);
  parallel_for(w.n, [&](std::int64_t r) { kept[r] = count_kept(w, r); });
  std::uint64_t nnz = 0;
  for (std::uint64_t c : kept) nnz += c;
  const double density = nnz ? static_cast<double>(nnz) / (static_cast<double>(w.n) * w.k) : 0;

  Layout layout{};
  PackedHeader& h = layout.header;
  h.format = Format::col8;
  h.dtype = Dtype::f32;
  h.n = w.n;
  h.k = w.k;
  h.nnz = nnz;
  h.tile_rows = static_cast<std::uint16_t>(choose_tile_rows(w.n));
  h.tile_cols = static_cast<std::uint16_t>(choose_tile_cols(w.k, density));
  const Geometry geo = geometry(h);
  const std::int64_t tiles = geo.row_tiles() * geo.col_tiles();
  layout.offsets.assign(tiles + 1, 0);
  parallel_for(tiles, [&](std::int64_t i) {
    int counts[kMaxTileRows];
    const std::int64_t t = i / geo.col_tiles();
    count_tile(w, geo, t, i % geo.col_tiles(), counts);
    layout.offsets[i + 1] = tile_bytes(sort_rows(counts, static_cast<int>(geo.rows_of(t))));
  });
  layout.offsets[0] = 8 * static_cast<std::uint64_t>(tiles + 1);
  for (std::int64_t i = 0; i < tiles; ++i) layout.offsets[i + 1] += layout.offsets[i];
  h.bytes = sizeof(PackedHeader) + layout.offsets[tiles];
  return layout;
}

void pack(const Dense& w, const Layout& layout, std::uint8_t* out) {
  write_header(layout.header, out);
  const Geometry geo = geometry(layout.header);
  std::uint8_t* payload = out + sizeof(PackedHeader);
  std::memcpy(payload, layout.offsets.data(), layout.offsets.size() * 8);
  parallel_for(geo.row_tiles() * geo.col_tiles(), [&](std::int64_t i) {
    int counts[kMaxTileRows];
    const std::int64_t t = i / geo.col_tiles(), b = i % geo.col_tiles();
    count_tile(w, geo, t, b, counts);
    fill_tile(w, geo, t, b, sort_rows(counts, static_cast<int>(geo.rows_of(t))), payload + layout.offsets[i]);
  });
}

void unpack(const PackedView& w, float* out, std::int64_t stride) {
  const Geometry geo = geometry(w.header);
  for (std::int64_t r = 0; r < geo.n; ++r) std::memset(out + r * stride, 0, geo.k * sizeof(float));
  parallel_for(geo.row_tiles() * geo.col_tiles(), [&](std::int64_t i) {
    const std::int64_t t = i / geo.col_tiles(), b = i % geo.col_tiles();
    const Slice s = slice(w, t, b);
    const std::uint8_t* at = s.groups;
    for (int g = 0; g < s.group_count; ++g) {
      const std::size_t entries = static_cast<std::size_t>(s.steps[g]) * kGroup;
      const std::uint8_t* columns = at + entries * sizeof(float);
      for (std::size_t e = 0; e < entries; ++e) {
        if (columns[e] >= geo.cols_of(b)) continue;  // padding
        float* row = out + (t * geo.tile_rows + s.order[g * kGroup + e % kGroup]) * stride;
        std::memcpy(row + b * geo.tile_cols + columns[e], at + e * sizeof(float), sizeof(float));
      }
      at += s.steps[g] * kStepBytes;
    }
  });
}

}  // namespace prunus::col8
