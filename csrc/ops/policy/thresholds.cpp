#include "ops/policy/thresholds.h"

namespace prunus {
namespace {

constexpr IsaThresholds kTable[] = {
    // isa, bitmap_from, expand_always, look_up_most, sums,
    // dot_strip, dot_tall_strip, dot_tall_least, dot_tall_few, dot_rows
    {Isa::scalar, 0.33, 1, 1, 2 * 8, 16, 16, 8, 2, 16},
    {Isa::avx2, 0.33, 8, 1, 12 * 8, 16, 16, 8, 2, 16},
    {Isa::avxvnni, 0.33, 8, 1, 12 * 8, 16, 16, 8, 2, 16},
    {Isa::avx512, 0.25, 1, 1, 16 * 16, 16, 16, 8, 2, 16},
    {Isa::avx512icl, 0.33, 1, 2, 16 * 16, 64, 64, 8, 4, 16},
    {Isa::avx512bf16, 0.33, 1, 2, 16 * 16, 64, 64, 8, 4, 16},
    {Isa::amx, 0.33, 1, 2, 16 * 16, 64, 32, 16, 2, 32},
    {Isa::neon, 0.33, 1, 1, 24 * 4, 16, 16, 8, 2, 16},
};

constexpr int kIsas = 0
#define X(word, number, below) +1
#include "core/isas.def"
#undef X
    ;
static_assert(sizeof kTable / sizeof kTable[0] == kIsas, "a row for every isa");

}  // namespace

const IsaThresholds& thresholds(Isa isa) {
  for (const IsaThresholds& row : kTable)
    if (row.isa == isa) return row;
  __builtin_unreachable();
}

}  // namespace prunus
