// Dot lanes of 512 bits: vpdpbusd, and vdpbf16ps where there is one.

struct DotZmm {
  static constexpr int lanes = 16;
  __m512i v;
  static DotZmm load(const void* p) { return {_mm512_loadu_si512(p)}; }
  static DotZmm spread(const void* p) {
    std::int32_t u;
    __builtin_memcpy(&u, p, sizeof u);
    return {_mm512_set1_epi32(u)};
  }
  static constexpr std::uint32_t all = 0xffff;
  static DotZmm load_some(const std::uint8_t* p, int count) {
    return {_mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << count) - 1), p)};
  }
  // The next blocks into the lanes of the bits that are set, zero elsewhere. Reads only what it keeps.
  static DotZmm spread_out(std::uint32_t bits, const std::uint8_t* p) {
    return {_mm512_maskz_expandloadu_epi32(static_cast<__mmask16>(bits), p)};
  }
  static DotZmm zero() { return {_mm512_setzero_si512()}; }
  void store(void* p) const { _mm512_storeu_si512(p, v); }
};
inline DotZmm dot(I8, DotZmm sum, DotZmm x, DotZmm w) { return {_mm512_dpbusd_epi32(sum.v, x.v, w.v)}; }
inline DotZmm add_sums(I8, DotZmm a, DotZmm b) { return {_mm512_add_epi32(a.v, b.v)}; }
#if defined(__AVX512BF16__)
inline DotZmm dot(Bf16, DotZmm sum, DotZmm x, DotZmm w) {
  return {_mm512_castps_si512(_mm512_dpbf16_ps(_mm512_castsi512_ps(sum.v), reinterpret_cast<__m512bh>(x.v),
                                               reinterpret_cast<__m512bh>(w.v)))};
}
#endif
inline DotZmm add_sums(Bf16, DotZmm a, DotZmm b) {
  return {_mm512_castps_si512(_mm512_add_ps(_mm512_castsi512_ps(a.v), _mm512_castsi512_ps(b.v)))};
}
// Half as many lanes, for strips of eight tokens: twice as many a cycle, or nearly.
struct DotYmm {
  static constexpr int lanes = 8;
  __m256i v;
  static DotYmm load(const void* p) { return {_mm256_loadu_si256(static_cast<const __m256i*>(p))}; }
  static DotYmm spread(const void* p) {
    std::int32_t u;
    __builtin_memcpy(&u, p, sizeof u);
    return {_mm256_set1_epi32(u)};
  }
  static DotYmm zero() { return {_mm256_setzero_si256()}; }
  void store(void* p) const { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
};
inline DotYmm dot(I8, DotYmm sum, DotYmm x, DotYmm w) { return {_mm256_dpbusd_epi32(sum.v, x.v, w.v)}; }
inline DotYmm add_sums(I8, DotYmm a, DotYmm b) { return {_mm256_add_epi32(a.v, b.v)}; }
#if defined(__AVX512BF16__)
inline DotYmm dot(Bf16, DotYmm sum, DotYmm x, DotYmm w) {
  return {_mm256_castps_si256(_mm256_dpbf16_ps(_mm256_castsi256_ps(sum.v), reinterpret_cast<__m256bh>(x.v),
                                               reinterpret_cast<__m256bh>(w.v)))};
}
#endif
inline DotYmm add_sums(Bf16, DotYmm a, DotYmm b) {
  return {_mm256_castps_si256(_mm256_add_ps(_mm256_castsi256_ps(a.v), _mm256_castsi256_ps(b.v)))};
}

inline std::int32_t total(I8, DotZmm v) { return _mm512_reduce_add_epi32(v.v); }
inline std::int32_t total(Bf16, DotZmm v) {
  const float sum = _mm512_reduce_add_ps(_mm512_castsi512_ps(v.v));
  std::int32_t bits;
  __builtin_memcpy(&bits, &sum, sizeof bits);
  return bits;
}

// The totals of four sums.
inline void four_totals(I8, DotZmm a, DotZmm b, DotZmm c, DotZmm d, std::int32_t* to) {
  const auto add = [](__m512i x, __m512i y) {
    return _mm512_add_epi32(_mm512_unpacklo_epi32(x, y), _mm512_unpackhi_epi32(x, y));
  };
  const __m512i ab = add(a.v, b.v), cd = add(c.v, d.v);
  const __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                   _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1)));
}
inline void four_totals(Bf16, DotZmm a, DotZmm b, DotZmm c, DotZmm d, std::int32_t* to) {
  const auto floats = [](__m512i x) { return _mm512_castsi512_ps(x); };
  const auto add = [&](__m512i x, __m512i y) {
    return _mm512_castps_pd(
        _mm512_add_ps(_mm512_unpacklo_ps(floats(x), floats(y)), _mm512_unpackhi_ps(floats(x), floats(y))));
  };
  const __m512d ab = add(a.v, b.v), cd = add(c.v, d.v);
  const __m512 all = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)),
                                   _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  _mm_storeu_ps(reinterpret_cast<float*>(to),
                _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}

