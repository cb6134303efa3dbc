// The avx512 kernels: compiled with -mavx512f,bw,vl,dq (CMakeLists.txt), sealed, one exported table.
#include <immintrin.h>

#include "kernels/row.h"
#include "kernels/score_kernels.h"

namespace prunus {
namespace {
#include "kernels/sealed.inl.h"
#include "kernels/simd/avx512.h"
#include "kernels/linear/all.inl.h"
#include "kernels/score/all.inl.h"
#include "kernels/rows.inl.h"

constexpr Row kRows[] = {PRUNUS_VECTOR_ROWS PRUNUS_VALUES(PRUNUS_BLOCK)};
}  // namespace

extern const IsaRows kAvx512Rows;
const IsaRows kAvx512Rows = isa_rows(Isa::avx512, kRows, &kScores);

}  // namespace prunus
