// avx512 with what Ice Lake added: VBMI permutes bytes, VBMI2 expands bytes and words, VNNI takes bytes out
// of 32-bit lanes. Sealed: include only inside the anonymous namespace of isa_avx512icl.cpp.
#include "kernels/simd/avx512.h"

// Masks at any address. From memory, because a move from a general register takes almost two cycles on Zen 4.
using Mask64 = __mmask64 __attribute__((aligned(1), may_alias));
using Mask32 = __mmask32 __attribute__((aligned(1), may_alias));

// Sixteen floats of `panel`, every second or fourth from `first` on.
inline __m512 every_second(const float* panel, int first) {
  const __m512i at = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  return _mm512_permutex2var_ps(_mm512_loadu_ps(panel), _mm512_add_epi32(at, _mm512_set1_epi32(first)),
                                _mm512_loadu_ps(panel + 16));
}
inline __m512 every_fourth(const float* panel, int first) {
  alignas(64) float seconds[32];
  _mm512_store_ps(seconds, every_second(panel, first % 2));
  _mm512_store_ps(seconds + 16, every_second(panel + 32, first % 2));
  return every_second(seconds, first / 2);
}

// int8: 64 columns in one expansion, which reads only what it keeps. Vector i is byte i of every 32-bit lane:
// columns i, i + 4, i + 8 and on.
template <>
struct RowWeights<I8> {
  __m512i all;
  RowWeights(const std::uint8_t* bits_at, const std::uint8_t*& next) {
    const __mmask64 bits = *reinterpret_cast<const Mask64*>(bits_at);
    PRUNUS_EXPAND("vpexpandb", all, bits, "m", *reinterpret_cast<const __m512i_u*>(next));
    next += __builtin_popcountll(bits);
  }
  // The product with a one at byte i and zeros at the others is that byte with its sign.
  Zmm operator()(int i) const {
    const __m512i byte =
        i == 3 ? _mm512_srai_epi32(all, 24)
               : _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi32(1 << 8 * i), all);
    return {_mm512_cvtepi32_ps(byte)};
  }
  static Zmm activations(const float* panel, int i) { return {every_fourth(panel, i)}; }
};

// bfloat16: 32 columns in one expansion. The even ones are a shift away from floats, the odd ones a mask.
// (float16 would need a conversion of two operations for every vector, and gains nothing.)
template <>
struct RowWeights<Bf16> {
  __m512i half[2];
  RowWeights(const std::uint8_t* bits_at, const std::uint8_t*& next) {
    for (int i = 0; i < 2; ++i) {
      const __mmask32 bits = *reinterpret_cast<const Mask32*>(bits_at + 4 * i);
      PRUNUS_EXPAND("vpexpandw", half[i], bits, "m", *reinterpret_cast<const __m512i_u*>(next));
      next += 2 * static_cast<std::size_t>(__builtin_popcount(bits));
    }
  }
  Zmm operator()(int i) const {
    const __m512i pairs = half[i / 2];
    return {_mm512_castsi512_ps(i % 2 ? _mm512_and_epi32(pairs, _mm512_set1_epi32(-65536))
                                      : _mm512_slli_epi32(pairs, 16))};
  }
  static Zmm activations(const float* panel, int i) { return {every_second(panel + i / 2 * 32, i % 2)}; }
};
