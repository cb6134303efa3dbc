// The one place that chooses: format and tiles when a weight is packed, kernel and threads when it is used.
#pragma once
#include <optional>

#include "formats/pack.h"
#include "ops/plan.h"

namespace prunus {

// What the caller wants to be stored how.
struct Asked {
  std::optional<Format> format;  // what the nonzeros fit, where there is none
  std::optional<int> rows;       // of a block of dot; what costs least, where there are none
};

// Format, unit and tiles for w. A ValueError says when the nonzeros do not fit what was asked for.
Choice choose_format(const Dense& w, const Kept& kept, Dtype dtype, const Asked& asked);

// The bytes of w packed as chosen.
Layout plan_pack(const Dense& w, Dtype dtype, const Asked& asked);

// finite: x holds no NaN or infinity; kernels that multiply zeros must not see them.
Plan make_plan(const PackedView& w, std::int64_t m, bool finite);

// The caller has to look whether x is finite, because the kernels of a plan for finite x do not.
bool needs_finite(const PackedHeader& h);

// How many threads that much work keeps busy.
std::int32_t threads_for(double work);

}  // namespace prunus
