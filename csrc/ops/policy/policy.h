// The one place that chooses: format and tiles when a weight is packed, kernel and threads when it is used.
#pragma once
#include "formats/pack.h"
#include "ops/plan.h"

namespace prunus {

// Format, unit and tiles for w; `forced` (not nullptr) asks for a format, and a ValueError says when the
// nonzeros do not fit it.
Choice choose_format(const Dense& w, const Kept& kept, Dtype dtype, const Format* forced);

// The bytes of w packed as chosen.
Layout plan_pack(const Dense& w, Dtype dtype, const Format* forced);

// finite: x holds no NaN or infinity; kernels that multiply zeros must not see them.
Plan make_plan(const PackedView& w, std::int64_t m, bool finite);

// The caller has to look whether x is finite, because the kernels of a plan for finite x do not.
bool needs_finite(const PackedHeader& h);

// How many threads that much work keeps busy.
std::int32_t threads_for(double work);

}  // namespace prunus
