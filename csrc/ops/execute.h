// The schedule of one call: strips of tokens into panels, row tiles of the weights into y, shared by threads.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "ops/work.h"

namespace prunus {

// Computes jobs that share one set of panels (the x of the first). False when x holds NaN or infinity and the
// kernels must not see them; y is not yet written then.
bool execute(const Job* jobs, int count, std::int32_t threads);

// How evenly the threads of a plan share m tokens: a mean thread's cost over that of the busiest one.
double balance(const PackedView& w, const Plan& plan, std::int64_t m);

// Names of the tile kernels that the last execute() of this thread ran.
std::vector<std::string> last_kernels();

}  // namespace prunus
