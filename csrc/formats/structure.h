// Which structure the nonzeros of a weight have: N:M groups, blocks or none.
#pragma once
#include <cstdint>

#include "formats/pack.h"

namespace prunus {

// What pack() should use, and the unit of it. `forced` (not nullptr) asks for that format; a ValueError says
// when the nonzeros do not fit it. nnz is that of the whole weight. The unit comes from a sample of rows;
// that n of nm holds for all rows is checked.
struct Structure {
  Format format;
  Unit unit;
};
Structure find_structure(const Dense& w, const KeptBits& kept, Dtype dtype, std::uint64_t nnz,
                         const Format* forced);

}  // namespace prunus
