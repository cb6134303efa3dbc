// Dot lanes of 256 bits: vpdpbusd where there is one (AVX-VNNI), else two products of 16-bit integers, which
// do not saturate; bf16 as two products of floats. Sealed: after simd/avx2.h.

struct DotYmm {
  static constexpr int lanes = 8;
  __m256i v;
  static DotYmm load(const void* p) { return {_mm256_loadu_si256(static_cast<const __m256i*>(p))}; }
  static DotYmm spread(const void* p) {
    std::int32_t u;
    __builtin_memcpy(&u, p, sizeof u);
    return {_mm256_set1_epi32(u)};
  }
  static constexpr std::uint32_t all = 0xff;
  static __m256i lanes_of(std::uint32_t bits) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), bit), bit);
  }
  static DotYmm load_some(const std::uint8_t* p, int count) {
    return {_mm256_maskload_epi32(reinterpret_cast<const int*>(p), lanes_of((1u << count) - 1))};
  }
  // The next blocks into the lanes of the bits that are set, zero elsewhere. Reads only what it keeps.
  static DotYmm spread_out(std::uint32_t bits, const std::uint8_t* p) {
    const DotYmm next = load_some(p, __builtin_popcount(bits));
    // Lane i takes block number popcount(bits below i).
    const std::uint64_t kept = _pdep_u64(bits, 0x0101010101010101ull) * 0xff;
    const __m256i order = _mm256_cvtepi8_epi32(
        _mm_cvtsi64_si128(static_cast<long long>(_pdep_u64(0x0706050403020100ull, kept))));
    return {_mm256_and_si256(_mm256_permutevar8x32_epi32(next.v, order), lanes_of(bits))};
  }
  static DotYmm zero() { return {_mm256_setzero_si256()}; }
  void store(void* p) const { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
};

inline DotYmm dot(I8, DotYmm sum, DotYmm x, DotYmm w) {
#if defined(__AVXVNNI__)
  return {_mm256_dpbusd_avx_epi32(sum.v, x.v, w.v)};
#else
  const __m256i low = _mm256_madd_epi16(_mm256_and_si256(x.v, _mm256_set1_epi16(255)),
                                        _mm256_srai_epi16(_mm256_slli_epi16(w.v, 8), 8)),
                high = _mm256_madd_epi16(_mm256_srli_epi16(x.v, 8), _mm256_srai_epi16(w.v, 8));
  return {_mm256_add_epi32(sum.v, _mm256_add_epi32(low, high))};
#endif
}
inline __m256 low_half(__m256i v) { return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16)); }
inline __m256 high_half(__m256i v) {
  return _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32(-65536)));
}
inline DotYmm dot(Bf16, DotYmm sum, DotYmm x, DotYmm w) {
  const __m256 low = _mm256_fmadd_ps(low_half(x.v), low_half(w.v), _mm256_castsi256_ps(sum.v));
  return {_mm256_castps_si256(_mm256_fmadd_ps(high_half(x.v), high_half(w.v), low))};
}
inline DotYmm add_sums(I8, DotYmm a, DotYmm b) { return {_mm256_add_epi32(a.v, b.v)}; }
inline DotYmm add_sums(Bf16, DotYmm a, DotYmm b) {
  return {_mm256_castps_si256(_mm256_add_ps(_mm256_castsi256_ps(a.v), _mm256_castsi256_ps(b.v)))};
}
inline std::int32_t total(I8, DotYmm v) {
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(v.v), _mm256_extracti128_si256(v.v, 1));
  const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}
inline std::int32_t total(Bf16, DotYmm v) {
  const __m256 all = _mm256_castsi256_ps(v.v);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtsi128_si32(_mm_castps_si128(_mm_add_ss(two, _mm_movehdup_ps(two))));
}

// Eight int32.
struct Ints {
  __m256i v;
};
inline Ints as_ints(Ymm bits) { return {_mm256_castps_si256(bits.v)}; }
inline Ints minus_product(Ints sum, Ints a, std::int32_t b) {
  return {_mm256_sub_epi32(sum.v, _mm256_mullo_epi32(a.v, _mm256_set1_epi32(b)))};
}
inline Ymm to_floats(Ints i) { return {_mm256_cvtepi32_ps(i.v)}; }

inline std::int32_t nearest_int(float f) { return _mm_cvtss_si32(_mm_set_ss(f)); }

// 32 columns of a token as 8-bit integers, four a lane: saturated twice, so that all isas agree.
template <typename X>
inline Ymm quads_of(X x, const std::uint8_t* p, float inverse, std::int32_t zero) {
  const auto four = [&](int i) {
    const Ymm scaled = load8(x, p + 8 * i * X::size) * Ymm::set(inverse);
    return _mm256_add_epi32(_mm256_cvtps_epi32(scaled.v), _mm256_set1_epi32(zero));
  };
  const __m256i words = _mm256_packs_epi32(four(0), four(1)), more = _mm256_packs_epi32(four(2), four(3));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  return {_mm256_castsi256_ps(_mm256_permutevar8x32_epi32(_mm256_packus_epi16(words, more), order))};
}

// 16 columns as bf16, two a lane.
inline Ymm pairs_of(Bf16, const std::uint8_t* p) { return Ymm::load_bytes(p); }
template <typename X>
inline Ymm pairs_of(X x, const std::uint8_t* p) {
  return {_mm256_castsi256_ps(bf16_pairs(load8(x, p), load8(x, p + 8 * X::size)))};
}

using DotVec = DotYmm;
constexpr int kDotSums = 8;
constexpr int kFewSums = 8;  // as kDotSums, where the activations are in registers too

#include "kernels/simd/dot_plain.h"
