// What AVX-VNNI adds to avx2: compiled with -mavxvnni (CMakeLists.txt), sealed, one exported table.
#include <immintrin.h>

#include "kernels/row.h"
#include "kernels/score_kernels.h"  // simd/keys.h

namespace prunus {
namespace {
// What stands in for std,
#include "kernels/sealed.inl.h"
// the vectors,
#include "kernels/simd/avx2.h"
// and their dot products,
#include "kernels/simd/dot_ymm.h"
// the kernels over them,
#include "kernels/linear/fetch.inl.h"
// which these use,
#include "kernels/linear/dot_strip.inl.h"
// with few tokens too,
#include "kernels/linear/dot_few.inl.h"
// and how their rows are written.
#include "kernels/rows.inl.h"

constexpr Row kRows[] = {PRUNUS_SHORT_DOTS(i8) PRUNUS_DOT_FEW(i8)};
}  // namespace

extern const IsaRows kAvxVnniRows;
const IsaRows kAvxVnniRows = isa_rows(Isa::avxvnni, kRows, nullptr);

}  // namespace prunus
