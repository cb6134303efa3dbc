// What AMX adds: tile products. Compiled with -mamx-tile,int8,bf16 (CMakeLists.txt), sealed, one exported
// table. PRUNUS_PLAIN_TILES: its text over vectors, to be tested on CPUs without AMX.
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
// and pairs,
#include "kernels/simd/pairs_avx512.h"
// and tiles,
#if defined(PRUNUS_PLAIN_TILES)
#  include "kernels/simd/tiles_avx512.h"
#else
#  include "kernels/simd/amx.h"
#endif
// the kernels over them,
#include "kernels/linear/dot_strip.inl.h"
// whose tile these use,
#include "kernels/linear/dot_amx.inl.h"
// attention: what its masks are made of,
#include "kernels/attention/attention_mask.inl.h"
// what lies in tiles,
#include "kernels/attention/attention_room.inl.h"
// and what is done with it,
#include "kernels/attention/attention_tiles.inl.h"
// and how their rows are written.
#include "kernels/rows.inl.h"

constexpr Row kRows[] = {PRUNUS_DOT_AMX(i8) PRUNUS_DOT_AMX(bf16) PRUNUS_TOKEN_TYPES(PRUNUS_ATTENTION_TILES)};
}  // namespace

extern const IsaRows kAmxRows;
const IsaRows kAmxRows = isa_rows(Isa::amx, kRows, nullptr);

}  // namespace prunus
