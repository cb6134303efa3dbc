#include "ops/plan.h"

#include <algorithm>

#include "core/parallel.h"

namespace prunus {
namespace {

// Panels of a chunk of tokens are written once and read by every row tile: keep them in the last-level cache.
constexpr std::int64_t kPanelBytes = 8 << 20;

// Multiply-adds (padded to the strip width) below which waking a thread costs more than it brings.
constexpr double kWorkPerThread = 150e3;

std::int64_t round8(std::int64_t v) { return (v + 7) / 8 * 8; }

// Tokens per strip. Strips share one width; of the wide ones the one that pads m least, the widest among
// equals.
std::int32_t choose_width(std::int64_t m) {
  if (m == 1) return 1;
  if (m <= kMaxStrip) return static_cast<std::int32_t>(std::max<std::int64_t>(8, round8(m)));
  std::int32_t best = kMaxStrip;
  const auto padded = [m](std::int32_t width) { return (m + width - 1) / width * width; };
  for (std::int32_t width = kMaxStrip - 8; width >= kMaxStrip / 2; width -= 8)
    if (padded(width) < padded(best)) best = width;
  return best;
}

}  // namespace

Plan make_plan(const PackedView& w, std::int64_t m) {
  Plan plan{};
  plan.kernels = &active_kernels();
  plan.width = choose_width(m);
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
