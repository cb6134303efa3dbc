// Panels "lanes" and "lane_rows" of format dot: x as lanes of 32 bits, integers (quads) or bf16 (pairs), with
// the scale and zero point of every token behind. A dot tile holds all columns, so that a piece is the panel.
#include <array>
#include <cstring>

#include "ops/panels/panel.h"

namespace prunus {
namespace {

#include "formats/layout/dot.inl.h"

bool of_integers(const Work& work) { return work.w.header.dtype == Dtype::i8; }

const LaneKernels& kernels(const Work& work) { return of_integers(work) ? work.io.quads : work.io.pairs; }

// Of one token.
std::int64_t lane_bytes(const Work& work) {
  const std::int64_t of_lane = work.geo.unit.cols;
  return ((work.geo.k + of_lane - 1) / of_lane + 15) / 16 * 16 * DotLayout::lane_bytes;
}

// Scales and zero points of so many tokens.
std::int64_t meaning_bytes(int tokens) { return tokens * static_cast<std::int64_t>(2 * sizeof(float)); }

// Sums come in whole groups, to rooms for 16 tokens at least.
std::size_t sums_bytes(int padded_rows, std::int64_t width) {
  return static_cast<std::size_t>(padded_rows * width) * sizeof(std::int32_t);
}

void start(const Work& work, const Factor&, std::int64_t t, std::int64_t s, void* sums) {
  if (work.geo.k != 0) return;  // the kernel writes them
  std::memset(sums, 0, sums_bytes(work.padded_rows(t), std::max(work.width_of(s), kLaneRowTokens)));
}

float* finish(const Work&, const Factor&, std::int64_t, std::int64_t, void* sums) {
  return static_cast<float*>(sums);
}

// Without columns there are no tiles to say where rows are.
RowMeaning without_tile(const float* bias) {
  static const std::array<std::uint8_t, kMaxTileRows> place = [] {
    std::array<std::uint8_t, kMaxTileRows> all{};
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint8_t>(i);
    return all;
  }();
  return {place.data(), nullptr, nullptr, bias};
}

Part whole(const Work& work, std::int64_t t, std::int64_t s) {
  return {0, work.geo.rows_of(t), 0, work.tokens_of(s)};
}

// sums [rows][width]; meaning: scales, then zero points, of `width` tokens.
void store_lanes(const Work& work, std::int64_t t, std::int64_t s, const Part& part, const float* sums,
                 int width, const std::uint8_t* meaning) {
  const std::int64_t row = t * work.geo.tile_rows + part.row, token = s * work.plan.tokens + part.token;
  const float* const bias = work.args.bias ? work.args.bias + row : nullptr;
  StoreLanesFn store = work.io.pairs.store;
  RowMeaning of_rows = without_tile(bias);
  TokenMeaning of_tokens{};
  if (work.geo.k != 0) {
    const std::uint8_t* const tile = tile_bytes(work.w, t);
    const DotLayout l(work.geo.rows_of(t), work.geo.cols_of(0), work.geo.unit);
    store = kernels(work).store;
    of_rows = {tile + l.place_at + part.row, row_scales(work.w, row), tile + l.weights_at + 4 * part.row,
               bias};
    const auto* scale = reinterpret_cast<const float*>(meaning) + part.token;
    of_tokens = {scale, reinterpret_cast<const std::int32_t*>(scale + width)};
  }
  store(sums + part.token, width, part.rows, part.tokens, of_rows, of_tokens, work.finish(token, row),
        work.y_at(token, row), work.args.y_stride);
}

// -- lanes: [lanes][width]; sums [rows][width]. --

std::int64_t strip_bytes(const Work& work) {
  return work.plan.tokens * lane_bytes(work) + meaning_bytes(work.plan.tokens);
}

bool pack_strip(const Work& work, std::int64_t s, std::int64_t, void* panel) {
  kernels(work).pack(work.x_at(s * work.plan.tokens, 0), work.args.x_stride, work.tokens_of(s),
                     work.geo.cols_of(0), work.width_of(s), static_cast<std::uint8_t*>(panel));
  return true;
}

std::size_t strip_room(const Work& work, int padded_rows) {
  return sums_bytes(padded_rows, std::max(work.plan.tokens, kLaneRowTokens));
}

void store_strip(const Work& work, std::int64_t t, std::int64_t s, const float* sums,
                 const std::uint8_t* panel) {
  const int width = work.width_of(s);
  store_lanes(work, t, s, whole(work, t, s), sums, width, panel + width * lane_bytes(work));
}

void keep_meaning(const Work& work, std::int64_t s, const std::uint8_t* panel, std::uint8_t* kept) {
  const int width = work.width_of(s);
  std::memcpy(kept, panel + width * lane_bytes(work), static_cast<std::size_t>(meaning_bytes(width)));
}

void store_part(const Work& work, std::int64_t t, std::int64_t s, const Part& part, const float* sums,
                const std::uint8_t* kept) {
  store_lanes(work, t, s, part, sums, work.width_of(s), kept);
}

// -- lane_rows: [tokens][lanes]; sums [rows][kLaneRowTokens]. All tokens are one strip. --

std::int64_t rows_bytes(const Work& work) {
  return work.plan.tokens * lane_bytes(work) + meaning_bytes(kLaneRowTokens);
}

bool pack_rows(const Work& work, std::int64_t, std::int64_t, void* panel) {
  kernels(work).flat(work.x_at(0, 0), work.args.x_stride, work.tokens_of(0), work.geo.cols_of(0),
                     work.plan.tokens, static_cast<std::uint8_t*>(panel));
  return true;
}

std::size_t rows_room(const Work&, int padded_rows) { return sums_bytes(padded_rows, kLaneRowTokens); }

void store_rows(const Work& work, std::int64_t t, std::int64_t s, const float* sums,
                const std::uint8_t* panel) {
  store_lanes(work, t, s, whole(work, t, s), sums, kLaneRowTokens,
              panel + work.plan.tokens * lane_bytes(work));
}

}  // namespace

// What is a sum only the store knows: two weights cannot gate each other before.
const PanelKind kLanesPanel{strip_bytes, pack_strip,  strip_room, start,        finish,
                            nullptr,     store_strip, true,       keep_meaning, store_part};
const PanelKind kLaneRowsPanel{rows_bytes, pack_rows, rows_room, start, finish, nullptr, store_rows, false};

}  // namespace prunus
