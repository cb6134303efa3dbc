#include "ops/plan.h"

#include <algorithm>

#include "core/parallel.h"

namespace prunus {
namespace {

// Multiply-adds (padded to the strip) below which waking a thread costs more than it brings.
constexpr double kWorkPerThread = 40e3;

double density(const PackedHeader& h) {
  return static_cast<double>(h.nnz) / std::max(1.0, static_cast<double>(h.n) * static_cast<double>(h.k));
}

// A bitmap's weight for few tokens: expanding eight weights at once costs the same whatever is set, and grows
// with the tokens; walking the set bits costs the same for one to eight tokens, and grows with the bits.
// Where they cross on Zen 4: 0.5 between 4 and 5 tokens, 0.3 between 2 and 3.
bool expand_bits(const KernelTable& kernels, const PackedHeader& h, std::int64_t m) {
  return m <= kernels.expand_always ||
         (m <= kMaxRowTokens && density(h) > 0.1 + 0.08 * static_cast<double>(m));
}

// A tile of col8 for a token at a time: its tables of activations pay where many nonzeros are looked up.
bool look_up(const KernelTable& kernels, const PackedHeader& h, std::int64_t m) {
  return m == 1 || (m <= kernels.look_up_most && density(h) > 0.12);
}

// Strips of at most `most` tokens; the last is as wide as its tokens need.
void take_strips(const TileFn* strips, std::int64_t m, std::int32_t most, Plan& plan) {
  plan.tokens = std::min(most, strip_width(m));
  plan.strips = strips;
  plan.kernel = strips[plan.tokens / 8 - 1];
}

// nm and block: rows as lanes up to here, all tokens of a call in one pass over the weight.
constexpr std::int64_t kFewTokens = 4;

// As many tokens as leave the registers room for `rows` sums each: rows of a block share what they load.
std::int32_t block_strip(const KernelTable& kernels, int rows) {
  const int width = kernels.lanes * std::max(1, kernels.accumulators / std::min(rows, 4));
  return std::min(kMaxStrip, width / 8 * 8);
}

void choose_pattern_kernel(const PackedHeader& h, std::int64_t m, bool finite, Plan& plan) {
  const ValueKernels& kernels = value_kernels(*plan.kernels, h.dtype);
  const bool nm = h.format == Format::nm;
  if (!finite) {
    plan.tokens = 8;
    plan.kernel = nm ? kernels.nm_careful : kernels.block_careful;
  } else if (m <= kFewTokens) {
    plan.layout = PanelLayout::few;
    const int index = m <= 2 ? static_cast<int>(m) - 1 : 2;
    plan.tokens = 1 << index;
    const TileFn* few = nm ? kernels.nm_few : kernels.block_few;
    plan.kernel = few[index];
  } else {
    const std::int32_t most = nm ? kMaxStrip : block_strip(*plan.kernels, h.unit.rows);
    take_strips(nm ? kernels.nm : kernels.block, m, most, plan);
  }
}

void choose_kernel(const PackedHeader& h, std::int64_t m, bool finite, Plan& plan) {
  const ValueKernels& kernels = value_kernels(*plan.kernels, h.dtype);
  if (h.format == Format::nm || h.format == Format::block) return choose_pattern_kernel(h, m, finite, plan);
  const bool bitmap = h.format == Format::bitmap;
  if (bitmap && finite && expand_bits(*plan.kernels, h, m)) {
    plan.layout = PanelLayout::rows;
    plan.tokens = static_cast<std::int32_t>(m);
    plan.kernel = kernels.bitmap_rows[m - 1];
  } else if (!bitmap && look_up(*plan.kernels, h, m)) {
    plan.layout = PanelLayout::few;
    plan.tokens = static_cast<std::int32_t>(m);
    plan.kernel = kernels.col8_few[m - 1];
  } else {
    take_strips(bitmap ? kernels.bitmap : kernels.col8, m, kMaxStrip, plan);
  }
}

}  // namespace

bool needs_finite(const PackedHeader& h) {
  return (h.format == Format::nm || h.format == Format::block) && h.holes;
}

Plan make_plan(const PackedView& w, std::int64_t m, bool finite) {
  Plan plan{};
  plan.kernels = &active_kernels();
  choose_kernel(w.header, m, finite, plan);
  plan.work = static_cast<double>(w.header.nnz) * static_cast<double>(m == 1 ? 4 : strip_width(m));
  plan.threads = threads_for(plan.work);
  return plan;
}

std::int32_t threads_for(double work) {
  const double useful = std::max(1.0, work / (4 * kWorkPerThread));
  return static_cast<std::int32_t>(std::min<double>(num_threads(), useful));
}

std::string kernel_name(const PackedHeader& h, const Plan& plan) {
  const char* value = "";
  switch (h.dtype) {
#define PRUNUS_CASE(index, type) \
  case Dtype::type:              \
    value = #type;               \
    break;
    PRUNUS_VALUES(PRUNUS_CASE)
#undef PRUNUS_CASE
    default:
      break;
  }
  const char* way = plan.layout == PanelLayout::rows  ? "_rows_"
                    : plan.layout == PanelLayout::few ? "_few_"
                                                      : "_";
  return std::string(format_name(h.format)) + way + value + "_" + std::to_string(plan.tokens);
}

}  // namespace prunus
