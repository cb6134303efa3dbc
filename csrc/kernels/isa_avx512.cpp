// The avx512 kernels: compiled with -mavx512f,bw,vl,dq (CMakeLists.txt), sealed, one exported table.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace prunus {
namespace {
#include "kernels/simd/avx512.h"
#include "kernels/table.inl.h"
}  // namespace

extern const KernelTable kAvx512Kernels;
const KernelTable kAvx512Kernels = make_table(Isa::avx512);

}  // namespace prunus
