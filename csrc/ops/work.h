// One product of a call: what was asked, how w is cut, and where the tokens of a strip lie.
#pragma once
#include <algorithm>
#include <cstdint>

#include "formats/tiles.h"
#include "ops/linear.h"
#include "ops/plan.h"

namespace prunus {

// A weight and the plan for it.
struct Factor {
  const PackedView& w;
  const Plan& plan;
  const float* bias;
};

// What args says of threads and tokens is the plan's.
struct Job {
  const PackedView& w;
  const Plan& plan;
  LinearArgs args;
  Combine combine;   // with args.residual
  const Factor* up;  // what gates y, tiled like w; or nullptr
};

inline const void* offset(Dtype dtype, const void* data, std::int64_t elements) {
  return static_cast<const std::uint8_t*>(data) + elements * static_cast<std::int64_t>(dtype_size(dtype));
}

// A strip is the tokens of one call of the kernel.
struct Work : Job {
  explicit Work(const Job& job)
      : Job(job),
        geo(geometry(w.header)),
        strips((args.m + plan.tokens - 1) / plan.tokens),
        io(plan.kernels->tokens(args.dtype)) {}
  Geometry geo;
  std::int64_t strips;
  const TokenKernels& io;

  const void* x_at(std::int64_t token, std::int64_t col) const {
    return offset(args.dtype, args.x, token * args.x_stride + col);
  }
  void* y_at(std::int64_t token, std::int64_t row) const {
    return const_cast<void*>(offset(args.dtype, args.y, token * args.y_stride + row));
  }
  // How the sums of the rows from `row` on become y, those of `token` first.
  Finish finish(std::int64_t token, std::int64_t row) const {
    if (combine == Combine::none) return {up ? Activation::none : args.activation, combine, nullptr, 0};
    return {args.activation, combine, offset(args.dtype, args.residual, token * args.residual_stride + row),
            args.residual_stride};
  }

  int tokens_of(std::int64_t s) const {
    return static_cast<int>(std::min<std::int64_t>(plan.tokens, args.m - s * plan.tokens));
  }
  // The kernel of a strip, and the tokens that it takes.
  const Row& row_of(const Plan& of, std::int64_t s) const { return s == strips - 1 ? *of.last : *of.row; }
  int width_of(std::int64_t s) const { return row_of(plan, s).width; }
  int padded_rows(std::int64_t t) const { return round_up(geo.rows_of(t), group_rows(w.header)); }
};

}  // namespace prunus
