// neon (aarch64): 4 lanes, 32 registers. Sealed: include only inside the anonymous namespace of isa_neon.cpp.
#include "kernels/simd/plain_keys.h"
#include "kernels/simd/values.h"

struct Quad {
  static constexpr int lanes = 4;
  float32x4_t v;
  static Quad load(const float* p) { return {vld1q_f32(p)}; }
  static Quad set(float f) { return {vdupq_n_f32(f)}; }
  void store(float* p) const { vst1q_f32(p, v); }
};
inline Quad operator+(Quad a, Quad b) { return {vaddq_f32(a.v, b.v)}; }
inline Quad fma(Quad a, Quad b, Quad c) { return {vfmaq_f32(c.v, a.v, b.v)}; }

struct Pair {
  static constexpr int lanes = 8;
  float32x4_t lo, hi;
  static Pair load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
  static Pair load_bytes(const std::uint8_t* p) {
    return {vreinterpretq_f32_u8(vld1q_u8(p)), vreinterpretq_f32_u8(vld1q_u8(p + 16))};
  }
  static Pair set(float f) { return {vdupq_n_f32(f), vdupq_n_f32(f)}; }
  void store(float* p) const {
    vst1q_f32(p, lo);
    vst1q_f32(p + 4, hi);
  }
};
inline Pair operator+(Pair a, Pair b) { return {vaddq_f32(a.lo, b.lo), vaddq_f32(a.hi, b.hi)}; }
inline Pair operator-(Pair a, Pair b) { return {vsubq_f32(a.lo, b.lo), vsubq_f32(a.hi, b.hi)}; }
inline Pair operator*(Pair a, Pair b) { return {vmulq_f32(a.lo, b.lo), vmulq_f32(a.hi, b.hi)}; }
inline Pair operator/(Pair a, Pair b) { return {vdivq_f32(a.lo, b.lo), vdivq_f32(a.hi, b.hi)}; }
inline Pair fma(Pair a, Pair b, Pair c) { return {vfmaq_f32(c.lo, a.lo, b.lo), vfmaq_f32(c.hi, a.hi, b.hi)}; }
// neon min and max propagate NaN.
inline Pair at_least(Pair lo, Pair x) { return {vmaxq_f32(lo.lo, x.lo), vmaxq_f32(lo.hi, x.hi)}; }
inline Pair at_most(Pair hi, Pair x) { return {vminq_f32(hi.lo, x.lo), vminq_f32(hi.hi, x.hi)}; }
inline Pair abs(Pair x) { return {vabsq_f32(x.lo), vabsq_f32(x.hi)}; }
inline Pair reciprocal(Pair x) { return Pair::set(1.0f) / x; }
inline Pair round(Pair x) { return {vrndnq_f32(x.lo), vrndnq_f32(x.hi)}; }
inline float32x4_t pow2_quad(float32x4_t x) {
  return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(x), vdupq_n_s32(127)), 23));
}
inline Pair pow2(Pair x) { return {pow2_quad(x.lo), pow2_quad(x.hi)}; }
inline Pair where_negative(Pair x, Pair a, Pair b) {
  return {vbslq_f32(vcltzq_f32(x.lo), a.lo, b.lo), vbslq_f32(vcltzq_f32(x.hi), a.hi, b.hi)};
}
inline Pair lookup8(const float* table, const std::uint8_t* index) {
  const float v[8] = {table[index[0]], table[index[1]], table[index[2]], table[index[3]],
                      table[index[4]], table[index[5]], table[index[6]], table[index[7]]};
  return Pair::load(v);
}
inline Pair set_halves(float a, float b) { return {vdupq_n_f32(a), vdupq_n_f32(b)}; }
inline void transpose(Pair (&r)[8]) {
  float t[8][8];
  for (int i = 0; i < 8; ++i) r[i].store(t[i]);
  for (int i = 0; i < 8; ++i) {
    const float column[8] = {t[0][i], t[1][i], t[2][i], t[3][i], t[4][i], t[5][i], t[6][i], t[7][i]};
    r[i] = Pair::load(column);
  }
}
// Lane i: the sum of all lanes of v[i].
inline Pair sums_of(const Quad (&v)[8]) {
  return {vpaddq_f32(vpaddq_f32(v[0].v, v[1].v), vpaddq_f32(v[2].v, v[3].v)),
          vpaddq_f32(vpaddq_f32(v[4].v, v[5].v), vpaddq_f32(v[6].v, v[7].v))};
}

using Vec = Quad;
using Vec8 = Pair;
using RowVec = Vec8;  // columns as lanes: bitmap rows
using Square = Vec8;  // turned as a whole when x is packed and y stored
constexpr int kAccumulators = 24;
constexpr int kExpandAlways = 1;
constexpr int kAbreast = 2;  // of 32 registers, two to a vector

inline float load1(F16, const std::uint8_t* p) {
  __fp16 h;
  __builtin_memcpy(&h, p, sizeof h);
  return h;
}

#include "kernels/simd/plain_values.h"
