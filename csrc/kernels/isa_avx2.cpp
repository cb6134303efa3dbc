// The avx2 kernels: compiled with -mavx2 -mfma (CMakeLists.txt), sealed, one exported table.
#include <immintrin.h>

#include "kernels/row.h"
#include "kernels/score_kernels.h"

namespace prunus {
namespace {
// What stands in for std,
#include "kernels/sealed.inl.h"
// the vectors,
#include "kernels/simd/avx2.h"
// their dot products,
#include "kernels/simd/dot_ymm.h"
// the kernels over them,
#include "kernels/linear/all.inl.h"
// those of dot lanes,
#include "kernels/linear/dot.inl.h"
#include "kernels/score/all.inl.h"
// and how their rows are written.
#include "kernels/rows.inl.h"

constexpr Row kRows[] = {PRUNUS_VECTOR_ROWS PRUNUS_CAREFUL_ROWS PRUNUS_DOT_ROWS PRUNUS_VALUES(PRUNUS_BLOCK)};
}  // namespace

extern const IsaRows kAvx2Rows;
const IsaRows kAvx2Rows = isa_rows(Isa::avx2, kRows, &kScores);

}  // namespace prunus
