// The neon kernels: compiled with the aarch64 baseline (CMakeLists.txt), sealed, one exported table.
#include <arm_neon.h>

#include "kernels/row.h"
#include "kernels/score_kernels.h"

namespace prunus {
namespace {
// What stands in for std,
#include "kernels/sealed.inl.h"
// the vectors,
#include "kernels/simd/neon.h"
// the kernels over them,
#include "kernels/linear/all.inl.h"
#include "kernels/score/all.inl.h"
// and how their rows are written.
#include "kernels/rows.inl.h"

constexpr Row kRows[] = {PRUNUS_VECTOR_ROWS PRUNUS_CAREFUL_ROWS PRUNUS_VALUES(PRUNUS_BLOCK)};
}  // namespace

extern const IsaRows kNeonRows;
const IsaRows kNeonRows = isa_rows(Isa::neon, kRows, &kScores);

}  // namespace prunus
