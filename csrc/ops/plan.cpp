#include "ops/plan.h"

#include <algorithm>

#include "core/parallel.h"

namespace prunus {
namespace {

// Panels of a chunk of tokens are written once and read by every row tile: keep them in the last-level cache.
constexpr std::int64_t kPanelBytes = 8 << 20;

// Multiply-adds (padded to the strip width) below which waking a thread costs more than it brings.
constexpr double kWorkPerThread = 150e3;

// A strip of the widest tile must leave L1 some room.
std::int32_t widest_strip(std::int32_t tile_cols) {
  return tile_cols > 192 ? 32 : tile_cols > 128 ? 48 : kMaxStrip;
}

std::int64_t round8(std::int64_t v) { return (v + 7) / 8 * 8; }

}  // namespace

Plan make_plan(const PackedView& w, std::int64_t m) {
  Plan plan{};
  plan.kernels = &active_kernels();
  // Strips of equal width rather than full ones and a rest: no cliff just above a multiple of the widest.
  const std::int64_t widest = widest_strip(w.header.tile_cols);
  const std::int64_t strips = std::max<std::int64_t>(1, (m + widest - 1) / widest);
  plan.width =
      m == 1 ? 1 : static_cast<std::int32_t>(std::max<std::int64_t>(8, round8((m + strips - 1) / strips)));
  plan.kernel = col8_kernel(*plan.kernels, plan.width);

  const auto k = static_cast<std::int64_t>(w.header.k);
  const std::int64_t fit =
      kPanelBytes / (static_cast<std::int64_t>(sizeof(float)) * std::max<std::int64_t>(k, 1));
  plan.chunk = std::max<std::int64_t>(1, fit / plan.width) * plan.width;

  const double work = static_cast<double>(w.header.nnz) * static_cast<double>(round8(m));
  const double useful = std::max(1.0, work / (m == 1 ? kWorkPerThread : 4 * kWorkPerThread));
  plan.threads = static_cast<std::int32_t>(std::min<double>(num_threads(), useful));
  return plan;
}

}  // namespace prunus
