// The scalar kernels: compiled with the baseline flags (CMakeLists.txt), sealed, one exported table.
#include "kernels/row.h"
#include "kernels/score_kernels.h"

namespace prunus {
namespace {
// What stands in for std,
#include "kernels/sealed.inl.h"
// the vectors,
#include "kernels/simd/scalar.h"
// their dot products,
#include "kernels/simd/dot_scalar.h"
// the kernels over them,
#include "kernels/linear/all.inl.h"
// those of dot lanes,
#include "kernels/linear/dot.inl.h"
#include "kernels/score/all.inl.h"
// attention: what its masks are made of,
#include "kernels/attention/attention_mask.inl.h"
// and the definition,
#include "kernels/attention/attention_plain.inl.h"
// and how their rows are written.
#include "kernels/rows.inl.h"

constexpr Row kRows[] = {PRUNUS_VECTOR_ROWS PRUNUS_CAREFUL_ROWS PRUNUS_DOT_ROWS PRUNUS_VALUES(
    PRUNUS_NARROW_BLOCK) PRUNUS_TOKEN_TYPES(PRUNUS_ATTENTION_PLAIN)};
}  // namespace

extern const IsaRows kScalarRows;
const IsaRows kScalarRows = isa_rows(Isa::scalar, kRows, &kScores);

}  // namespace prunus
