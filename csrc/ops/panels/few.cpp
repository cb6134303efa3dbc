// Panel "few": rows are the lanes. [tokens][kFewPanel], sums [tokens][kFewRows]. All tokens are one strip;
// the kernel may take more than there are, and what it adds for those is not stored.
#include <cstring>

#include "ops/panels/panel.h"

namespace prunus {
namespace {

std::int64_t bytes(const Work& work) {
  return work.plan.tokens * kFewPanel * static_cast<std::int64_t>(sizeof(float));
}

bool pack(const Work& work, std::int64_t s, std::int64_t b, void* panel) {
  auto* const to = static_cast<float*>(panel);
  const int tokens = work.tokens_of(s), cols = work.geo.cols_of(b);
  if (tokens < work.plan.tokens) std::memset(panel, 0, static_cast<std::size_t>(bytes(work)));
  for (int i = 0; i < tokens; ++i)
    pack_strip_with_zeros(work, work.x_at(i, b * work.geo.tile_cols), 1, cols, 1, to + i * kFewPanel);
  return work.plan.row->needs != Needs::finite ||
         work.plan.kernels->tokens(Dtype::f32).all_finite(to, kFewPanel, tokens, cols);
}

std::size_t room(const Work& work, int) {
  return static_cast<std::size_t>(work.plan.tokens) * kFewRows * sizeof(float);
}

void start(const Work& work, const Factor& factor, std::int64_t t, std::int64_t, void* sums) {
  for (int i = 0; i < work.plan.tokens; ++i)
    work.plan.kernels->start(bias_of(work, factor, t), work.geo.rows_of(t), work.padded_rows(t), 1,
                             static_cast<float*>(sums) + i * kFewRows);
}

float* finish(const Work&, const Factor&, std::int64_t, std::int64_t, void* sums) {
  return static_cast<float*>(sums);
}

std::int64_t finished(const Work& work, std::int64_t, int) { return work.plan.tokens * kFewRows; }

void store(const Work& work, std::int64_t t, std::int64_t, const float* sums, const std::uint8_t*) {
  const std::int64_t row = t * work.geo.tile_rows;
  for (int i = 0; i < work.args.m; ++i)
    work.io.store_tile(sums + i * kFewRows, 1, work.geo.rows_of(t), 1, work.finish(i, row), work.y_at(i, row),
                       work.args.y_stride);
}

}  // namespace

const PanelKind kFewPanelKind{bytes, pack, room, start, finish, finished, store, false};

}  // namespace prunus
