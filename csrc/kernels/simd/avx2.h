// avx2 + fma: 8 lanes, 16 registers. Sealed: include only inside the anonymous namespace of isa_avx2.cpp.
#include "kernels/simd/x86_ymm.h"

using Vec = Ymm;      // the widest vector
using Vec8 = Ymm;     // exactly eight lanes: groups of rows, transposes, activations
using RowVec = Ymm;   // columns as lanes: bitmap rows
using Square = Vec8;  // turned as a whole when x is packed and y stored
constexpr int kAccumulators = 12;
constexpr int kExpandAlways = 8;  // finding a set bit and clearing it are two operations each up to Zen 3
constexpr int kAbreast = 2;       // of 16 registers

// Byte shuffles that move the first popcount(bits) values to the lanes of the set bits and zero the rest.
// fp32 does not fit one 16-byte shuffle: its upper four lanes are loaded from popcount(bits & 15) values
// further on. bf16 and int8 go straight to the upper bytes of their 32-bit lanes, from a copy in either half.
struct ExpandTables {
  alignas(32) std::uint8_t f32[256][32];
  alignas(32) std::uint8_t bf16[256][32];
  alignas(32) std::uint8_t i8[256][32];
  alignas(16) std::uint8_t f16[256][16];
};
constexpr ExpandTables make_expand_tables() {
  ExpandTables t{};
  for (int bits = 0; bits < 256; ++bits) {
    int next = 0, next_in_half = 0;
    for (int lane = 0; lane < 8; ++lane) {
      if (lane == 4) next_in_half = 0;
      const bool kept = bits >> lane & 1;
      for (int b = 0; b < 4; ++b) {
        t.f32[bits][4 * lane + b] = static_cast<std::uint8_t>(kept ? 4 * next_in_half + b : 0x80);
        t.bf16[bits][4 * lane + b] = static_cast<std::uint8_t>(kept && b >= 2 ? 2 * next + b - 2 : 0x80);
        t.i8[bits][4 * lane + b] = static_cast<std::uint8_t>(kept && b == 3 ? next : 0x80);
      }
      for (int b = 0; b < 2; ++b)
        t.f16[bits][2 * lane + b] = static_cast<std::uint8_t>(kept ? 2 * next + b : 0x80);
      next += kept;
      next_in_half += kept;
    }
  }
  return t;
}
constexpr ExpandTables kExpand = make_expand_tables();

// Byte `i` of a word of bits, times `entry`: the offset of its row in a table, in one shift and one mask.
template <int entry>
inline std::size_t row_of_byte(std::uint64_t bits, int i) {
  return (i * 8 >= __builtin_ctz(entry) ? bits >> (i * 8 - __builtin_ctz(entry)) : bits * entry) &
         (std::size_t{255} * entry);
}

// The next values of p in the lanes of the bits set in byte i of `bits`, zero elsewhere; p moves on. May read
// 32 bytes from p. Counts and offsets stay 64 bits wide: a sign extension per load costs a tenth of the
// decode.
inline Ymm expand(F32, const std::uint8_t*& p, std::uint64_t bits, int i) {
  const std::size_t row = row_of_byte<32>(bits, i);
  const auto* values = reinterpret_cast<const float*>(p);
  p += 4 * static_cast<std::size_t>(__builtin_popcountll(row));
  const __m128i lo = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
  const __m128i hi = _mm_loadu_si128(reinterpret_cast<const __m128i*>(
      values + static_cast<std::size_t>(__builtin_popcountll(row & (15 * 32)))));
  const __m256i order = *reinterpret_cast<const __m256i*>(&kExpand.f32[0][0] + row);
  const __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(lo), hi, 1);
  return {_mm256_castsi256_ps(_mm256_shuffle_epi8(both, order))};
}
inline Ymm expand(Bf16, const std::uint8_t*& p, std::uint64_t bits, int i) {
  const std::size_t row = row_of_byte<32>(bits, i);
  const __m256i values = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  p += 2 * static_cast<std::size_t>(__builtin_popcountll(row));
  return {_mm256_castsi256_ps(
      _mm256_shuffle_epi8(values, *reinterpret_cast<const __m256i*>(&kExpand.bf16[0][0] + row)))};
}
inline Ymm expand(F16, const std::uint8_t*& p, std::uint64_t bits, int i) {
  const std::size_t row = row_of_byte<16>(bits, i);
  const __m128i values = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  p += 2 * static_cast<std::size_t>(__builtin_popcountll(row));
  return {
      _mm256_cvtph_ps(_mm_shuffle_epi8(values, *reinterpret_cast<const __m128i*>(&kExpand.f16[0][0] + row)))};
}
inline Ymm expand(I8, const std::uint8_t*& p, std::uint64_t bits, int i) {
  const std::size_t row = row_of_byte<32>(bits, i);
  std::int64_t eight;
  __builtin_memcpy(&eight, p, sizeof eight);
  p += static_cast<std::size_t>(__builtin_popcountll(row));
  const __m256i top = _mm256_shuffle_epi8(_mm256_set1_epi64x(eight),
                                          *reinterpret_cast<const __m256i*>(&kExpand.i8[0][0] + row));
  return {_mm256_cvtepi32_ps(_mm256_srai_epi32(top, 24))};
}
