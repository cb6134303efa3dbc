// The stored value types, as tags that simd/<isa>.h overloads on: load1, load8, expand8. Sealed like them.
struct F32 {
  static constexpr int size = 4;
};
struct Bf16 {
  static constexpr int size = 2;
};
struct F16 {
  static constexpr int size = 2;
};
struct I8 {  // times the scale of its row
  static constexpr int size = 1;
};
using Value_f32 = F32;
using Value_bf16 = Bf16;
using Value_f16 = F16;
using Value_i8 = I8;

// One stored value, from any address, as a float (F16 is the isa's).
inline float load1(F32, const std::uint8_t* p) {
  float f;
  __builtin_memcpy(&f, p, sizeof f);
  return f;
}
inline float load1(Bf16, const std::uint8_t* p) {
  std::uint16_t h;
  __builtin_memcpy(&h, p, sizeof h);
  const std::uint32_t bits = static_cast<std::uint32_t>(h) << 16;
  float f;
  __builtin_memcpy(&f, &bits, sizeof f);
  return f;
}
inline float load1(I8, const std::uint8_t* p) { return static_cast<float>(static_cast<std::int8_t>(*p)); }
