// Panel "strip": tokens are the lanes. [cols + zero columns][width], sums [rows][width].
#include "ops/panels/panel.h"

namespace prunus {
namespace {

std::int64_t bytes(const Work& work) {
  return (work.geo.tile_cols + zero_columns(work.w.header)) * work.plan.tokens *
         static_cast<std::int64_t>(sizeof(float));
}

bool pack(const Work& work, std::int64_t s, std::int64_t b, void* panel) {
  const void* x = work.x_at(s * work.plan.tokens, b * work.geo.tile_cols);
  pack_strip_with_zeros(work, x, work.tokens_of(s), work.geo.cols_of(b), work.width_of(s),
                        static_cast<float*>(panel));
  return true;
}

std::size_t room(const Work& work, int padded_rows) {
  return static_cast<std::size_t>(padded_rows * work.plan.tokens) * sizeof(float);
}

void start(const Work& work, const Factor& factor, std::int64_t t, std::int64_t s, void* sums) {
  work.plan.kernels->start(bias_of(work, factor, t), work.geo.rows_of(t), work.padded_rows(t),
                           work.width_of(s), static_cast<float*>(sums));
}

float* finish(const Work&, const Factor&, std::int64_t, std::int64_t, void* sums) {
  return static_cast<float*>(sums);
}

std::int64_t finished(const Work& work, std::int64_t s, int padded_rows) {
  return padded_rows * work.width_of(s);
}

void store(const Work& work, std::int64_t t, std::int64_t s, const float* sums, const std::uint8_t*) {
  const std::int64_t row = t * work.geo.tile_rows, token = s * work.plan.tokens;
  work.io.store_tile(sums, work.width_of(s), work.geo.rows_of(t), work.tokens_of(s), work.finish(token, row),
                     work.y_at(token, row), work.args.y_stride);
}

}  // namespace

const PanelKind kStripPanel{bytes, pack, room, start, finish, finished, store, true};

}  // namespace prunus
