// Eight floats in one ymm register: the whole of avx2, and the 8-lane half of avx512. Sealed: include only
// inside the anonymous namespace of an isa_<isa>.cpp.
#include "kernels/simd/values.h"
#include "kernels/simd/x86_keys.h"

struct Ymm {
  static constexpr int lanes = 8;
  __m256 v;
  static Ymm load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Ymm load_bytes(const std::uint8_t* p) {
    return {_mm256_loadu_ps(reinterpret_cast<const float*>(p))};
  }
  static Ymm set(float f) { return {_mm256_set1_ps(f)}; }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
};
inline Ymm operator+(Ymm a, Ymm b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Ymm operator-(Ymm a, Ymm b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Ymm operator*(Ymm a, Ymm b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Ymm operator/(Ymm a, Ymm b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Ymm fma(Ymm a, Ymm b, Ymm c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
// x86 min and max return the second operand when one is NaN: with x second, NaN survives.
inline Ymm at_least(Ymm lo, Ymm x) { return {_mm256_max_ps(lo.v, x.v)}; }
inline Ymm at_most(Ymm hi, Ymm x) { return {_mm256_min_ps(hi.v, x.v)}; }
inline Ymm abs(Ymm x) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), x.v)}; }
inline Ymm reciprocal(Ymm x) { return Ymm::set(1.0f) / x; }
inline Ymm round(Ymm x) { return {_mm256_round_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
// 2^x for integral x in [-126, 127]
inline Ymm pow2(Ymm x) {
  return {_mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(x.v), _mm256_set1_epi32(127)), 23))};
}
// x < 0 ? a : b
inline Ymm where_negative(Ymm x, Ymm a, Ymm b) { return {_mm256_blendv_ps(b.v, a.v, x.v)}; }

// Lane i % 4 of either half of v in all lanes of that half.
inline Ymm lane_of_halves(__m256 v, int i) {
  switch (i & 3) {
    case 0:
      return {_mm256_permute_ps(v, 0x00)};
    case 1:
      return {_mm256_permute_ps(v, 0x55)};
    case 2:
      return {_mm256_permute_ps(v, 0xaa)};
    default:
      return {_mm256_permute_ps(v, 0xff)};
  }
}

// Two or four floats in either half with one load, then a permutation for each: the load ports are what the
// loop waits for. A row alone gains nothing.
template <int Rows>
struct Spread<Ymm, Rows> {
  static __m256 load(const std::uint8_t* p) {
    if (Rows == 1) return _mm256_broadcast_ss(reinterpret_cast<const float*>(p));
    if (Rows == 2) return _mm256_castpd_ps(_mm256_broadcast_sd(reinterpret_cast<const double*>(p)));
    return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(p));
  }
  __m256 low, high;
  explicit Spread(const std::uint8_t* p) : low(load(p)), high(Rows == 8 ? load(p + 16) : low) {}
  Ymm operator()(int i) const { return Rows == 1 ? Ymm{low} : lane_of_halves(i < 4 ? low : high, i); }
};

// table[index[lane]]. Inserts beat vgatherdps on Zen 3 (0.36-0.47 against 0.58-0.84 ns per element in the
// decode loop), and one load of all indices beats eight, because the loads are what it waits for.
inline Ymm lookup8(const float* table, const std::uint8_t* index) {
  std::uint64_t i;
  __builtin_memcpy(&i, index, sizeof i);
  const auto at = [&](int lane) { return _mm_load_ss(table + (i >> (8 * lane) & 255)); };
  __m128 lo = at(0), hi = at(4);
  lo = _mm_insert_ps(lo, at(1), 0x10);
  hi = _mm_insert_ps(hi, at(5), 0x10);
  lo = _mm_insert_ps(lo, at(2), 0x20);
  hi = _mm_insert_ps(hi, at(6), 0x20);
  lo = _mm_insert_ps(lo, at(3), 0x30);
  hi = _mm_insert_ps(hi, at(7), 0x30);
  return {_mm256_insertf128_ps(_mm256_castps128_ps256(lo), hi, 1)};
}

// a in the lower four lanes, b in the upper.
inline Ymm set_halves(float a, float b) {
  return {_mm256_blend_ps(_mm256_set1_ps(a), _mm256_set1_ps(b), 0xf0)};
}

// Four floats from a in the lower four lanes, four from b in the upper.
inline Ymm load_halves(const float* a, const float* b) {
  return {_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(a)), _mm_loadu_ps(b), 1)};
}
inline void store_halves(Ymm v, float* a, float* b) {
  _mm_storeu_ps(a, _mm256_castps256_ps128(v.v));
  _mm_storeu_ps(b, _mm256_extractf128_ps(v.v, 1));
}
// Each of those four in turn, in all lanes of its half.
struct InHalves {
  Ymm both;
  static InHalves load(const float* a, const float* b) { return {load_halves(a, b)}; }
  Ymm operator()(int i) const { return lane_of_halves(both.v, i); }
};

