// Panel "rows": columns are the lanes. [tokens][64], sums [rows][tokens][lanes]. All tokens are one strip.
#include <cstring>

#include "ops/panels/panel.h"

namespace prunus {
namespace {

std::int64_t bytes(const Work& work) {
  return work.plan.tokens * kBitmapColumns * static_cast<std::int64_t>(sizeof(float));
}

bool pack(const Work& work, std::int64_t s, std::int64_t b, void* panel) {
  // The kernel reads every token of its panel; those past the last are zero.
  std::memset(panel, 0, static_cast<std::size_t>(bytes(work)));
  const void* x = work.x_at(s * work.plan.tokens, b * work.geo.tile_cols);
  return work.io.pack_rows(x, work.args.x_stride, work.tokens_of(s), work.geo.cols_of(b),
                           static_cast<float*>(panel));
}

// Floats of the kernel's sums; the reduced ones, up to 8 a row, lie behind them.
std::size_t sums_of(const Work& work, int padded_rows) {
  return static_cast<std::size_t>(padded_rows * work.plan.tokens * work.plan.row->lanes);
}
int columns(const Work& work) { return work.plan.tokens == 1 ? 1 : 8; }

std::size_t room(const Work& work, int padded_rows) {
  return (sums_of(work, padded_rows) + static_cast<std::size_t>(padded_rows) * 8) * sizeof(float);
}

void start(const Work& work, const Factor&, std::int64_t t, std::int64_t, void* sums) {
  std::memset(sums, 0, sums_of(work, work.padded_rows(t)) * sizeof(float));
}

float* finish(const Work& work, const Factor& factor, std::int64_t t, std::int64_t, void* sums) {
  const auto* from = static_cast<const float*>(sums);
  float* to = static_cast<float*>(sums) + sums_of(work, work.padded_rows(t));
  work.plan.kernels->reduce(from, row_scales(factor.w, t * work.geo.tile_rows), bias_of(work, factor, t),
                            work.geo.rows_of(t), work.plan.tokens, to);
  return to;
}

std::int64_t finished(const Work& work, std::int64_t, int padded_rows) { return padded_rows * columns(work); }

void store(const Work& work, std::int64_t t, std::int64_t s, const float* sums, const std::uint8_t*) {
  const std::int64_t row = t * work.geo.tile_rows, token = s * work.plan.tokens;
  work.io.store_tile(sums, columns(work), work.geo.rows_of(t), work.tokens_of(s), work.finish(token, row),
                     work.y_at(token, row), work.args.y_stride);
}

}  // namespace

const PanelKind kRowsPanel{bytes, pack, room, start, finish, finished, store, false};

}  // namespace prunus