// Those of 64 lanes whose bits are set, side by side; returns how many. Writes up to 64 bytes more.
inline int join_lanes(std::uint64_t bits, const std::uint8_t* from, std::uint8_t* to) {
  int n = 0;
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i, bits >>= 16) {
    const auto kept = static_cast<__mmask16>(bits);
    _mm512_storeu_si512(to + n * 4,
                        _mm512_maskz_compress_epi32(kept, _mm512_maskz_loadu_epi32(kept, from + i * 64)));
    n += __builtin_popcount(kept);
  }
  return n;
}

// Which of the 64 lanes from `base` on have a block, as ids; returns how many. Writes 64 ids.
inline int lane_ids(std::uint64_t bits, int base, std::uint16_t* ids) {
  alignas(64) static constexpr std::uint16_t count[32] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10,
                                                          11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
                                                          22, 23, 24, 25, 26, 27, 28, 29, 30, 31};
  const __m512i low = _mm512_add_epi16(_mm512_load_si512(count), _mm512_set1_epi16(static_cast<short>(base)));
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(32));
  const auto first = static_cast<std::uint32_t>(bits), second = static_cast<std::uint32_t>(bits >> 32);
  const int n = __builtin_popcount(first);
  _mm512_storeu_si512(ids, _mm512_maskz_compress_epi16(first, low));
  _mm512_storeu_si512(ids + n, _mm512_maskz_compress_epi16(second, high));
  return n + __builtin_popcount(second);
}

// The next blocks of a row into the lanes of the bits that are set, zero elsewhere. Reads only what it keeps.
inline void spread_lanes(std::uint16_t bits, const std::uint8_t* from, std::uint8_t* to) {
  _mm512_storeu_si512(to, _mm512_maskz_expandloadu_epi32(bits, from));
}

// Sixteen int32.
struct Ints {
  __m512i v;
};
inline Ints as_ints(Zmm bits) { return {_mm512_castps_si512(bits.v)}; }
inline Ints minus_product(Ints sum, Ints a, std::int32_t b) {
  return {_mm512_sub_epi32(sum.v, _mm512_mullo_epi32(a.v, _mm512_set1_epi32(b)))};
}
inline Zmm to_floats(Ints i) { return {_mm512_cvtepi32_ps(i.v)}; }

inline std::int32_t nearest_int(float f) { return _mm_cvtss_si32(_mm_set_ss(f)); }

// 64 columns of a token as 8-bit integers, four a lane: saturated twice, so that all isas agree.
template <typename X>
inline Zmm quads_of(X x, const std::uint8_t* p, float inverse, std::int32_t zero) {
  const __m512 by = _mm512_set1_ps(inverse);
  const __m512i at = _mm512_set1_epi32(zero);
  const auto four = [&](int i) {
    return _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(load16(x, p + 16 * i * X::size), by)), at);
  };
  const __m512i words = _mm512_packs_epi32(four(0), four(1)), more = _mm512_packs_epi32(four(2), four(3));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return {_mm512_castsi512_ps(_mm512_permutexvar_epi32(order, _mm512_packus_epi16(words, more)))};
}

// 32 columns as bf16, two a lane.
inline Zmm pairs_of(Bf16, const std::uint8_t* p) { return {_mm512_loadu_ps(p)}; }
inline __m512i bf16_bits(__m512 f) {  // in the low half of every lane
  const __m512i u = _mm512_castps_si512(f), top = _mm512_srli_epi32(u, 16);
  const __m512i odd = _mm512_and_si512(top, _mm512_set1_epi32(1));
  const __m512i rounded =
      _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  return _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(f, f, _CMP_UNORD_Q), top, _mm512_set1_epi32(0x40));
}
#if defined(__AVX512BF16__)
// Subnormals become zero here, as in the products.
inline Zmm pairs_of_floats(__m512 low, __m512 high) {
  return {_mm512_castsi512_ps(reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)))};
}
inline __m256i halves_of(__m512 f) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(f)); }
#else
inline Zmm pairs_of_floats(__m512 f, __m512 g) {
  const __m512i halves = _mm512_packus_epi32(bf16_bits(f), bf16_bits(g));
  return {_mm512_castsi512_ps(_mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), halves))};
}
inline __m256i halves_of(__m512 f) { return _mm512_cvtepi32_epi16(bf16_bits(f)); }
#endif
template <typename X>
inline Zmm pairs_of(X x, const std::uint8_t* p) {
  return pairs_of_floats(load16(x, p), load16(x, p + 16 * X::size));
}

inline void store_lanes(F32, Zmm v, std::uint8_t* out) { _mm512_storeu_ps(out, v.v); }
inline void store_lanes(Bf16, Zmm v, std::uint8_t* out) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), halves_of(v.v));
}
inline void store_lanes(F16, Zmm v, std::uint8_t* out) {
  store8(F16{}, eight(v, 0), out);
  store8(F16{}, eight(v, 1), out + 16);
}

using DotVec = DotZmm;
template <int Tokens>
struct StripLanes {
  using type = DotZmm;
};
template <>
struct StripLanes<8> {
  using type = DotYmm;
};
constexpr int kDotSums = 24;
constexpr int kFewSums = 16;  // as kDotSums, where the activations are in registers too
