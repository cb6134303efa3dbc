// Pairs of bf16 along a row, in lanes of 512 bits: what attention does with them. Sealed like the others.

// Of 32 columns, whether one is a NaN, an infinity or at least 2^60: then a sum of products of two such rows
// may leave fp32.
inline bool is_wild(Zmm pairs) {
  const __m512i magnitude = _mm512_and_si512(_mm512_castps_si512(pairs.v), _mm512_set1_epi16(0x7fff));
  return _mm512_cmpge_epu16_mask(magnitude, _mm512_set1_epi16(0x5d80)) != 0;
}

// Columns 16 * Half and on of two rows, as one row of pairs: those of a column side by side.
template <int Half>
inline Zmm interleaved(Zmm a, Zmm b) {
  const __m512i low = _mm512_unpacklo_epi16(_mm512_castps_si512(a.v), _mm512_castps_si512(b.v)),
                high = _mm512_unpackhi_epi16(_mm512_castps_si512(a.v), _mm512_castps_si512(b.v));
  const __m512i order = _mm512_setr_epi64(4 * Half, 4 * Half + 1, 4 * Half + 8, 4 * Half + 9, 4 * Half + 2,
                                          4 * Half + 3, 4 * Half + 10, 4 * Half + 11);
  return {_mm512_castsi512_ps(_mm512_permutex2var_epi64(low, order, high))};
}

// 2^x for x <= 0, to 1e-4 of it, which a bf16 does not see; 0 below -127.
inline Zmm exp2_of(Zmm x) {
  const __m512 shift = _mm512_set1_ps(12582912.0f);  // its last bit is worth one
  const __m512 t = _mm512_max_ps(_mm512_set1_ps(-127.0f), x.v), n = _mm512_add_ps(t, shift),
               f = _mm512_sub_ps(t, _mm512_sub_ps(n, shift));
  __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(0.05500892549753189f), f, _mm512_set1_ps(0.24221095442771912f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.6932829022407532f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  return {_mm512_castsi512_ps(
      _mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(_mm512_castps_si512(n), 23)))};
}

// The first `count` lanes of v, and of `other` the rest.
inline Zmm first_lanes(int count, Zmm v, Zmm other) {
  const int n = count < 0 ? 0 : count > 16 ? 16 : count;
  return {_mm512_mask_blend_ps(static_cast<__mmask16>((1u << n) - 1), other.v, v.v)};
}

// v where a byte of `kept` is not zero, `other` elsewhere.
inline Zmm kept_lanes(const std::uint8_t* kept, Zmm v, Zmm other) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kept));
  return {_mm512_mask_blend_ps(_mm_test_epi8_mask(bytes, bytes), other.v, v.v)};
}

inline Zmm nan_to(Zmm v, float f) { return {_mm512_min_ps(v.v, _mm512_set1_ps(f))}; }

struct Greatest {
  __m512 operator()(__m512 a, __m512 b) const { return _mm512_max_ps(a, b); }
  __m256 operator()(__m256 a, __m256 b) const { return _mm256_max_ps(a, b); }
};
// Lane i: the greatest lane of v[i].
inline Ymm maxima_of(const Zmm (&v)[8]) { return joined(Greatest{}, v); }
