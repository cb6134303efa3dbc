// Which kernel, how many tokens at a time, on how many threads: decided once per call from counts alone.
#pragma once
#include <cstdint>

#include "formats/tiles.h"
#include "kernels/kernels.h"

namespace prunus {

struct Plan {
  const KernelTable* kernels;
  TileFn kernel;
  bool rows;             // layout of panels and accumulators: "rows" or "strip" (kernels/kernels.h)
  std::int32_t tokens;   // per strip or per rows kernel
  std::int32_t threads;  // tasks of the parallel region
  std::int64_t chunk;    // tokens whose panels are held at once, a multiple of tokens
};

// finite: x holds no NaN or infinity; kernels that multiply zeros must not see them.
Plan make_plan(const PackedView& w, std::int64_t m, bool finite);

}  // namespace prunus
