// What Ice Lake adds to avx512: compiled with -mavx512vbmi,vbmi2,vnni (CMakeLists.txt), sealed, one exported
// table. The other kernels are those of avx512.
#include <immintrin.h>

#include "kernels/row.h"
#include "kernels/score_kernels.h"  // simd/keys.h

namespace prunus {
namespace {
#include "kernels/sealed.inl.h"
#include "kernels/simd/avx512icl.h"
#include "kernels/linear/fetch.inl.h"
#include "kernels/linear/bitmap.inl.h"
#include "kernels/linear/col8.inl.h"
#include "kernels/linear/col8_vbmi.inl.h"
#include "kernels/rows.inl.h"

constexpr Row kRows[] = {PRUNUS_VALUES(PRUNUS_COL8_VBMI) PRUNUS_BITMAP_ROWS(bf16) PRUNUS_BITMAP_ROWS(i8)};
}  // namespace

extern const IsaRows kAvx512IclRows;
const IsaRows kAvx512IclRows = isa_rows(Isa::avx512icl, kRows, nullptr);

}  // namespace prunus
