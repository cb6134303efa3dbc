// What AVX512-BF16 adds to avx512icl: compiled with -mavx512bf16 (CMakeLists.txt), sealed, one exported
// table.
#include <immintrin.h>

#include "kernels/row.h"
#include "kernels/score_kernels.h"  // simd/keys.h

namespace prunus {
namespace {
// What stands in for std,
#include "kernels/sealed.inl.h"
// the vectors,
#include "kernels/simd/avx512icl.h"
// and their dot products,
#include "kernels/simd/dot_avx512.h"
// the kernels over them,
#include "kernels/linear/fetch.inl.h"
// which these use,
#include "kernels/linear/dot_strip.inl.h"
// with few tokens too,
#include "kernels/linear/dot_few.inl.h"
// what surrounds all kernels,
#include "kernels/linear/activation.inl.h"
// those of lanes,
#include "kernels/linear/panel.inl.h"
// which this uses,
#include "kernels/linear/dot_pack.inl.h"
#include "kernels/linear/dot_store.inl.h"
// pairs,
#include "kernels/simd/pairs_avx512.h"
// what stands in for tiles,
#include "kernels/simd/tiles_avx512.h"
// attention: what its masks are made of,
#include "kernels/attention/attention_mask.inl.h"
// what lies in tiles,
#include "kernels/attention/attention_room.inl.h"
// and what is done with it,
#include "kernels/attention/attention_tiles.inl.h"
// and how their rows are written.
#include "kernels/rows.inl.h"

constexpr Row kRows[] = {PRUNUS_STRIP_DOTS(bf16) PRUNUS_DOT_FEW(bf16) PRUNUS_MORE_DOT_FEW(bf16)
                             PRUNUS_STORE_LANES(bf16) PRUNUS_IO(pack_pairs, pack_pairs, f32) PRUNUS_IO(
                                 flat_pairs, flat_pairs, f32) PRUNUS_TOKEN_TYPES(PRUNUS_ATTENTION_TILES)};
}  // namespace

extern const IsaRows kAvx512Bf16Rows;
const IsaRows kAvx512Bf16Rows = isa_rows(Isa::avx512bf16, kRows, nullptr);

}  // namespace prunus
