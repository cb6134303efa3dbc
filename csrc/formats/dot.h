// What packing with format dot costs, for the choice of its blocks.
#pragma once
#include "formats/pack.h"

namespace prunus {

// How many blocks of this unit hold the kept weights.
std::uint64_t dot_blocks(const Dense& w, const KeptBits& kept, Unit unit);

}  // namespace prunus
