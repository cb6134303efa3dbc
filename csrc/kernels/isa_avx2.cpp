// The avx2 kernels: compiled with -mavx2 -mfma (CMakeLists.txt), sealed, one exported table.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace prunus {
namespace {
#include "kernels/simd/avx2.h"
#include "kernels/table.inl.h"
}  // namespace

extern const KernelTable kAvx2Kernels;
const KernelTable kAvx2Kernels = make_table(Isa::avx2);

}  // namespace prunus
