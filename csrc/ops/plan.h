// Which kernel, how many tokens at a time, on how many threads: decided once per call from counts alone.
#pragma once
#include <algorithm>
#include <cstdint>
#include <string>

#include "formats/tiles.h"
#include "kernels/kernels.h"

namespace prunus {

enum class PanelLayout { strip, rows, few };  // kernels/kernels.h

struct Plan {
  const KernelTable* kernels;
  TileFn kernel;
  const TileFn*
      strips;  // kernel of each strip width, for a last strip that needs less; nullptr: only `kernel`
  PanelLayout layout;
  std::int32_t tokens;   // per strip or per rows kernel
  std::int32_t threads;  // tasks of the parallel region
  double work;           // multiply-adds, padded to the strip
};

// Tokens that a strip of `tokens` live ones is wide.
inline std::int32_t strip_width(std::int64_t tokens) {
  return static_cast<std::int32_t>(std::max<std::int64_t>(8, (tokens + 7) / 8 * 8));
}

// finite: x holds no NaN or infinity; kernels that multiply zeros must not see them.
// needs_finite: the caller has to look, because the kernels of a plan for finite x do not.
Plan make_plan(const PackedView& w, std::int64_t m, bool finite);
// How many threads that much work keeps busy.
std::int32_t threads_for(double work);
bool needs_finite(const PackedHeader& h);

// As `_core.kernels()` names it: format, way, value type, tokens.
std::string kernel_name(const PackedHeader& h, const Plan& plan);

}  // namespace prunus
