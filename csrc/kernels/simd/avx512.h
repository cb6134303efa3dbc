// avx512: 16 lanes, 32 registers. Sealed: include only inside the anonymous namespace of isa_avx512.cpp.
#include "kernels/simd/x86_ymm.h"

struct Zmm {
  static constexpr int lanes = 16;
  __m512 v;
  static Zmm load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Zmm set(float f) { return {_mm512_set1_ps(f)}; }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
};
inline Zmm fma(Zmm a, Zmm b, Zmm c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }

using Vec = Zmm;
using Vec8 = Ymm;
constexpr int kAccumulators = 16;
