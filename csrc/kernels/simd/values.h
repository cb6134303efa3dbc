// The stored value types, as tags that simd/<isa>.h overloads on: load1, load8, expand. Sealed like them.
// plain: floats as they lie; scaled: to be multiplied with the scale of its row.
struct F32 {
  static constexpr int size = 4;
  static constexpr bool plain = true, scaled = false;
};
struct Bf16 {
  static constexpr int size = 2;
  static constexpr bool plain = false, scaled = false;
};
struct F16 {
  static constexpr int size = 2;
  static constexpr bool plain = false, scaled = false;
};
struct I8 {
  static constexpr int size = 1;
  static constexpr bool plain = false, scaled = true;
};
// Of a mask: no value, but as long as one.
struct MaskBytes {
  static constexpr int size = 1;
};
using Value_f32 = F32;
using Value_bf16 = Bf16;
using Value_f16 = F16;
using Value_i8 = I8;

// Eight positions of 2, 3 or 4 bits from `p` on (which is read four bytes at a time), plus base, as bytes.
inline void unpack_places(const std::uint8_t* p, int bits, int base, std::uint8_t* out) {
  std::uint32_t word;
  __builtin_memcpy(&word, p, sizeof word);
#if defined(__BMI2__) && defined(__x86_64__)
  const std::uint64_t spread = _pdep_u64(word, ((1ull << bits) - 1) * 0x0101010101010101ull) +
                               static_cast<std::uint64_t>(base) * 0x0101010101010101ull;
  __builtin_memcpy(out, &spread, sizeof spread);
#else
  for (int i = 0; i < 8; ++i, word >>= bits)
    out[i] = static_cast<std::uint8_t>(base + static_cast<int>(word & ((1u << bits) - 1)));
#endif
}

// One stored value, from any address, as a float (F16 is the isa's).
inline float load1(F32, const std::uint8_t* p) {
  float f;
  __builtin_memcpy(&f, p, sizeof f);
  return f;
}
// `Rows` floats at any address, each wanted in all lanes of a V. Broadcasts from memory, unless the isa has
// better.
template <typename V, int Rows>
struct Spread {
  const std::uint8_t* floats;
  explicit Spread(const std::uint8_t* p) : floats(p) {}
  V operator()(int i) const { return V::set(load1(F32{}, floats + 4 * i)); }
};

inline float load1(Bf16, const std::uint8_t* p) {
  std::uint16_t h;
  __builtin_memcpy(&h, p, sizeof h);
  const std::uint32_t bits = static_cast<std::uint32_t>(h) << 16;
  float f;
  __builtin_memcpy(&f, &bits, sizeof f);
  return f;
}
inline float load1(I8, const std::uint8_t* p) { return static_cast<float>(static_cast<std::int8_t>(*p)); }

// linear/bitmap.inl.h; here so that an isa may have its own for some types.
template <typename Value>
struct RowWeights;

// The next four stored values, each wanted in all lanes of a V. May read four whatever there is.
template <typename V, typename Value>
struct Four {
  const std::uint8_t* values;
  float scale;  // int8 only
  Four(const std::uint8_t* p, float by) : values(p), scale(by) {}
  V operator()(int i) const {
    const float v = load1(Value{}, values + i * Value::size);
    return V::set(Value::scaled ? v * scale : v);
  }
};

// One float as a stored half, to nearest even (core/dtype.h has the same for everybody else).
inline std::uint16_t narrow1(Bf16, float f) {
  std::uint32_t u;
  __builtin_memcpy(&u, &f, sizeof u);
  const std::uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1)) >> 16, quiet = (u >> 16) | 0x40;
  return static_cast<std::uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}
inline std::uint16_t narrow1(F16, float f) {
  std::uint32_t u;
  __builtin_memcpy(&u, &f, sizeof u);
  const std::uint32_t sign = u >> 16 & 0x8000u;
  u &= 0x7fffffffu;
  float shifted;  // for a subnormal result the fp32 adder rounds at 2^-24
  __builtin_memcpy(&shifted, &u, sizeof u);
  shifted += 0.5f;
  std::uint32_t subnormal;
  __builtin_memcpy(&subnormal, &shifted, sizeof u);
  const std::uint32_t normal = (u + 0xc8000fffu + (u >> 13 & 1)) >> 13;
  const std::uint32_t magnitude = u > 0x7f800000u    ? 0x7e00u
                                  : u >= 0x477ff000u ? 0x7c00u
                                  : u < 0x38800000u  ? subnormal - 0x3f000000u
                                                     : normal;
  return static_cast<std::uint16_t>(sign | magnitude);
}
