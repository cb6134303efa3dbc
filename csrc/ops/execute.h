// The work of one call: activations into panels, tiles into y.
#pragma once
#include <cstdint>

#include "kernels/kernels.h"
#include "ops/linear.h"
#include "ops/plan.h"

namespace prunus {

// A weight and the kernel for it.
struct Factor {
  const PackedView& w;
  const Plan& plan;
  const float* bias;
};

// One product. What args says of threads and tokens is the plan's.
struct Job {
  const PackedView& w;
  const Plan& plan;
  LinearArgs args;
  Combine combine;   // with args.residual
  const Factor* up;  // what gates y, tiled like w; or nullptr
};

// Computes jobs that share one set of panels (the x of the first). False when x holds NaN or infinity and the
// kernels must not see them; y is not yet written then.
bool execute(const Job* jobs, int count, std::int32_t threads);

// How evenly the threads of a plan share m tokens: a mean thread's cost over that of the busiest one.
double balance(const PackedView& w, const Plan& plan, std::int64_t m);

inline const void* offset(Dtype dtype, const void* data, std::int64_t elements) {
  return static_cast<const std::uint8_t*>(data) + elements * static_cast<std::int64_t>(dtype_size(dtype));
}

}  // namespace prunus
