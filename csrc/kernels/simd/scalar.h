// Plain C++, for every CPU: the compiler maps the loops to what the baseline has. Multiply and add round
// separately (a scalar fused multiply-add would be a library call). Sealed like the others.
#include "kernels/simd/plain_keys.h"
#include "kernels/simd/values.h"

struct Lanes {
  static constexpr int lanes = 8;
  float v[8];
  static Lanes load(const float* p) { return load_bytes(reinterpret_cast<const std::uint8_t*>(p)); }
  static Lanes load_bytes(const std::uint8_t* p) {
    Lanes r;
    __builtin_memcpy(r.v, p, sizeof r.v);
    return r;
  }
  static Lanes set(float f) { return {{f, f, f, f, f, f, f, f}}; }
  void store(float* p) const { __builtin_memcpy(p, v, sizeof v); }
};

template <typename F>
inline Lanes each(F f) {
  Lanes r;
  for (int i = 0; i < 8; ++i) r.v[i] = f(i);
  return r;
}
inline Lanes operator+(Lanes a, Lanes b) {
  return each([&](int i) { return a.v[i] + b.v[i]; });
}
inline Lanes operator-(Lanes a, Lanes b) {
  return each([&](int i) { return a.v[i] - b.v[i]; });
}
inline Lanes operator*(Lanes a, Lanes b) {
  return each([&](int i) { return a.v[i] * b.v[i]; });
}
inline Lanes operator/(Lanes a, Lanes b) {
  return each([&](int i) { return a.v[i] / b.v[i]; });
}
inline Lanes fma(Lanes a, Lanes b, Lanes c) { return a * b + c; }
// Written so that a NaN x survives.
inline Lanes at_least(Lanes lo, Lanes x) {
  return each([&](int i) { return x.v[i] < lo.v[i] ? lo.v[i] : x.v[i]; });
}
inline Lanes at_most(Lanes hi, Lanes x) {
  return each([&](int i) { return x.v[i] > hi.v[i] ? hi.v[i] : x.v[i]; });
}
inline Lanes abs(Lanes x) {
  return each([&](int i) { return __builtin_fabsf(x.v[i]); });
}
// Of numbers from 1 on.
inline Lanes reciprocal(Lanes x) { return Lanes::set(1.0f) / x; }
// Nearest even below 2^22, which is all that exp asks for.
inline Lanes round(Lanes x) {
  return each([&](int i) {
    volatile float shifted = x.v[i] + 12582912.0f;
    return shifted - 12582912.0f;
  });
}
inline Lanes pow2(Lanes x) {
  return each([&](int i) {
    const std::uint32_t bits = static_cast<std::uint32_t>(static_cast<int>(x.v[i]) + 127) << 23;
    float f;
    __builtin_memcpy(&f, &bits, 4);
    return f;
  });
}
inline Lanes where_negative(Lanes x, Lanes a, Lanes b) {
  return each([&](int i) { return x.v[i] < 0 ? a.v[i] : b.v[i]; });
}
inline Lanes lookup8(const float* table, const std::uint8_t* index) {
  return each([&](int i) { return table[index[i]]; });
}
// a in the lower four lanes, b in the upper.
inline Lanes set_halves(float a, float b) { return {{a, a, a, a, b, b, b, b}}; }
inline void transpose(Lanes (&r)[8]) {
  for (int i = 0; i < 8; ++i)
    for (int j = 0; j < i; ++j) {
      const float t = r[i].v[j];
      r[i].v[j] = r[j].v[i];
      r[j].v[i] = t;
    }
}
// Lane i: the sum of all lanes of v[i].
inline Lanes sums_of(const Lanes (&v)[8]) {
  return each([&](int i) {
    const float* s = v[i].v;
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
  });
}

using Vec = Lanes;
using Vec8 = Lanes;
using RowVec = Vec8;  // columns as lanes: bitmap rows
using Square = Vec8;  // turned as a whole when x is packed and y stored
constexpr int kAccumulators = 2;
constexpr int kExpandAlways = 1;
constexpr int kAbreast = 1;

inline float load1(F16, const std::uint8_t* p) {
  std::uint16_t h;
  __builtin_memcpy(&h, p, sizeof h);
  const std::uint32_t sign = (h & 0x8000u) << 16, exponent = h >> 10 & 31, mantissa = h & 1023u;
  if (exponent == 0) {  // zero and subnormals
    const float v = static_cast<float>(mantissa) * 5.9604644775390625e-8f;
    return sign ? -v : v;
  }
  const std::uint32_t bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13;
  float f;
  __builtin_memcpy(&f, &bits, sizeof f);
  return f;
}

#include "kernels/simd/plain_values.h"
