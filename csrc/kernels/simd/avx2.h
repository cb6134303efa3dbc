// avx2 + fma: 8 lanes, 16 registers. Sealed: include only inside the anonymous namespace of isa_avx2.cpp.
#include "kernels/simd/x86_ymm.h"

using Vec = Ymm;   // the widest vector
using Vec8 = Ymm;  // exactly eight lanes: groups of rows, transposes, activations
constexpr int kAccumulators = 12;
