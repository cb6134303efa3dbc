#include "ops/linear.h"

#include <algorithm>
#include <vector>

#include "ops/chunk.h"
#include "ops/plan.h"

namespace prunus {
namespace {

// The arguments of one product, whose y begins at token `begin`.
LinearArgs of_product(const Product& product, const LinearArgs& args, std::int64_t begin = 0) {
  LinearArgs own = args;
  own.bias = product.bias;
  own.y = const_cast<void*>(
      offset(args.dtype, product.y, begin * static_cast<std::int64_t>(product.w.header.n)));
  own.y_stride = static_cast<std::int64_t>(product.w.header.n);
  own.activation = Activation::none;
  own.residual = nullptr;
  return own;
}

bool all_finite(const LinearArgs& args, std::uint64_t k) {
  return token_kernels(active_kernels(), args.dtype)
      .all_finite(args.x, args.x_stride, args.m, static_cast<std::int64_t>(k));
}

// `tokens` of args from `begin` on.
LinearArgs part_of(const LinearArgs& args, std::int64_t begin, std::int64_t tokens) {
  LinearArgs part = args;
  part.m = std::min(tokens, args.m - begin);
  part.x = offset(args.dtype, args.x, begin * args.x_stride);
  part.y = const_cast<void*>(offset(args.dtype, args.y, begin * args.y_stride));
  if (args.residual) part.residual = offset(args.dtype, args.residual, begin * args.residual_stride);
  return part;
}

// combine: what is done with args.residual.
void combined(const PackedView& w, const LinearArgs& args, Combine combine) {
  const Plan plan = make_plan(w, args.m, !needs_finite(w.header) || all_finite(args, w.header.k));
  for (std::int64_t begin = 0; begin < args.m; begin += plan.chunk) {
    const LinearArgs part = part_of(args, begin, plan.chunk);
    const Job job{w, plan, part, combine, nullptr};
    if (run(&job, 1, plan.threads)) continue;
    const Plan careful = make_plan(w, part.m, false);
    const Job again{w, careful, part, combine, nullptr};
    run(&again, 1, careful.threads);
  }
}

// One set of panels serves both.
bool same_panels(const PackedHeader& a, const Plan& p, const PackedHeader& b, const Plan& q) {
  return p.layout == q.layout && p.tokens == q.tokens && !p.strips == !q.strips && a.format == b.format &&
         a.k == b.k && a.tile_cols == b.tile_cols && a.unit.cols == b.unit.cols;
}

// And one split of the work.
bool alike(const PackedHeader& a, const Plan& p, const PackedHeader& b, const Plan& q) {
  return same_panels(a, p, b, q) && a.tile_rows == b.tile_rows && a.unit.rows == b.unit.rows;
}

constexpr int kMostTogether = 4;

enum class Ran { yes, not_finite, not_alike };

// Tokens of a call that are computed together, and how many it has in all: what the plan is made for.
struct Part {
  std::int64_t begin, of;
};

// not_alike: the weights want different panels. not_finite: x is not, and their kernels must not see it.
Ran run_together(const Product* products, int count, const LinearArgs& args, Part part, bool finite) {
  Plan plans[kMostTogether]{};
  double work = 0;
  for (int i = 0; i < count; ++i) {
    plans[i] = make_plan(products[i].w, part.of, finite);
    if (!same_panels(products[0].w.header, plans[0], products[i].w.header, plans[i])) return Ran::not_alike;
    work += plans[i].work;
  }
  std::vector<Job> jobs;
  for (int i = 0; i < count; ++i)
    jobs.push_back(
        {products[i].w, plans[i], of_product(products[i], args, part.begin), Combine::none, nullptr});
  return run(jobs.data(), count, threads_for(work)) ? Ran::yes : Ran::not_finite;
}

// act(gate) * up in one pass over x.
Ran run_gated(const PackedView& gate, const PackedView& up, const float* up_bias, const LinearArgs& args,
              Part part, bool finite) {
  const Plan plan = make_plan(gate, part.of, finite), other = make_plan(up, part.of, finite);
  if (!alike(gate.header, plan, up.header, other)) return Ran::not_alike;
  const Factor factor{up, other, up_bias};
  const Job job{gate, plan, args, Combine::none, &factor};
  return run(&job, 1, threads_for(plan.work + other.work)) ? Ran::yes : Ran::not_finite;
}

// run(finite) for x as it is; once more for any x where the kernels for a finite one must not see it.
template <typename Run>
bool run_once(bool finite, Run run) {
  const Ran ran = run(finite);
  return ran == Ran::yes || (ran == Ran::not_finite && run(false) == Ran::yes);
}

}  // namespace

void linear(const PackedView& w, const LinearArgs& args) {
  if (args.m == 0 || w.header.n == 0) return;
  combined(w, args, args.residual ? Combine::add : Combine::none);
}

void gated(const PackedView& gate, const PackedView& up, const float* up_bias, const LinearArgs& args) {
  if (args.m == 0 || gate.header.n == 0) return;
  const bool look = needs_finite(gate.header) || needs_finite(up.header);
  const bool finite = !look || all_finite(args, gate.header.k);
  const std::int64_t chunk = make_plan(gate, args.m, finite).chunk;
  for (std::int64_t begin = 0; begin < args.m; begin += chunk) {
    const LinearArgs part = part_of(args, begin, chunk);
    const auto together = [&](bool safe) {
      return run_gated(gate, up, up_bias, part, {begin, args.m}, safe);
    };
    if (run_once(finite, together)) continue;
    LinearArgs first = part, second = part;
    first.bias = up_bias;
    first.activation = Activation::none;
    second.residual = part.y;
    second.residual_stride = part.y_stride;
    combined(up, first, Combine::none);
    combined(gate, second, Combine::multiply);
  }
}

void linear_many(const Product* products, int count, const LinearArgs& args) {
  if (args.m == 0 || count == 0) return;
  bool look = false, rows = true;
  for (int i = 0; i < count; ++i) {
    look = look || needs_finite(products[i].w.header);
    rows = rows && products[i].w.header.n != 0;
  }
  const bool finite = !look || all_finite(args, products[0].w.header.k);
  const std::int64_t chunk = make_plan(products[0].w, args.m, finite).chunk;
  for (std::int64_t begin = 0; begin < args.m; begin += chunk) {
    const LinearArgs part = part_of(args, begin, chunk);
    const auto together = [&](bool safe) {
      return run_together(products, count, part, {begin, args.m}, safe);
    };
    if (rows && count <= kMostTogether && run_once(finite, together)) continue;
    for (int i = 0; i < count; ++i) linear(products[i].w, of_product(products[i], part, begin));
  }
}

}  // namespace prunus
