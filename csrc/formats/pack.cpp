#include "formats/pack.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>

#include "core/parallel.h"
#include "formats/bits.h"
#include "formats/packer.h"
#include "formats/values.h"

namespace prunus {
namespace {

KeptBits kept_bits(const Dense& w) {
  KeptBits kept;
  kept.words = (w.k + 63) / 64 + 1;
  kept.bits.resize(static_cast<std::size_t>(w.n * kept.words));
  parallel_for(w.n, [&](std::int64_t r) { row_bits(w, r, kept.bits.data() + r * kept.words); });
  return kept;
}

std::uint64_t count_kept(const KeptBits& kept) {
  constexpr std::int64_t piece = 1 << 14;
  const auto words = static_cast<std::int64_t>(kept.bits.size());
  std::atomic<std::uint64_t> nnz{0};
  parallel_for((words + piece - 1) / piece, [&](std::int64_t i) {
    std::uint64_t here = 0;
    for (std::int64_t j = i * piece; j < std::min(words, (i + 1) * piece); ++j)
      here += static_cast<std::uint64_t>(count_bits(kept.bits[static_cast<std::size_t>(j)]));
    nnz += here;
  });
  return nnz;
}

// The largest |value| of a whole row. As integers, so that the loop vectorises without -ffast-math: they
// order as the magnitudes do, infinity and NaN last.
float largest_of_row(const float* row, std::int64_t k) {
  std::int32_t largest = 0;
  for (std::int64_t c = 0; c < k; ++c) {
    std::int32_t bits;
    std::memcpy(&bits, row + c, sizeof bits);
    largest = std::max(largest, bits & 0x7fffffff);
  }
  float v;
  std::memcpy(&v, &largest, sizeof v);
  return storable(v) ? v : 0;
}

// Per row the largest |kept value| / 127; NaN and infinity are refused.
std::vector<float> find_scales(const Dense& w, const KeptBits& kept) {
  std::vector<float> scales(static_cast<std::size_t>(w.n));
  parallel_for(w.n, [&](std::int64_t r) {
    float largest = 0;
    if (w.dtype == Dtype::f32 && !w.mask)  // what is not kept is too small to matter
      largest = largest_of_row(static_cast<const float*>(w.data) + r * w.stride, w.k);
    else
      with_row(w, r, [&](const auto* row) {
        for_each_kept(kept.row(r), 0, w.k, [&](std::int64_t c) {
          const float v = std::fabs(to_float(row[c]));
          largest = v > largest || std::isnan(v) ? v : largest;
        });
      });
    scales[static_cast<std::size_t>(r)] = largest / 127.0f;
  });
  for (const float scale : scales)
    check_value(std::isfinite(scale), expected_got("w", "finite values for dtype int8", "NaN or infinity"));
  return scales;
}

// From here on a finite number is stored as infinity: half a step above the largest that the type has.
double overflow_at(Dtype stored) {
  return stored == Dtype::f16 ? 65520.0 : stored == Dtype::bf16 ? 0x1.FFp127 : 0x1.FFFFFFp127;
}

double widest(double v) { return v; }
template <typename T>
double widest(T v) {
  return static_cast<double>(to_float(v));
}

// Refuses finite weights that would become infinite, where the stored type has a smaller range.
void check_range(const Dense& w, const KeptBits& kept, Dtype stored) {
  const bool wide = w.dtype == Dtype::f64 || (w.dtype == Dtype::f32 && stored != Dtype::f32);
  if (!wide && !(w.dtype == Dtype::bf16 && stored == Dtype::f16)) return;
  if (w.dtype == Dtype::f32 && stored == Dtype::i8) return;  // which has a scale
  const double most = overflow_at(stored);
  parallel_for(w.n, [&](std::int64_t r) {
    if (w.dtype == Dtype::f32 && !w.mask &&
        largest_of_row(static_cast<const float*>(w.data) + r * w.stride, w.k) < static_cast<float>(most))
      return;
    with_row(w, r, [&](const auto* row) {
      for_each_kept(kept.row(r), 0, w.k, [&](std::int64_t c) {
        const double v = widest(row[c]);
        if (!(std::fabs(v) >= most) || std::isinf(v)) return;
        const char* const name = dtype_name(stored == Dtype::i8 ? Dtype::f32 : stored);
        throw ValueError(
            expected_got("w", "values that " + std::string(name) + " can hold", std::to_string(v)));
      });
    });
  });
}

// fn(packer, tile) for every tile, concurrently; one packer for each task.
template <typename Fn>
void for_each_tile(const PackSource& from, Format format, Fn fn) {
  const std::int64_t tiles = from.geo.row_tiles() * from.geo.col_tiles(),
                     shares = std::min<std::int64_t>(tiles, num_threads());
  parallel_for(shares, [&](std::int64_t i) {
    const std::unique_ptr<Packer> packer = codec(format).packer(from);
    for (std::int64_t t = tiles * i / shares; t < tiles * (i + 1) / shares; ++t) fn(*packer, t);
  });
}

}  // namespace

Kept find_kept(const Dense& w) {
  KeptBits bits = kept_bits(w);
  const std::uint64_t count = count_kept(bits);
  return {std::move(bits), count};
}

double density(const Dense& w, const Kept& kept) {
  return kept.count == 0
             ? 0
             : static_cast<double>(kept.count) / (static_cast<double>(w.n) * static_cast<double>(w.k));
}

Layout plan_layout(const Dense& w, Dtype dtype, Kept kept, const Choice& choice) {
  Layout layout{};
  layout.kept = std::move(kept.bits);
  check_range(w, layout.kept, dtype);
  if (dtype == Dtype::i8) layout.scales = find_scales(w, layout.kept);
  PackedHeader& h = layout.header;
  h.nnz = kept.count;
  h.format = choice.format;
  h.unit = choice.unit;
  h.dtype = dtype;
  h.n = static_cast<std::uint64_t>(w.n);
  h.k = static_cast<std::uint64_t>(w.k);
  h.tile_rows = static_cast<std::uint16_t>(choice.tile_rows);
  h.tile_cols = static_cast<std::uint16_t>(choice.tile_cols);

  const Geometry geo = geometry(h);
  layout.offsets.assign(static_cast<std::size_t>(geo.row_tiles() * geo.col_tiles() + 1), 0);
  std::atomic<std::uint64_t> slots{0};
  for_each_tile({w, layout.kept, geo, dtype}, h.format, [&](Packer& packer, std::int64_t t) {
    const TileSize size = packer.size(t);
    layout.offsets[static_cast<std::size_t>(t + 1)] = size.bytes;
    slots += size.slots;
  });
  h.holes = may_have_holes(h.format) && slots != h.nnz;
  layout.offsets[0] = preamble_bytes(geo, dtype, tile_alignment(h.format));
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
  for_each_tile({w, layout.kept, geo, h.dtype}, h.format, [&](Packer& packer, std::int64_t t) {
    const float* const scales =
        layout.scales.empty() ? nullptr : layout.scales.data() + t / geo.col_tiles() * geo.tile_rows;
    const std::uint64_t* const offset = layout.offsets.data() + t;
    packer.write(t, scales, offset[1] - offset[0], payload + offset[0]);
  });
}

void unpack(const PackedView& w, float* out, std::int64_t stride) {
  const Geometry geo = geometry(w.header);
  if (geo.k == 0) return;
  parallel_for(geo.n, [&](std::int64_t r) {
    std::memset(out + r * stride, 0, static_cast<std::size_t>(geo.k) * sizeof(float));
  });
  parallel_for(geo.row_tiles() * geo.col_tiles(), [&](std::int64_t i) {
    const std::int64_t t = i / geo.col_tiles(), b = i % geo.col_tiles();
    const Target to{out + t * geo.tile_rows * stride + b * geo.tile_cols, stride};
    codec(w.header.format)  // checks what open_packed did not: FormatError
        .read(tile_bytes(w, i), tile_offset(w, i + 1) - tile_offset(w, i), geo.shape_of(t, b), w.header.dtype,
              row_scales(w, t * geo.tile_rows), &to);
  });
}

}  // namespace prunus
