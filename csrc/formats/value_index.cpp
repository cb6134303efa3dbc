#include "formats/value_index.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "core/parallel.h"
#include "formats/tiles.h"
#include "formats/values.h"

namespace prunus {
namespace {

constexpr std::uint64_t kMost = std::numeric_limits<std::int32_t>::max();

// (n, k): where in the buffer the value of each kept weight is; 0: not kept.
std::vector<std::uint32_t> dense_places(const PackedView& w) {
  check_value(w.header.bytes <= kMost,
              expected_got("packed", "at most 2147483647 bytes to train on", std::to_string(w.header.bytes)));
  const Geometry geo = geometry(w.header);
  std::vector<std::uint32_t> places(static_cast<std::size_t>(geo.n * geo.k));
  parallel_for(geo.row_tiles() * geo.col_tiles(), [&](std::int64_t i) {
    const std::int64_t t = i / geo.col_tiles(), b = i % geo.col_tiles();
    const Target to{nullptr, geo.k, places.data() + t * geo.tile_rows * geo.k + b * geo.tile_cols, w.bytes};
    codec(w.header.format)
        .read(tile_bytes(w, i), tile_offset(w, i + 1) - tile_offset(w, i), geo.shape_of(t, b), w.header.dtype,
              nullptr, &to);
  });
  return places;
}

// How many entries of a stride are not zero.
std::int64_t count(const std::uint32_t* p, std::int64_t entries, std::int64_t stride) {
  std::int64_t kept = 0;
  for (std::int64_t i = 0; i < entries; ++i) kept += p[i * stride] != 0;
  return kept;
}

// Running sums: where each part begins, and the end, which is nnz.
template <typename T>
std::vector<T> begins(std::vector<T> counts, std::uint64_t nnz) {
  T sum = 0;
  for (T& c : counts) sum += std::exchange(c, sum);
  require(static_cast<std::uint64_t>(sum) == nnz, "nnz", "as many as stored values");
  counts.push_back(sum);
  return counts;
}

// Whether all places lie in the payload of a buffer of that size: as differences without a sign, whose top
// bits the compiler gathers many at a time.
bool inside(const std::int32_t* place, std::int64_t begin, std::int64_t end, std::size_t size) {
  const auto last = static_cast<std::uint32_t>(size - sizeof(float));
  std::uint32_t outside = 0;
  for (std::int64_t i = begin; i < end; ++i) {
    const auto p = static_cast<std::uint32_t>(place[i]);
    outside |= p | (p - static_cast<std::uint32_t>(sizeof(PackedHeader))) | (last - p);
  }
  return outside >> 31 == 0;
}

template <typename T>
void write_range(const T* values, const std::int32_t* place, std::int64_t begin, std::int64_t end,
                 std::uint8_t* buffer, std::size_t size) {
  check_value(inside(place, begin, end, size),
              expected_got("places", "those of the packed weight", "one outside of it"));
  for (std::int64_t i = begin; i < end; ++i) {
    const float v = to_float(values[i]), stored = storable(v) ? v : kLeastValue;
    std::memcpy(buffer + place[i], &stored, sizeof stored);
  }
}

}  // namespace

KeptColumns kept_columns(const PackedView& w) {
  const auto n = static_cast<std::int64_t>(w.header.n), k = static_cast<std::int64_t>(w.header.k);
  const std::int64_t tiles = index_tiles(k);
  const std::vector<std::uint32_t> places = dense_places(w);
  std::vector<std::int32_t> counts(static_cast<std::size_t>(n * tiles));
  parallel_for(n, [&](std::int64_t r) {
    for (std::int64_t t = 0; t < tiles; ++t)
      counts[static_cast<std::size_t>(r * tiles + t)] = static_cast<std::int32_t>(count(
          places.data() + r * k + t * kIndexCols, std::min<std::int64_t>(kIndexCols, k - t * kIndexCols), 1));
  });
  KeptColumns kept{begins(std::move(counts), w.header.nnz), {}};
  kept.column.resize(static_cast<std::size_t>(w.header.nnz));
  parallel_for(n, [&](std::int64_t r) {
    auto e = static_cast<std::size_t>(kept.first[static_cast<std::size_t>(r * tiles)]);
    for (std::int64_t j = 0; j < k; ++j)
      if (places[static_cast<std::size_t>(r * k + j)])
        kept.column[e++] = static_cast<std::uint8_t>(j % kIndexCols);
  });
  return kept;
}

std::vector<std::int32_t> value_places(const PackedView& w, bool by_column) {
  const auto n = static_cast<std::int64_t>(w.header.n), k = static_cast<std::int64_t>(w.header.k);
  const std::vector<std::uint32_t> places = dense_places(w);
  // Lines are rows, or columns.
  const std::int64_t lines = by_column ? k : n, entries = by_column ? n : k;
  const std::int64_t next_line = by_column ? 1 : k, stride = by_column ? k : 1;
  std::vector<std::int64_t> counts(static_cast<std::size_t>(lines));
  parallel_for(lines, [&](std::int64_t l) {
    counts[static_cast<std::size_t>(l)] = count(places.data() + l * next_line, entries, stride);
  });
  const std::vector<std::int64_t> first = begins(std::move(counts), w.header.nnz);
  std::vector<std::int32_t> found(static_cast<std::size_t>(w.header.nnz));
  parallel_for(lines, [&](std::int64_t l) {
    std::int32_t* to = found.data() + first[static_cast<std::size_t>(l)];
    for (std::int64_t i = 0; i < entries; ++i)
      if (const std::uint32_t place = places[static_cast<std::size_t>(l * next_line + i * stride)])
        *to++ = static_cast<std::int32_t>(place);
  });
  return found;
}

void write_values(const void* values, Dtype type, const std::int32_t* place, std::int64_t count,
                  std::uint8_t* buffer, std::size_t size) {
  constexpr std::int64_t piece = 1 << 14;
  parallel_for((count + piece - 1) / piece, [&](std::int64_t p) {
    const std::int64_t begin = p * piece, end = std::min(count, begin + piece);
    switch (type) {
      case Dtype::bf16:
        return write_range(static_cast<const bf16_t*>(values), place, begin, end, buffer, size);
      case Dtype::f16:
        return write_range(static_cast<const f16_t*>(values), place, begin, end, buffer, size);
      case Dtype::f32:
        return write_range(static_cast<const float*>(values), place, begin, end, buffer, size);
      case Dtype::i8:
      case Dtype::f64:
        throw ValueError(expected_got("values", "float32, bfloat16 or float16", dtype_name(type)));
    }
  });
}

}  // namespace prunus
