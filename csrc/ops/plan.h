// What a call does: which kernel, how many tokens at a time, on how many threads. Chosen by ops/policy from
// counts alone.
#pragma once
#include <algorithm>
#include <cstdint>

#include "kernels/kernels.h"

namespace prunus {

struct Plan {
  const Kernels* kernels;
  const Row* row;        // the tile kernel
  const Row* last;       // of the last strip, which may be narrower
  std::int32_t tokens;   // that one call of the kernel takes
  std::int32_t threads;  // tasks of the parallel region
  double work;           // multiply-adds, padded to the strip
  const char* reason;    // why this kernel, a sentence's end for explain
};

// Tokens that a strip of `tokens` live ones is wide.
inline std::int32_t strip_width(std::int64_t tokens) {
  return static_cast<std::int32_t>(std::max<std::int64_t>(8, (tokens + 7) / 8 * 8));
}

}  // namespace prunus
