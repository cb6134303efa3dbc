#include "kernels/kernels.h"

namespace prunus {

// One per isa_<isa>.cpp.
extern const KernelTable kScalarKernels;
#if defined(__x86_64__)
extern const KernelTable kAvx2Kernels, kAvx512Kernels, kAvx512IclKernels;
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
    case Isa::avx512icl:
      return kAvx512IclKernels;
#elif defined(__aarch64__)
    case Isa::neon:
      return kNeonKernels;
#endif
    default:
      return kScalarKernels;
  }
}

const ValueKernels& value_kernels(const KernelTable& table, Dtype dtype) {
  switch (dtype) {
#define PRUNUS_CASE(index, type) \
  case Dtype::type:              \
    return table.values[index];
    PRUNUS_VALUES(PRUNUS_CASE)
#undef PRUNUS_CASE
    default:
      return table.values[0];
  }
}

const TokenKernels& token_kernels(const KernelTable& table, Dtype dtype) {
  switch (dtype) {
#define PRUNUS_CASE(index, type) \
  case Dtype::type:              \
    return table.tokens[index];
    PRUNUS_TOKEN_TYPES(PRUNUS_CASE)
#undef PRUNUS_CASE
    default:
      return table.tokens[0];
  }
}

#define PRUNUS_OF(type, name)             \
  template <>                             \
  const KeyKernels<type>& key_kernels() { \
    return active_kernels().scores.name;  \
  }
PRUNUS_KEYS(PRUNUS_OF)
#undef PRUNUS_OF
#define PRUNUS_OF(type, name)                 \
  template <>                                 \
  const ScoreKernels<type>& score_kernels() { \
    return active_kernels().scores.name;      \
  }
PRUNUS_FLOATS(PRUNUS_OF)
#undef PRUNUS_OF

}  // namespace prunus
