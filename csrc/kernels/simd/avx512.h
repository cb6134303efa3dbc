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
inline Zmm operator-(Zmm a, Zmm b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Zmm operator*(Zmm a, Zmm b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Zmm operator/(Zmm a, Zmm b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Zmm fma(Zmm a, Zmm b, Zmm c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// As of Ymm.
inline Zmm at_least(Zmm lo, Zmm x) { return {_mm512_max_ps(lo.v, x.v)}; }
inline Zmm at_most(Zmm hi, Zmm x) { return {_mm512_min_ps(hi.v, x.v)}; }
inline Zmm abs(Zmm x) { return {_mm512_abs_ps(x.v)}; }
// Of finite numbers from 1 on, to the last place: an exact division takes as long as eight other operations.
inline Zmm reciprocal(Zmm x) {
  const __m512 r = _mm512_rcp14_ps(x.v);
  return {_mm512_mul_ps(r, _mm512_fnmadd_ps(x.v, r, _mm512_set1_ps(2.0f)))};
}
inline Zmm round(Zmm x) { return {_mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline Zmm pow2(Zmm x) {
  return {_mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(x.v), _mm512_set1_epi32(127)), 23))};
}
inline Zmm where_negative(Zmm x, Zmm a, Zmm b) {
  return {_mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(x.v)), b.v, a.v)};
}

// Lane i of v in all lanes.
inline Zmm lane_of(__m512 v, int i) { return {_mm512_permutexvar_ps(_mm512_set1_epi32(i), v)}; }

// One load for all: the load ports are what the many-token loop waits for, and a permutation takes none.
template <int Rows>
struct Spread<Zmm, Rows> {
  static_assert(Rows == 4 || Rows == 8, "16 sums of at most 4 vectors");
  __m512 all;
  explicit Spread(const std::uint8_t* p) : all(load(reinterpret_cast<const float*>(p))) {}
  static __m512 load(const float* p) {
    return Rows == 8 ? _mm512_castps256_ps512(_mm256_loadu_ps(p)) : _mm512_castps128_ps512(_mm_loadu_ps(p));
  }
  Zmm operator()(int i) const { return lane_of(all, i); }
};

using Vec = Zmm;
using Vec8 = Ymm;
using RowVec = Zmm;  // columns as lanes: bitmap rows
using Square = Zmm;  // turned as a whole when x is packed and y stored: whole cache lines
constexpr int kAccumulators = 16;
constexpr int kExpandAlways = 1;
constexpr int kAbreast = 4;  // of 32 registers

inline Ymm fold8(Zmm v) {
  return {_mm256_add_ps(_mm512_castps512_ps256(v.v), _mm512_extractf32x8_ps(v.v, 1))};
}

// Four stored values with one load and a permutation each, as Spread.
template <typename Value>
struct Four<Zmm, Value> {
  __m512 all;
  Four(const std::uint8_t* p, float scale) {
    const __m128 v = load4(Value{}, p);
    all = _mm512_castps128_ps512(Value::scaled ? _mm_mul_ps(v, _mm_set1_ps(scale)) : v);
  }
  Zmm operator()(int i) const { return lane_of(all, i); }
};

// Sixteen stored values, from any address, as floats.
inline __m512 load16(F32, const std::uint8_t* p) { return _mm512_loadu_ps(p); }
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

template <typename X>
inline void load_into(Zmm& v, X x, const std::uint8_t* p) {
  v = {load16(x, p)};
}

// Lanes 8 * i and on.
inline Ymm eight(Zmm v, int i) {
  return {i == 0 ? _mm512_castps512_ps256(v.v) : _mm512_extractf32x8_ps(v.v, 1)};
}

// Squares of four by four inside the 128-bit lanes; then the squares change places.
inline __attribute__((always_inline)) void transpose(Zmm (&r)[16]) {
  __m512 t[16];
  for (int i = 0; i < 16; i += 4) {
    const __m512 a = _mm512_unpacklo_ps(r[i].v, r[i + 1].v), b = _mm512_unpackhi_ps(r[i].v, r[i + 1].v),
                 c = _mm512_unpacklo_ps(r[i + 2].v, r[i + 3].v),
                 d = _mm512_unpackhi_ps(r[i + 2].v, r[i + 3].v);
    t[i] = _mm512_shuffle_ps(a, c, 0x44);
    t[i + 1] = _mm512_shuffle_ps(a, c, 0xee);
    t[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
    t[i + 3] = _mm512_shuffle_ps(b, d, 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    const __m512 a = _mm512_shuffle_f32x4(t[i], t[4 + i], 0x88),
                 b = _mm512_shuffle_f32x4(t[i], t[4 + i], 0xdd),
                 c = _mm512_shuffle_f32x4(t[8 + i], t[12 + i], 0x88),
                 d = _mm512_shuffle_f32x4(t[8 + i], t[12 + i], 0xdd);
    r[i].v = _mm512_shuffle_f32x4(a, c, 0x88);
    r[4 + i].v = _mm512_shuffle_f32x4(b, d, 0x88);
    r[8 + i].v = _mm512_shuffle_f32x4(a, c, 0xdd);
    r[12 + i].v = _mm512_shuffle_f32x4(b, d, 0xdd);
  }
}

struct Adding {
  __m512 operator()(__m512 a, __m512 b) const { return _mm512_add_ps(a, b); }
  __m256 operator()(__m256 a, __m256 b) const { return _mm256_add_ps(a, b); }
};
// Lane i: all lanes of v[i], two by two.
template <typename Join>
inline __attribute__((always_inline)) Ymm joined(Join join, const Zmm (&v)[8]) {
  // In every 128 bits, lane i: those of v[i].
  const auto quarters = [&](const Zmm* u) {
    const __m512 a = join(_mm512_unpacklo_ps(u[0].v, u[1].v), _mm512_unpackhi_ps(u[0].v, u[1].v)),
                 b = join(_mm512_unpacklo_ps(u[2].v, u[3].v), _mm512_unpackhi_ps(u[2].v, u[3].v));
    return join(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
  };
  const __m512 low = quarters(v), high = quarters(v + 4);
  const __m512 halves = join(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd));
  const __m256 a = _mm512_castps512_ps256(halves), b = _mm512_extractf32x8_ps(halves, 1);
  return {join(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31))};
}
// Lane i: the sum of all lanes of v[i].
inline Ymm sums_of(const Zmm (&v)[8]) { return joined(Adding{}, v); }

// `from` (an operand of kind `kind`) expanded into the lanes of `to` whose bits are set in `kept`, zero
// elsewhere. An expansion of Zen 4 waits for what its destination held before, though it zeroes: without the
// cleared register one waits for the other, 1.7 to 2 times.
#define PRUNUS_EXPAND(instruction, to, kept, kind, from) \
  asm("vpxord %x0, %x0, %x0\n\t" instruction " %2, %0%{%1%}%{z%}" : "=&v"(to) : "Yk"(kept), kind(from))

// The next values of p in the lanes of the bits set in half-word i of `bits`, zero elsewhere; p moves on.
// Float32 reads only what it keeps, the narrower types up to 32 bytes.
template <typename Value>
inline Zmm expand(Value value, const std::uint8_t*& p, std::uint64_t bits, int i) {
  const auto kept = static_cast<std::uint16_t>(bits >> (16 * i));
  __m512 w;
  if constexpr (Value::plain)
    PRUNUS_EXPAND("vexpandps", w, kept, "m", *reinterpret_cast<const __m512_u*>(p));
  else
    PRUNUS_EXPAND("vexpandps", w, kept, "v", load16(value, p));
  p += Value::size * __builtin_popcount(kept);
  return {w};
}
