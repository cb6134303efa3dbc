// avx512: 16 lanes, 32 registers. Sealed: include only inside the anonymous namespace of isa_avx512.cpp.
#include "kernels/simd/x86_ymm.h"

struct Zmm {
  static constexpr int lanes = 16;
  __m512 v;
  static Zmm load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Zmm set(float f) { return {_mm512_set1_ps(f)}; }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
};
inline Zmm operator+(Zmm a, Zmm b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Zmm fma(Zmm a, Zmm b, Zmm c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }

// One load for eight: the load ports are what the many-token loop waits for, and a permutation takes none.
template <int Rows>
struct Spread<Zmm, Rows> {
  __m512 eight;
  int first;
  Spread(const std::uint8_t* p, int from)
      : eight(_mm512_castps256_ps512(_mm256_loadu_ps(reinterpret_cast<const float*>(p)))), first(from) {}
  Zmm operator()(int i) const { return {_mm512_permutexvar_ps(_mm512_set1_epi32(first + i), eight)}; }
};

using Vec = Zmm;
using Vec8 = Ymm;
using RowVec = Zmm;  // columns as lanes: bitmap rows
constexpr int kAccumulators = 16;
constexpr int kExpandAlways = 1;

inline Ymm fold8(Zmm v) {
  return {_mm256_add_ps(_mm512_castps512_ps256(v.v), _mm512_extractf32x8_ps(v.v, 1))};
}

// Sixteen stored values, from any address, as floats.
inline __m512 load16(Bf16, const std::uint8_t* p) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
inline __m512 load16(F16, const std::uint8_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline __m512 load16(I8, const std::uint8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}

// The next values of p in the lanes of the bits set in half-word i of `bits`, zero elsewhere; p moves on.
// Float32 reads only what it keeps, the narrower types up to 32 bytes. An expansion of Zen 4 waits for what
// its destination held before, though it zeroes: without the cleared register one waits for the other, 1.7 to
// 2 times.
template <typename Value>
inline Zmm expand(Value value, const std::uint8_t*& p, std::uint64_t bits, int i) {
  const auto kept = static_cast<std::uint16_t>(bits >> (16 * i));
  __m512 w;
  if constexpr (Value::size == 4)
    asm("vxorps %x0, %x0, %x0\n\tvexpandps %2, %0%{%1%}%{z%}"
        : "=&x"(w)
        : "Yk"(kept), "m"(*reinterpret_cast<const __m512_u*>(p)));
  else
    asm("vxorps %x0, %x0, %x0\n\tvexpandps %2, %0%{%1%}%{z%}" : "=&x"(w) : "Yk"(kept), "v"(load16(value, p)));
  p += Value::size * __builtin_popcount(kept);
  return {w};
}
