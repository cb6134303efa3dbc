#include "kernels/kernels.h"

namespace prunus {

// One per isa_<isa>.cpp.
extern const KernelTable kScalarKernels;
#if defined(__x86_64__)
extern const KernelTable kAvx2Kernels, kAvx512Kernels;
#elif defined(__aarch64__)
extern const KernelTable kNeonKernels;
#endif

const KernelTable& active_kernels() {
  switch (active_isa()) {
#if defined(__x86_64__)
    case Isa::avx2:
      return kAvx2Kernels;
    case Isa::avx512:
      return kAvx512Kernels;
#elif defined(__aarch64__)
    case Isa::neon:
      return kNeonKernels;
#endif
    default:
      return kScalarKernels;
  }
}

Col8Fn col8_kernel(const KernelTable& table, int width) {
  switch (width) {
#define PRUNUS_CASE(w) \
  case w:              \
    return table.col8_f32_##w;
    PRUNUS_STRIP_WIDTHS(PRUNUS_CASE)
#undef PRUNUS_CASE
    default:
      return nullptr;
  }
}

}  // namespace prunus
