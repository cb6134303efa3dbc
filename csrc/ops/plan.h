// Which kernel, how wide, on how many threads: decided once per call from counts alone, never per row.
#pragma once
#include <cstdint>

#include "formats/col8.h"
#include "kernels/kernels.h"

namespace prunus {

struct Plan {
  const KernelTable* kernels;
  Col8Fn kernel;
  std::int32_t width;    // tokens per strip, one of PRUNUS_STRIP_WIDTHS
  std::int32_t threads;  // tasks of the parallel region
  std::int64_t chunk;    // tokens whose panels are held at once, a multiple of width (or m)
};

Plan make_plan(const PackedView& w, std::int64_t m);

}  // namespace prunus
