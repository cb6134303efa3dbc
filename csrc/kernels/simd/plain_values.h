// Stored values as plain loops over Vec8, load1, narrow1 and lookup8, for isas without something better.
// Sealed like simd/<isa>.h, which includes it last.

// Eight stored values, from any address, as floats.
template <typename Value>
inline Vec8 load8(Value value, const std::uint8_t* p) {
  float v[8];
  for (int i = 0; i < 8; ++i) v[i] = load1(value, p + i * Value::size);
  return Vec8::load(v);
}

// Four floats from a in the lower four lanes, four from b in the upper.
inline Vec8 load_halves(const float* a, const float* b) {
  float v[8];
  __builtin_memcpy(v, a, 16);
  __builtin_memcpy(v + 4, b, 16);
  return Vec8::load(v);
}
inline void store_halves(Vec8 v, float* a, float* b) {
  float lanes[8];
  v.store(lanes);
  __builtin_memcpy(a, lanes, 16);
  __builtin_memcpy(b, lanes + 4, 16);
}
// Each of those four in turn, in all lanes of its half.
struct InHalves {
  const float *a, *b;
  static InHalves load(const float* a, const float* b) { return {a, b}; }
  Vec8 operator()(int i) const { return set_halves(a[i], b[i]); }
};

// The next popcount(bits) stored values in the lanes of the set bits, zero elsewhere.
template <typename Value>
inline Vec8 expand(Value value, const std::uint8_t*& p, std::uint64_t bits, int i) {
  float v[8];
  for (int lane = 0; lane < 8; ++lane) {
    const bool kept = bits >> (8 * i + lane) & 1;
    v[lane] = kept ? load1(value, p) : 0.0f;
    p += kept * Value::size;
  }
  return Vec8::load(v);
}

inline void store8(F32, Vec8 v, std::uint8_t* out) { v.store(reinterpret_cast<float*>(out)); }
// Eight floats as stored halves.
template <typename Value>
inline void store8(Value value, Vec8 v, std::uint8_t* out) {
  float f[8];
  v.store(f);
  for (int i = 0; i < 8; ++i) {
    const std::uint16_t half = narrow1(value, f[i]);
    __builtin_memcpy(out + 2 * i, &half, sizeof half);
  }
}

// Eight positions of 2, 3 or 4 bits, and the floats at them.
struct Places {
  std::uint8_t at[8];
};
template <int Bits>
inline Places load_places(const std::uint8_t* p) {
  Places places;
  unpack_places(p, Bits, 0, places.at);
  return places;
}
template <int Bits>
inline Vec8 pick8(const float* x, Places places) {
  return lookup8(x, places.at);
}
