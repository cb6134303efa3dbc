// What Ice Lake adds to avx512: compiled with -mavx512vbmi,vbmi2,vnni (CMakeLists.txt), sealed, one exported
// table. The other kernels are those of avx512.
#include <immintrin.h>

#include "kernels/row.h"
#include "kernels/score_kernels.h"  // simd/keys.h

namespace prunus {
namespace {
// What stands in for std,
#include "kernels/sealed.inl.h"
// the vectors,
#include "kernels/simd/avx512icl.h"
// their dot products,
#include "kernels/simd/dot_avx512.h"
// the kernels over them,
#include "kernels/linear/fetch.inl.h"
// which these use,
#include "kernels/linear/activation.inl.h"
// for what surrounds dot,
#include "kernels/linear/panel.inl.h"
// the kernels,
#include "kernels/linear/bitmap.inl.h"
#include "kernels/linear/col8.inl.h"
// whose tile this one uses,
#include "kernels/linear/col8_vbmi.inl.h"
#include "kernels/linear/dot.inl.h"
// and how their rows are written.
#include "kernels/rows.inl.h"

constexpr Row kRows[] = {PRUNUS_VALUES(PRUNUS_COL8_VBMI) PRUNUS_BITMAP_ROWS(bf16) PRUNUS_BITMAP_ROWS(
    i8) PRUNUS_STRIP_DOTS(i8) PRUNUS_DOT_FEW(i8) PRUNUS_MORE_DOT_FEW(i8) PRUNUS_TOKEN_TYPES(PRUNUS_LANE_IO)};
}  // namespace

extern const IsaRows kAvx512IclRows;
const IsaRows kAvx512IclRows = isa_rows(Isa::avx512icl, kRows, nullptr);

}  // namespace prunus
