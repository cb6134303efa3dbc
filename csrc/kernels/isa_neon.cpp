// The neon kernels: compiled with the aarch64 baseline (CMakeLists.txt), sealed, one exported table.
#include <arm_neon.h>

#include "kernels/row.h"
#include "kernels/score_kernels.h"

namespace prunus {
namespace {
#include "kernels/sealed.inl.h"
#include "kernels/simd/neon.h"
#include "kernels/linear/all.inl.h"
#include "kernels/score/all.inl.h"
#include "kernels/rows.inl.h"

constexpr Row kRows[] = {PRUNUS_VECTOR_ROWS PRUNUS_CAREFUL_ROWS PRUNUS_VALUES(PRUNUS_BLOCK)};
}  // namespace

extern const IsaRows kNeonRows;
const IsaRows kNeonRows = isa_rows(Isa::neon, kRows, &kScores);

}  // namespace prunus
