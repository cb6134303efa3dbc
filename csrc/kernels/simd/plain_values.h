// Stored values as plain loops over Vec8, load1, narrow1 and lookup8, for isas without something better.
// Sealed like simd/<isa>.h, which includes it last.

// Eight stored values, from any address, as floats.
template <typename Value>
inline Vec8 load8(Value value, const std::uint8_t* p) {
  float v[8];
  for (int i = 0; i < 8; ++i) v[i] = load1(value, p + i * Value::size);
  return Vec8::load(v);
}

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
