// What surrounds the tile kernels of one kind of panel (kernels/row.h): x into panels, bias into sums, sums
// into y. One file per kind; the schedule (ops/execute.cpp) knows none of the layouts.
#pragma once
#include <cstddef>
#include <cstdint>

#include "ops/work.h"

namespace prunus {

// Some rows of a row tile and some tokens of a strip.
struct Part {
  int row, rows, token, tokens;
};

struct PanelKind {
  // Bytes of the panel of one column tile of a strip.
  std::int64_t (*bytes)(const Work& work);
  // x of strip s and column tile b. False: x holds NaN or infinity and the plan's kernel must not see them.
  bool (*pack)(const Work& work, std::int64_t s, std::int64_t b, void* panel);
  // Bytes of the sums of a row tile of so many rows (whole groups), with all that finishing them takes.
  std::size_t (*room)(const Work& work, int padded_rows);
  // Sums of row tile t and strip s before the first column tile.
  void (*start)(const Work& work, const Factor& factor, std::int64_t t, std::int64_t s, void* sums);
  // After the last: floats with bias, [rows][columns(s)] or what store takes; in the same room.
  float* (*finish)(const Work& work, const Factor& factor, std::int64_t t, std::int64_t s, void* sums);
  // How many floats that is, a multiple of 8; nullptr: they are no floats that could gate others.
  std::int64_t (*finished)(const Work& work, std::int64_t s, int padded_rows);
  // Those into y. panel: of the strip's first column tile.
  void (*store)(const Work& work, std::int64_t t, std::int64_t s, const float* sums,
                const std::uint8_t* panel);
  // Many threads that share a strip pack it together, piece by piece, not each for itself.
  bool shareable;
  // store() in parts, later, when there may be another strip in the panel: what of it a part needs then, up
  // to kKeptMeaning bytes, and a part; nullptr: only at once.
  void (*keep)(const Work& work, std::int64_t s, const std::uint8_t* panel, std::uint8_t* kept) = nullptr;
  void (*store_part)(const Work& work, std::int64_t t, std::int64_t s, const Part& part, const float* sums,
                     const std::uint8_t* kept) = nullptr;
};
inline constexpr std::size_t kKeptMeaning = kMaxStrip * 2 * sizeof(float);

extern const PanelKind kStripPanel, kRowsPanel, kFewPanelKind, kLanesPanel, kLaneRowsPanel;
const PanelKind& panel_kind(Panel panel);

// Room behind panels and sums for every index that the bytes of a tile can hold, so that damaged ones give a
// wrong answer and no crash: a column id of one byte and a block's or group's width from any panel on, and a
// row id of one byte.
inline constexpr std::size_t kPanelSlack = (256 + kMaxBlockCols) * kMaxStrip * sizeof(float);
inline constexpr std::size_t kSumsSlack = kMaxTileRows * kMaxStrip * sizeof(float);
static_assert(kFewPanel >= 256 + kMaxBlockCols && kFewPanel >= 256 + kMaxM && kFewRows == kMaxTileRows);

// Columns of x (tokens, cols) as a strip: [cols + zero columns][width], for kinds that need it.
void pack_strip_with_zeros(const Work& work, const void* x, int tokens, int cols, int width, float* to);
// Columns behind the last one of w that must be zero, for what points outside of it.
inline std::int64_t zero_columns(const PackedHeader& h) { return std::max<std::int64_t>(1, h.unit.cols); }

inline const float* bias_of(const Work& work, const Factor& factor, std::int64_t t) {
  return factor.bias ? factor.bias + t * work.geo.tile_rows : nullptr;
}

}  // namespace prunus
