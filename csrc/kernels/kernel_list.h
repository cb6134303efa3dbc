// The list of all kernels. The table, its declarations, tests (`_core.kernels()`) and bench expand from it.
#pragma once

// X(width): tokens that one call of the col8 kernel keeps in registers. 1 is the decode kernel (8 rows are
// the SIMD lanes); from 8 on, tokens are the lanes.
#define PRUNUS_STRIP_WIDTHS(X) X(1) X(8) X(16) X(24) X(32) X(40) X(48) X(56) X(64)
