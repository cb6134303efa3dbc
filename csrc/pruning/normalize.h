// Unit L2 norm of every line of a matrix.
#pragma once
#include "pruning/plane.h"

namespace prunus {

// out: rows x cols contiguous, the plane's dtype. by_row: lines are the plane's rows, else its columns.
// Sums are float64 in an order fixed by the shape alone: the same bits for any number of threads. Nothing
// overflows or vanishes on the way (float64 lines outside sqrt's safe range are scaled by a power of two
// first). Lines of zeros stay zero; a line with NaN becomes NaN; in a line with inf, inf becomes NaN and the
// rest zero.
void normalize(const Plane& w, bool by_row, std::uint8_t* out);

}  // namespace prunus