inline void transpose(Ymm (&r)[8]) {
  __m256 t[8], s[8];
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm256_unpacklo_ps(r[2 * i].v, r[2 * i + 1].v);
    t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i].v, r[2 * i + 1].v);
  }
  for (int i = 0; i < 2; ++i) {
    s[4 * i + 0] = _mm256_shuffle_ps(t[4 * i + 0], t[4 * i + 2], 0x44);
    s[4 * i + 1] = _mm256_shuffle_ps(t[4 * i + 0], t[4 * i + 2], 0xee);
    s[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
    s[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    r[i].v = _mm256_permute2f128_ps(s[i], s[i + 4], 0x20);
    r[i + 4].v = _mm256_permute2f128_ps(s[i], s[i + 4], 0x31);
  }
}

// Lane i: the sum of all lanes of v[i].
inline Ymm sums_of(const Ymm (&v)[8]) {
  const __m256 low = _mm256_hadd_ps(_mm256_hadd_ps(v[0].v, v[1].v), _mm256_hadd_ps(v[2].v, v[3].v)),
               high = _mm256_hadd_ps(_mm256_hadd_ps(v[4].v, v[5].v), _mm256_hadd_ps(v[6].v, v[7].v));
  return {_mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31))};
}

// Eight stored values, from any address, as floats.
inline Ymm load8(F32, const std::uint8_t* p) { return Ymm::load_bytes(p); }
inline Ymm widen_bf16(__m128i v) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16))};
}
inline Ymm load8(Bf16, const std::uint8_t* p) {
  return widen_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Ymm load8(F16, const std::uint8_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
inline Ymm widen_i8(__m128i v) { return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v))}; }
inline Ymm load8(I8, const std::uint8_t* p) {
  return widen_i8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
// Four stored values, from any address, as floats.
inline __m128 load4(F32, const std::uint8_t* p) { return _mm_loadu_ps(reinterpret_cast<const float*>(p)); }
inline __m128 load4(Bf16, const std::uint8_t* p) {
  const __m128i halves = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return _mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(halves), 16));
}
inline __m128 load4(F16, const std::uint8_t* p) {
  return _mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
inline __m128 load4(I8, const std::uint8_t* p) {
  std::int32_t four;
  __builtin_memcpy(&four, p, sizeof four);
  return _mm_cvtepi32_ps(_mm_cvtepi8_epi32(_mm_cvtsi32_si128(four)));
}

// One load and a permutation each, as Spread.
template <typename Value>
struct Four<Ymm, Value> {
  __m256 both;
  Four(const std::uint8_t* p, float scale) {
    const __m128 v = load4(Value{}, p);
    const __m128 four = Value::scaled ? _mm_mul_ps(v, _mm_set1_ps(scale)) : v;
    both = _mm256_insertf128_ps(_mm256_castps128_ps256(four), four, 1);
  }
  Ymm operator()(int i) const { return lane_of_halves(both, i); }
};

inline float load1(F16, const std::uint8_t* p) {
  std::uint16_t bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  return _cvtsh_ss(bits);
}

inline void store8(F32, Ymm v, std::uint8_t* out) { v.store(reinterpret_cast<float*>(out)); }
// Eight floats as stored halves. A NaN becomes the one NaN that every other isa makes of it.
inline void store8(F16, Ymm v, std::uint8_t* out) {
  const __m256 sign = _mm256_set1_ps(-0.0f),
               nan = _mm256_or_ps(_mm256_and_ps(v.v, sign), _mm256_set1_ps(__builtin_nanf("")));
  const __m256 one = _mm256_blendv_ps(v.v, nan, _mm256_cmp_ps(v.v, v.v, _CMP_UNORD_Q));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_cvtps_ph(one, _MM_FROUND_TO_NEAREST_INT));
}
inline __m256i bf16_bits(Ymm v) {  // in the low half of every lane
  const __m256i u = _mm256_castps_si256(v.v), top = _mm256_srli_epi32(u, 16);
  const __m256i odd = _mm256_and_si256(top, _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(v.v, v.v, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(rounded, _mm256_or_si256(top, _mm256_set1_epi32(0x40)), is_nan);
}
// Those of a, then those of b.
inline __m256i bf16_pairs(Ymm a, Ymm b) {
  return _mm256_permute4x64_epi64(_mm256_packus_epi32(bf16_bits(a), bf16_bits(b)), 0xd8);
}
inline void store8(Bf16, Ymm v, std::uint8_t* out) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_castsi256_si128(bf16_pairs(v, v)));
}

// Eight positions of 2, 3 or 4 bits (their lanes hold higher bits too), and the floats at them. May read
// four bytes from p, and 4, 8 or 16 floats from x.
struct Places {
  __m256i at;
};
template <int Bits>
inline Places load_places(const std::uint8_t* p) {
  std::int32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  const __m256i shifts =
      _mm256_setr_epi32(0, Bits, 2 * Bits, 3 * Bits, 4 * Bits, 5 * Bits, 6 * Bits, 7 * Bits);
  return {_mm256_srlv_epi32(_mm256_set1_epi32(word), shifts)};
}
template <int Bits>
inline Ymm pick8(const float* x, Places places) {
  if (Bits == 2)  // the permutation reads the low two bits of a lane
    return {_mm256_permutevar_ps(_mm256_broadcast_ps(reinterpret_cast<const __m128*>(x)), places.at)};
  const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(x), places.at);  // the low three
  if (Bits == 3) return {low};
#if defined(__AVX512VL__)
  return {_mm256_permutex2var_ps(_mm256_loadu_ps(x), places.at, _mm256_loadu_ps(x + 8))};
#else
  const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(x + 8), places.at);
  return {_mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(places.at, 28)))};
#endif
}
