#include "formats/pack.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>

#include "core/parallel.h"
#include "formats/structure.h"
#include "formats/tiles.h"
#include "formats/values.h"

namespace prunus {
namespace {

// Columns and values of the kept weights of a piece of a row. Branch-free: a slot is overwritten unless kept.
template <typename T>
int scan(const T* row, const std::uint8_t* mask, int cols, std::uint8_t* columns, float* values) {
  int count = 0;
  for (int j = 0; j < cols; ++j) {
    const float v = to_float(row[j]);
    columns[count] = static_cast<std::uint8_t>(j);
    values[count] = v;
    count += storable(v) & (mask == nullptr || mask[j] != 0);
  }
  return count;
}

int scan_row(const Dense& w, std::int64_t r, std::int64_t c, int cols, std::uint8_t* columns, float* values) {
  const std::int64_t at = r * w.stride + c;
  const std::uint8_t* mask = w.mask ? w.mask + r * w.mask_stride + c : nullptr;
  switch (w.dtype) {
    case Dtype::f64:
      return scan(static_cast<const double*>(w.data) + at, mask, cols, columns, values);
    case Dtype::f16:
      return scan(static_cast<const f16_t*>(w.data) + at, mask, cols, columns, values);
    case Dtype::bf16:
      return scan(static_cast<const bf16_t*>(w.data) + at, mask, cols, columns, values);
    default:
      return scan(static_cast<const float*>(w.data) + at, mask, cols, columns, values);
  }
}

struct RowSummary {
  std::uint64_t kept = 0;
  float largest = 0;  // |value|; NaN and infinity make it infinite
};

RowSummary summarize(const Dense& w, std::int64_t r) {
  std::uint8_t columns[kMaxTileCols + 1];
  float values[kMaxTileCols + 1];
  RowSummary row;
  for (std::int64_t c = 0; c < w.k; c += kMaxTileCols) {
    const int cols = static_cast<int>(std::min<std::int64_t>(kMaxTileCols, w.k - c));
    const int count = scan_row(w, r, c, cols, columns, values);
    row.kept += static_cast<std::uint64_t>(count);
    for (int i = 0; i < count; ++i)
      row.largest = std::max(row.largest, std::isfinite(values[i]) ? std::fabs(values[i]) : INFINITY);
  }
  return row;
}

void read_tile(const Dense& w, const Geometry& geo, std::int64_t t, std::int64_t b, TileRows& tile) {
  tile.rows = geo.rows_of(t);
  tile.cols = geo.cols_of(b);
  tile.unit = geo.unit;
  for (int r = 0; r < tile.rows; ++r)
    tile.count[r] =
        scan_row(w, t * geo.tile_rows + r, b * geo.tile_cols, tile.cols, tile.columns[r], tile.values[r]);
}

// fn(row tile, column tile, index, the tile's nonzeros), concurrently; one scratch tile (330 KB) per task.
template <typename Fn>
void for_each_tile(const Dense& w, const Geometry& geo, Fn fn) {
  const std::int64_t tiles = geo.row_tiles() * geo.col_tiles(),
                     shares = std::min<std::int64_t>(tiles, num_threads());
  parallel_for(shares, [&](std::int64_t i) {
    const auto tile = std::make_unique<TileRows>();
    for (std::int64_t index = tiles * i / shares; index < tiles * (i + 1) / shares; ++index) {
      read_tile(w, geo, index / geo.col_tiles(), index % geo.col_tiles(), *tile);
      fn(index, *tile);
    }
  });
}

// As tall as one byte allows, but at least 4 of them, so that threads have something to share.
std::int32_t choose_tile_rows(std::int64_t n, std::int32_t multiple) {
  const std::int32_t target = n >= 4 * kMaxTileRows ? kMaxTileRows : static_cast<std::int32_t>((n + 3) / 4);
  return round_up(even_tiles(n, std::max(target, 1)), multiple);
}

}  // namespace

Layout plan_pack(const Dense& w, Dtype dtype, const Format* format) {
  std::vector<RowSummary> rows(static_cast<std::size_t>(w.n));
  parallel_for(w.n, [&](std::int64_t r) { rows[static_cast<std::size_t>(r)] = summarize(w, r); });
  Layout layout{};
  PackedHeader& h = layout.header;
  for (const RowSummary& row : rows) {
    h.nnz += row.kept;
    if (dtype != Dtype::i8) continue;
    check_value(std::isfinite(row.largest),
                expected_got("w", "finite values for dtype int8", "NaN or infinity"));
    layout.scales.push_back(row.largest / 127.0f);
  }
  const double density =
      h.nnz ? static_cast<double>(h.nnz) / (static_cast<double>(w.n) * static_cast<double>(w.k)) : 0;
  const Structure structure = find_structure(w, dtype, h.nnz, format);
  h.format = structure.format;
  h.unit = structure.unit;
  h.dtype = dtype;
  h.n = static_cast<std::uint64_t>(w.n);
  h.k = static_cast<std::uint64_t>(w.k);
  h.tile_rows = static_cast<std::uint16_t>(choose_tile_rows(w.n, group_rows(h)));
  h.tile_cols = static_cast<std::uint16_t>(codec(h.format).tile_cols(w.k, density, h.unit));

  const Geometry geo = geometry(h);
  layout.offsets.assign(static_cast<std::size_t>(geo.row_tiles() * geo.col_tiles() + 1), 0);
  std::atomic<std::uint64_t> slots{0};
  for_each_tile(w, geo, [&](std::int64_t i, const TileRows& tile) {
    layout.offsets[static_cast<std::size_t>(i + 1)] = codec(h.format).size(tile, dtype);
    if (may_have_holes(h.format)) slots += codec(h.format).slots(tile);
  });
  h.holes = may_have_holes(h.format) && slots != h.nnz;
  layout.offsets[0] = preamble_bytes(geo, dtype);
  for (std::size_t i = 1; i < layout.offsets.size(); ++i) layout.offsets[i] += layout.offsets[i - 1];
  h.bytes = sizeof(PackedHeader) + layout.offsets.back();
  return layout;
}

void pack(const Dense& w, const Layout& layout, std::uint8_t* out) {
  const PackedHeader& h = layout.header;
  const Geometry geo = geometry(h);
  std::uint8_t* payload = out + sizeof(PackedHeader);
  std::memset(out, 0, sizeof(PackedHeader) + layout.offsets[0]);
  write_header(h, out);
  std::memcpy(payload, layout.offsets.data(), layout.offsets.size() * 8);
  if (!layout.scales.empty())
    std::memcpy(payload + offsets_bytes(geo), layout.scales.data(), layout.scales.size() * sizeof(float));
  for_each_tile(w, geo, [&](std::int64_t i, const TileRows& tile) {
    const float* scales =
        layout.scales.empty() ? nullptr : layout.scales.data() + i / geo.col_tiles() * geo.tile_rows;
    codec(h.format).write(tile, h.dtype, scales, payload + layout.offsets[static_cast<std::size_t>(i)]);
  });
}

void unpack(const PackedView& w, float* out, std::int64_t stride) {
  const Geometry geo = geometry(w.header);
  struct Target {
    float* data;
    std::int64_t stride;
  };
  parallel_for(geo.n, [&](std::int64_t r) {
    std::memset(out + r * stride, 0, static_cast<std::size_t>(geo.k) * sizeof(float));
  });
  parallel_for(geo.row_tiles() * geo.col_tiles(), [&](std::int64_t i) {
    const std::int64_t t = i / geo.col_tiles(), b = i % geo.col_tiles();
    Target target{out + t * geo.tile_rows * stride + b * geo.tile_cols, stride};
    codec(w.header.format)
        .read(
            tile_bytes(w, i), tile_offset(w, i + 1) - tile_offset(w, i), geo.shape_of(t, b), w.header.dtype,
            row_scales(w, t * geo.tile_rows),
            [](void* context, int row, int col, float value) {
              const Target& to = *static_cast<Target*>(context);
              to.data[row * to.stride + col] = value;
            },
            &target);
  });
}

}  // namespace prunus
