// The scalar kernels: compiled with the baseline flags, sealed, one exported table.
#include "kernels/kernels.h"

namespace prunus {
namespace {
#include "kernels/simd/scalar.h"
#include "kernels/table.inl.h"
}  // namespace

extern const KernelTable kScalarKernels;
const KernelTable kScalarKernels = make_table(Isa::scalar);

}  // namespace prunus
