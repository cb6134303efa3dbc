// The avx512icl kernels: avx512 and -mavx512vbmi,vbmi2,vnni (CMakeLists.txt), sealed, one exported table.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace prunus {
namespace {
#include "kernels/simd/avx512icl.h"
#include "kernels/table.inl.h"
}  // namespace

extern const KernelTable kAvx512IclKernels;
const KernelTable kAvx512IclKernels = make_table(Isa::avx512icl);

}  // namespace prunus
