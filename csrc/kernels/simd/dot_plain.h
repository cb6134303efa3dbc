// What surrounds dot products, as plain loops over Vec8, for isas whose squares are eight lanes. Sealed like
// simd/<isa>.h; after the isa's own lanes.

// Those of 64 lanes whose bits are set, side by side; returns how many.
inline int join_lanes(std::uint64_t bits, const std::uint8_t* from, std::uint8_t* to) {
  int n = 0;
  for (; bits != 0; bits &= bits - 1) __builtin_memcpy(to + 4 * n++, from + 4 * __builtin_ctzll(bits), 4);
  return n;
}

// Which of the 64 lanes from `base` on have a block, as ids; returns how many.
inline int lane_ids(std::uint64_t bits, int base, std::uint16_t* ids) {
  int n = 0;
  for (; bits != 0; bits &= bits - 1) ids[n++] = static_cast<std::uint16_t>(base + __builtin_ctzll(bits));
  return n;
}

struct Ints {
  std::int32_t v[8];
  static Ints load(const std::int32_t* p) {
    Ints r;
    __builtin_memcpy(r.v, p, sizeof r.v);
    return r;
  }
};
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

template <typename X>
inline void store_lanes(X x, Vec8 v, std::uint8_t* out) {
  store8(x, v, out);
}
