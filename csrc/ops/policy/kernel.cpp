#include <algorithm>

#include "core/check.h"
#include "core/parallel.h"
#include "ops/policy/policy.h"
#include "ops/policy/thresholds.h"

namespace prunus {
namespace {

double share_kept(const PackedHeader& h) {
  return static_cast<double>(h.nnz) / std::max(1.0, static_cast<double>(h.n) * static_cast<double>(h.k));
}

// What is asked of the rows of the active isa.
struct Search {
  const PackedHeader& h;
  const Kernels& kernels;
  Needs needs;  // what x can give
  const Row* row(Panel panel, std::int32_t tokens) const { return kernels.tile(h, panel, tokens, needs); }
};

Plan single(const Row* row, const char* reason) {
  Plan plan{};
  plan.row = plan.last = row;
  plan.tokens = row->width;
  plan.reason = reason;
  return plan;
}

// Strips of at most `most` tokens; the last is as wide as its tokens need.
Plan strips(const Search& search, std::int64_t m, std::int32_t most, const char* reason) {
  Plan plan = single(search.row(Panel::strip, std::min(most, strip_width(m))), reason);
  const std::int64_t rest = m % plan.tokens;
  if (rest != 0) plan.last = search.row(Panel::strip, strip_width(rest));
  return plan;
}

Plan bitmap_plan(const Search& search, std::int64_t m) {
  using namespace threshold;
  const bool few =
      m <= thresholds(search.kernels.isa).expand_always ||
      (m <= kMaxRowTokens && share_kept(search.h) > kExpandBase + kExpandPerToken * static_cast<double>(m));
  if (few)
    if (const Row* row = search.row(Panel::rows, static_cast<std::int32_t>(m)))
      return single(row, "few tokens for its share of kept weights: rows are expanded, zeros multiplied");
  return strips(search, m, kMaxStrip, "set bits are walked for a strip of tokens");
}

Plan col8_plan(const Search& search, std::int64_t m) {
  const bool few = m == 1 || (m <= thresholds(search.kernels.isa).look_up_most &&
                              share_kept(search.h) > threshold::kLookUpShare);
  if (few)
    if (const Row* row = search.row(Panel::few, static_cast<std::int32_t>(m)))
      return single(row, "few tokens: rows are the lanes, activations are looked up");
  return strips(search, m, kMaxStrip, "nonzeros are walked for a strip of tokens");
}

// As many tokens as leave the registers room for the sums of the rows of a block.
std::int32_t block_strip(const Search& search) {
  const int width = thresholds(search.kernels.isa).sums / std::min<int>(search.h.unit.rows, 4) / 8 * 8;
  return std::clamp(width, 8, kMaxStrip);
}

// nm and block.
Plan pattern_plan(const Search& search, std::int64_t m, std::int32_t most) {
  if (search.needs == Needs::any) {
    const Row* careful = search.row(Panel::strip, 8);
    return single(careful, "x holds NaN or infinity: zeros among the stored values are skipped");
  }
  if (m <= threshold::kFewTokens)
    return single(search.row(Panel::few, m <= 2 ? static_cast<std::int32_t>(m) : 4),
                  "few tokens: rows are the lanes");
  return strips(search, m, most, "a strip of tokens");
}

// Strips of `most` tokens, or of fewer where that isa has no wider kernel for the type; the last as narrow as
// its tokens allow.
Plan dot_plan(const Search& search, std::int64_t m) {
  const IsaThresholds& of = thresholds(search.kernels.isa);
  const bool flat = search.h.unit.rows == 1, tall = search.h.unit.rows >= 16;
  if (m <= (flat ? threshold::kDotFewFlat : tall ? of.dot_tall_few : threshold::kDotFew)) {
    const std::int32_t width = m <= 2 ? static_cast<std::int32_t>(m) : m <= threshold::kFewTokens ? 4 : 8;
    if (const Row* few = search.row(Panel::lane_rows, width))
      return single(few, "few tokens: lanes of the weight are the lanes");
  }
  const auto widest = [&](std::int64_t tokens) {
    const int most = tall ? of.dot_tall_strip : of.dot_strip, least = tall ? of.dot_tall_least : 8;
    if (tokens <= least) return search.row(Panel::lanes, least);
    auto width = static_cast<std::int32_t>(std::min<std::int64_t>(most, (tokens + 15) / 16 * 16));
    while (!search.row(Panel::lanes, width)) width -= 16;
    return search.row(Panel::lanes, width);
  };
  Plan plan = single(widest(m), "a strip of tokens, as lanes of 32 bits");
  if (m % plan.tokens != 0) plan.last = widest(m % plan.tokens);
  return plan;
}

Plan choose(const Search& search, std::int64_t m) {
  switch (search.h.format) {
    case Format::col8:
      return col8_plan(search, m);
    case Format::bitmap:
      return bitmap_plan(search, m);
    case Format::nm:
      return pattern_plan(search, m, kMaxStrip);
    case Format::block:
      return pattern_plan(search, m, block_strip(search));
    case Format::dot:
      return dot_plan(search, m);
    case Format::warp:
      throw ValueError(expected_got("packed", "a format that CPUs multiply", "warp, which is for CUDA"));
  }
  __builtin_unreachable();
}

}  // namespace

bool needs_finite(const PackedHeader& h) {
  return (h.format == Format::nm || h.format == Format::block) && h.holes;
}

Plan make_plan(const PackedView& w, std::int64_t m, bool finite) {
  const Kernels& kernels = active_kernels();
  // What a weight without holes needs of x, any x has.
  const Needs met = finite ? Needs::finite : needs_finite(w.header) ? Needs::any : Needs::finite_for_holes;
  Plan plan = choose({w.header, kernels, met}, m);
  plan.kernels = &kernels;
  plan.work = static_cast<double>(w.header.nnz) * static_cast<double>(m == 1 ? 4 : strip_width(m));
  plan.threads = threads_for(plan.work);
  return plan;
}

std::int32_t threads_for(double work) {
  const double useful = std::max(1.0, work / threshold::kWorkPerThread);
  return static_cast<std::int32_t>(std::min<double>(num_threads(), useful));
}

}  // namespace prunus
