#include <algorithm>
#include <string>

#include "core/check.h"
#include "formats/dot.h"
#include "formats/structure.h"
#include "formats/tiles.h"
#include "ops/policy/policy.h"
#include "ops/policy/thresholds.h"

namespace prunus {
namespace {

struct Fit {
  Format format;
  Unit unit;
};

Fit forced_block(const Dense& w, const Sample& sample, Dtype dtype) {
  const BlockFit block = best_block(w, sample, dtype);
  check_value(
      block.filled >= threshold::kForcedFull,
      expected_got("format", "nonzeros that fill aligned blocks by more than half for 'block'",
                   "blocks filled by " + std::to_string(static_cast<int>(block.filled * 100)) + " %"));
  return {Format::block, block.unit};
}

Fit forced_nm(const Dense& w, const Kept& kept, const Sample& sample) {
  Unit unit = best_nm(sample, w.k, density(w, kept));
  if (unit.cols != 0)
    unit.rows = static_cast<std::uint16_t>(std::max<int>(unit.rows, most_in_group(w, kept.bits, unit.cols)));
  check_value(unit.rows < unit.cols,
              expected_got("format", "fewer than m nonzeros in every m <= 16 consecutive columns for 'nm'",
                           unit.cols ? "a group of " + std::to_string(unit.cols) + " without a zero"
                                     : "groups without a zero for every m"));
  return {Format::nm, unit};
}

// The height of block whose stored values cost the least: taller ones share what is loaded, and store more.
Fit forced_dot(const Dense& w, const Kept& kept, Dtype dtype, std::optional<int> rows) {
  check_value(has_dot_lanes(dtype),
              expected_got("dtype", "int8 or bfloat16 for format 'dot'", dtype_name(dtype)));
  const int most = most_tile_cols(Format::dot);
  check_value(w.k <= most, expected_got("w", "at most " + std::to_string(most) + " columns for format 'dot'",
                                        std::to_string(w.k)));
  const auto cols = static_cast<std::uint16_t>(kDotLaneBytes / static_cast<int>(dtype_size(dtype)));
  Unit best{1, cols};
  double least = -1;
  const int tallest = thresholds(active_isa()).dot_rows;
  for (const threshold::DotHeight& height : threshold::kDotHeights) {
    const Unit unit{height.rows, cols};
    if (rows == height.rows) return {Format::dot, unit};
    if (height.rows > tallest) continue;
    const double cost =
        height.cost * static_cast<double>(dot_blocks(w, kept.bits, unit)) * static_cast<double>(unit.rows);
    if (least < 0 || cost < least) {
      best = unit;
      least = cost;
    }
  }
  if (rows) throw ValueError(expected_got("rows", "1, 4, 16 or 32", std::to_string(*rows)));
  return {Format::dot, best};
}

#include "formats/layout/warp.inl.h"

// Rows that share a warp: more than the least where one row has too little for its lanes.
std::uint16_t rows_of_warp(std::int64_t n, double kept_of_row) {
  int rows = WarpLayout::least_rows(n);
  while (rows < 8 && kept_of_row * rows < threshold::kKeptOfWarp) rows *= 2;
  return static_cast<std::uint16_t>(rows);
}

Fit forced_fit(const Dense& w, const Kept& kept, Dtype dtype, Format format, std::optional<int> rows) {
  switch (format) {
    case Format::nm:
      return forced_nm(w, kept, take_sample(w, kept.bits));
    case Format::block:
      return forced_block(w, take_sample(w, kept.bits), dtype);
    case Format::dot:
      return forced_dot(w, kept, dtype, rows);
    case Format::warp:
      check_value(
          w.k <= most_tile_cols(Format::warp),
          expected_got("w",
                       "at most " + std::to_string(most_tile_cols(Format::warp)) + " columns for format warp",
                       std::to_string(w.k)));
      return {format, {rows_of_warp(w.n, density(w, kept) * static_cast<double>(w.k)), 1}};
    case Format::col8:
    case Format::bitmap:
      return {format, {0, 0}};
  }
  __builtin_unreachable();
}

// What is found in the nonzeros: blocks, N:M, or nothing.
Fit found_fit(const Dense& w, const Kept& kept, Dtype dtype) {
  const double share = density(w, kept);
  const Fit none{share > thresholds(active_isa()).bitmap_from ? Format::bitmap : Format::col8, {0, 0}};
  if (kept.count == 0) return none;
  const Sample sample = take_sample(w, kept.bits);
  const BlockFit block = best_block(w, sample, dtype);
  if (block.filled >= threshold::kFull && block.unit.rows >= threshold::kSharedRows)
    return {Format::block, block.unit};
  const Unit nm = best_nm(sample, w.k, share);
  if (nm.cols != 0 && share >= threshold::kFull * nm.rows / nm.cols &&
      most_in_group(w, kept.bits, nm.cols) <= nm.rows)
    return {Format::nm, nm};
  return none;
}

// Whole groups of `unit` columns, `most` at most.
std::int32_t even_groups(std::int64_t k, std::int32_t most, int unit) {
  return even_tiles((k + unit - 1) / unit, most / unit) * unit;
}

std::int32_t tile_cols(std::int64_t k, double share, const Fit& fit) {
  using namespace threshold;
  switch (fit.format) {
    case Format::col8:
      return even_tiles(k, share > kSparse ? kColumns : kSparseColumns);
    case Format::bitmap:
      return k < kBitmapColumns ? even_tiles(k, kBitmapColumns) : kBitmapColumns;
    case Format::nm:
      return even_groups(k,
                         share > kDense    ? kDenseColumns
                         : share > kSparse ? kColumns
                                           : kSparseColumns,
                         fit.unit.cols);
    case Format::block:
      return even_groups(k,
                         fit.unit.rows >= kSharedRows ? kTallColumns
                         : fit.unit.rows == 2         ? kPairColumns
                                                      : kFlatColumns,
                         fit.unit.cols);
    case Format::dot:
    case Format::warp:
      return std::max<std::int32_t>(static_cast<std::int32_t>(k), 1);
  }
  __builtin_unreachable();
}

std::int32_t tile_rows(std::int64_t n, std::int32_t multiple) {
  constexpr std::int32_t least = threshold::kTilesAtLeast;
  const std::int32_t target =
      n >= least * kMaxTileRows ? kMaxTileRows : static_cast<std::int32_t>((n + least - 1) / least);
  return round_up(even_tiles(n, std::max(target, 1)), multiple);
}

}  // namespace

Choice choose_format(const Dense& w, const Kept& kept, Dtype dtype, const Asked& asked) {
  if (asked.rows && asked.format != Format::dot)
    throw ValueError(expected_got("rows", "none but for format 'dot'", std::to_string(*asked.rows)));
  const Fit fit =
      asked.format ? forced_fit(w, kept, dtype, *asked.format, asked.rows) : found_fit(w, kept, dtype);
  const double share = density(w, kept);
  const std::int32_t rows =
      fit.format == Format::warp ? fit.unit.rows : tile_rows(w.n, group_rows(fit.format, fit.unit));
  return {fit.format, fit.unit, rows, tile_cols(w.k, share, fit)};
}

Layout plan_pack(const Dense& w, Dtype dtype, const Asked& asked) {
  Kept kept = find_kept(w);
  const Choice choice = choose_format(w, kept, dtype, asked);
  return plan_layout(w, dtype, std::move(kept), choice);
}

}  // namespace prunus
