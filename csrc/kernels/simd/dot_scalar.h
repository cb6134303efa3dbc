// Dot lanes in plain C++: 32 bits of a token's activations times 32 bits of a row's weights, added to a sum.
// The definition of what every isa does. Sealed like the others.

struct DotLanes {
  static constexpr int lanes = 8;
  std::uint32_t v[8];
  static DotLanes load(const void* p) {
    DotLanes r;
    __builtin_memcpy(r.v, p, sizeof r.v);
    return r;
  }
  static DotLanes spread(const void* p) {
    std::uint32_t u;
    __builtin_memcpy(&u, p, sizeof u);
    return {{u, u, u, u, u, u, u, u}};
  }
  static constexpr std::uint32_t all = 0xff;
  static DotLanes load_some(const std::uint8_t* p, int count) {
    DotLanes r{};
    __builtin_memcpy(r.v, p, static_cast<std::size_t>(count) * 4);
    return r;
  }
  // The next blocks into the lanes of the bits that are set, zero elsewhere. Reads only what it keeps.
  static DotLanes spread_out(std::uint32_t bits, const std::uint8_t* p) {
    DotLanes r{};
    for (int i = 0; i < lanes; ++i)
      if (bits >> i & 1) {
        __builtin_memcpy(&r.v[i], p, 4);
        p += 4;
      }
    return r;
  }
  static DotLanes zero() { return {}; }
  void store(void* p) const { __builtin_memcpy(p, v, sizeof v); }
};

inline std::int32_t dot1(I8, std::int32_t sum, std::uint32_t x, std::uint32_t w) {
  for (int i = 0; i < 4; ++i)
    sum += static_cast<std::int32_t>(x >> 8 * i & 255) * static_cast<std::int8_t>(w >> 8 * i & 255);
  return sum;
}
inline float dot1(Bf16, float sum, std::uint32_t x, std::uint32_t w) {
  for (int i = 0; i < 2; ++i) {
    const std::uint32_t a = i ? x & 0xffff0000u : x << 16, b = i ? w & 0xffff0000u : w << 16;
    float f, g;
    __builtin_memcpy(&f, &a, sizeof f);
    __builtin_memcpy(&g, &b, sizeof g);
    sum += f * g;
  }
  return sum;
}
template <typename Value>
struct DotSum {
  using type = std::int32_t;
};
template <>
struct DotSum<Bf16> {
  using type = float;
};

template <typename Value>
[[gnu::noinline]] DotLanes dot(Value value, DotLanes sum, DotLanes x, DotLanes w) {
  for (int i = 0; i < 8; ++i) {
    typename DotSum<Value>::type s;
    __builtin_memcpy(&s, &sum.v[i], sizeof s);
    s = dot1(value, s, x.v[i], w.v[i]);
    __builtin_memcpy(&sum.v[i], &s, sizeof s);
  }
  return sum;
}
template <typename Value>
inline DotLanes add_sums(Value, DotLanes a, DotLanes b) {
  for (int i = 0; i < 8; ++i) {
    typename DotSum<Value>::type s, t;
    __builtin_memcpy(&s, &a.v[i], sizeof s);
    __builtin_memcpy(&t, &b.v[i], sizeof t);
    s += t;
    __builtin_memcpy(&a.v[i], &s, sizeof s);
  }
  return a;
}
template <typename Value>
inline std::int32_t total(Value, DotLanes v) {
  typename DotSum<Value>::type sum = 0;
  for (int i = 0; i < 8; ++i) {
    typename DotSum<Value>::type s;
    __builtin_memcpy(&s, &v.v[i], sizeof s);
    sum += s;
  }
  std::int32_t bits;
  __builtin_memcpy(&bits, &sum, sizeof bits);
  return bits;
}

// Eight int32.
struct Ints {
  std::int32_t v[8];
};
inline Ints as_ints(Vec8 bits) {
  Ints r;
  __builtin_memcpy(r.v, &bits, sizeof r.v);
  return r;
}
inline Ints minus_product(Ints a, Ints b, std::int32_t c) {
  Ints r;
  for (int i = 0; i < 8; ++i) r.v[i] = a.v[i] - b.v[i] * c;
  return r;
}
inline Vec8 to_floats(Ints a) {
  float f[8];
  for (int i = 0; i < 8; ++i) f[i] = static_cast<float>(a.v[i]);
  return Vec8::load(f);
}

// Nearest even; so far from zero that no integer is meant (a NaN's token is NaN anyway), any.
inline std::int32_t nearest_int(float f) {
  if (!(f > -2e9f && f < 2e9f)) return 0;
  const auto low = static_cast<std::int32_t>(f);
  const float rest = f - static_cast<float>(low);
  if (rest > 0.5f || (rest == 0.5f && (low & 1))) return low + 1;
  if (rest < -0.5f || (rest == -0.5f && (low & 1))) return low - 1;
  return low;
}

// 32 columns of a token as 8-bit integers, four a lane.
template <typename X>
inline Vec8 quads_of(X x, const std::uint8_t* p, float inverse, std::int32_t zero) {
  std::uint8_t quads[32];
  for (int i = 0; i < 32; ++i) {
    const std::int32_t q = nearest_int(load1(x, p + i * X::size) * inverse) + zero;
    quads[i] = static_cast<std::uint8_t>(q < 0 ? 0 : q > 255 ? 255 : q);
  }
  return Vec8::load_bytes(quads);
}

// 16 columns as bf16, two a lane.
template <typename X>
inline Vec8 pairs_of(X x, const std::uint8_t* p) {
  std::uint8_t pairs[32];
  for (int i = 0; i < 16; ++i) {
    const std::uint16_t half = narrow1(Bf16{}, load1(x, p + i * X::size));
    __builtin_memcpy(pairs + 2 * i, &half, sizeof half);
  }
  return Vec8::load_bytes(pairs);
}

using DotVec = DotLanes;
constexpr int kDotSums = 8;
constexpr int kFewSums = 8;  // as kDotSums, where the activations are in registers too

#include "kernels/simd/dot_plain.h"
