#include "ops/linear.h"

#include <vector>

#include "ops/execute.h"
#include "ops/panels/panel.h"
#include "ops/policy/policy.h"

namespace prunus {
namespace {

// The arguments of one product.
LinearArgs of_product(const Product& product, const LinearArgs& args) {
  LinearArgs own = args;
  own.bias = product.bias;
  own.y = product.y;
  own.y_stride = static_cast<std::int64_t>(product.w.header.n);
  own.activation = Activation::none;
  own.residual = nullptr;
  return own;
}

bool all_finite(const LinearArgs& args, std::uint64_t k) {
  return active_kernels()
      .tokens(args.dtype)
      .all_finite(args.x, args.x_stride, args.m, static_cast<std::int64_t>(k));
}

// combine: what is done with args.residual.
void combined(const PackedView& w, const LinearArgs& args, Combine combine) {
  const auto run = [&](bool finite) {
    const Plan plan = make_plan(w, args.m, finite);
    const Job job{w, plan, args, combine, nullptr};
    return execute(&job, 1, plan.threads);
  };
  if (!run(!needs_finite(w.header) || all_finite(args, w.header.k))) run(false);
}

// One set of panels serves both.
bool same_panels(const PackedHeader& a, const Plan& p, const PackedHeader& b, const Plan& q) {
  return p.row->panel == q.row->panel && p.row->needs == q.row->needs && p.tokens == q.tokens &&
         p.last->width == q.last->width && a.format == b.format && a.k == b.k && a.tile_cols == b.tile_cols &&
         a.unit.cols == b.unit.cols;
}

// And one split of the work.
bool alike(const PackedHeader& a, const Plan& p, const PackedHeader& b, const Plan& q) {
  return same_panels(a, p, b, q) && a.tile_rows == b.tile_rows && a.unit.rows == b.unit.rows;
}

constexpr int kMostTogether = 4;

enum class Ran { yes, not_finite, not_alike };

// not_alike: the weights want different panels. not_finite: x is not, and their kernels must not see it.
Ran run_together(const Product* products, int count, const LinearArgs& args, bool finite) {
  Plan plans[kMostTogether]{};
  double work = 0;
  for (int i = 0; i < count; ++i) {
    plans[i] = make_plan(products[i].w, args.m, finite);
    if (!same_panels(products[0].w.header, plans[0], products[i].w.header, plans[i])) return Ran::not_alike;
    work += plans[i].work;
  }
  std::vector<Job> jobs;
  for (int i = 0; i < count; ++i)
    jobs.push_back({products[i].w, plans[i], of_product(products[i], args), Combine::none, nullptr});
  return execute(jobs.data(), count, threads_for(work)) ? Ran::yes : Ran::not_finite;
}

// act(gate) * up in one pass over x.
Ran run_gated(const PackedView& gate, const PackedView& up, const float* up_bias, const LinearArgs& args,
              bool finite) {
  const Plan plan = make_plan(gate, args.m, finite), other = make_plan(up, args.m, finite);
  if (!alike(gate.header, plan, up.header, other) || !panel_kind(plan.row->panel).finished)
    return Ran::not_alike;
  const Factor factor{up, other, up_bias};
  const Job job{gate, plan, args, Combine::none, &factor};
  return execute(&job, 1, threads_for(plan.work + other.work)) ? Ran::yes : Ran::not_finite;
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
  if (run_once(finite, [&](bool safe) { return run_gated(gate, up, up_bias, args, safe); })) return;
  LinearArgs first = args, second = args;
  first.bias = up_bias;
  first.activation = Activation::none;
  second.residual = args.y;
  second.residual_stride = args.y_stride;
  combined(up, first, Combine::none);
  combined(gate, second, Combine::multiply);
}

void linear_many(const Product* products, int count, const LinearArgs& args) {
  if (args.m == 0 || count == 0) return;
  bool look = false, rows = true;
  for (int i = 0; i < count; ++i) {
    look = look || needs_finite(products[i].w.header);
    rows = rows && products[i].w.header.n != 0;
  }
  const bool finite = !look || all_finite(args, products[0].w.header.k);
  const auto together = [&](bool safe) { return run_together(products, count, args, safe); };
  if (rows && count <= kMostTogether && run_once(finite, together)) return;
  for (int i = 0; i < count; ++i) linear(products[i].w, of_product(products[i], args));
}

}  // namespace prunus
