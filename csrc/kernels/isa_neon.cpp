// The neon kernels: compiled with the aarch64 baseline, sealed, one exported table.
#include <arm_neon.h>

#include "kernels/kernels.h"

namespace prunus {
namespace {
#include "kernels/simd/neon.h"
#include "kernels/table.inl.h"
}  // namespace

extern const KernelTable kNeonKernels;
const KernelTable kNeonKernels = make_table(Isa::neon);

}  // namespace prunus
