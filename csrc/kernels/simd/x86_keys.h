// Thirty-two keys in ymm registers: avx2, and avx512 too. Sealed like simd/<isa>.h.
#include "kernels/simd/keys.h"

inline __m256i load_bits(const std::uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

// What differs between the widths of a key. sign_epi gives magnitude, its negative or (for zero) zero.
template <typename Key>
struct KeyLanes;
template <>
struct KeyLanes<std::int16_t> {
  static __m256i set(std::int16_t k) { return _mm256_set1_epi16(k); }
  static __m256i greater(__m256i a, __m256i b) { return _mm256_cmpgt_epi16(a, b); }
  static __m256i subtract(__m256i a, __m256i b) { return _mm256_sub_epi16(a, b); }
  static __m256i signed_as(__m256i magnitude, __m256i bits) { return _mm256_sign_epi16(magnitude, bits); }
  static __m256i bytes(const __m256i* m) {
    return _mm256_permute4x64_epi64(_mm256_packs_epi16(m[0], m[1]), 0xd8);
  }
};
template <>
struct KeyLanes<std::int32_t> {
  static __m256i set(std::int32_t k) { return _mm256_set1_epi32(k); }
  static __m256i greater(__m256i a, __m256i b) { return _mm256_cmpgt_epi32(a, b); }
  static __m256i subtract(__m256i a, __m256i b) { return _mm256_sub_epi32(a, b); }
  static __m256i signed_as(__m256i magnitude, __m256i bits) { return _mm256_sign_epi32(magnitude, bits); }
  static __m256i bytes(const __m256i* m) {
    const __m256i b = _mm256_packs_epi16(_mm256_packs_epi32(m[0], m[1]), _mm256_packs_epi32(m[2], m[3]));
    return _mm256_permutevar8x32_epi32(b, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  }
};
template <>
struct KeyLanes<std::int64_t> {
  static __m256i set(std::int64_t k) { return _mm256_set1_epi64x(k); }
  static __m256i greater(__m256i a, __m256i b) { return _mm256_cmpgt_epi64(a, b); }
  static __m256i subtract(__m256i a, __m256i b) { return _mm256_sub_epi64(a, b); }
  static __m256i signed_as(__m256i magnitude, __m256i bits) {
    const __m256i sign = _mm256_cmpgt_epi64(_mm256_setzero_si256(), bits);
    return _mm256_sub_epi64(_mm256_xor_si256(magnitude, sign), sign);
  }
  static __m256i bytes(const __m256i* m) {
    __m256i half[4];
    for (int i = 0; i < 4; ++i) {
      const __m256 a = _mm256_castsi256_ps(m[2 * i]), b = _mm256_castsi256_ps(m[2 * i + 1]);
      half[i] = _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88)), 0xd8);
    }
    return KeyLanes<std::int32_t>::bytes(half);
  }
};

// Whether a NaN has been among the scores read: the sign bits of infinity - magnitude, gathered.
template <typename T>
struct NanFinder {
  using Key = typename KeyOf<T>::Key;
  Key seen = 0;
  __m256i lanes = _mm256_setzero_si256();
  bool found() const {
    const __m256i negative = KeyLanes<Key>::greater(_mm256_setzero_si256(), lanes);
    return seen < 0 || !_mm256_testz_si256(negative, negative);
  }
};

template <typename Key>
inline __m256i keys_of_bits(RawKeys<Key>, __m256i bits, NanFinder<RawKeys<Key>>&) {
  return bits;
}
template <typename T>
inline __m256i keys_of_bits(T, __m256i bits, NanFinder<T>& nan) {
  using Lanes = KeyLanes<typename KeyOf<T>::Key>;
  using Key = typename KeyOf<T>::Key;
  constexpr Key sign = static_cast<Key>(static_cast<Key>(1) << (8 * sizeof(Key) - 1));
  const __m256i magnitude = _mm256_andnot_si256(Lanes::set(sign), bits);
  nan.lanes = _mm256_or_si256(nan.lanes, Lanes::subtract(Lanes::set(KeyOf<T>::infinity), magnitude));
  return Lanes::signed_as(magnitude, bits);
}

template <typename T>
struct KeyBlock {
  using Key = typename KeyOf<T>::Key;
  static constexpr int vectors = static_cast<int>(sizeof(Key));
  __m256i v[vectors];
  static KeyBlock load(const std::uint8_t* p, NanFinder<T>& nan) {
    KeyBlock b;
    for (int i = 0; i < vectors; ++i) b.v[i] = keys_of_bits(T{}, load_bits(p + 32 * i), nan);
    return b;
  }
  void store(Key* out) const {
    for (int i = 0; i < vectors; ++i) _mm256_storeu_si256(reinterpret_cast<__m256i*>(out) + i, v[i]);
  }
};

// One byte per key: 255 or 0.
using KeyBytes = __m256i;
template <typename T>
inline KeyBytes less(const KeyBlock<T>& b, typename KeyOf<T>::Key bound) {
  using Lanes = KeyLanes<typename KeyOf<T>::Key>;
  __m256i m[KeyBlock<T>::vectors];
  for (int i = 0; i < KeyBlock<T>::vectors; ++i) m[i] = Lanes::greater(Lanes::set(bound), b.v[i]);
  return Lanes::bytes(m);
}
template <typename T>
inline KeyBytes greater(const KeyBlock<T>& b, typename KeyOf<T>::Key bound) {
  using Lanes = KeyLanes<typename KeyOf<T>::Key>;
  __m256i m[KeyBlock<T>::vectors];
  for (int i = 0; i < KeyBlock<T>::vectors; ++i) m[i] = Lanes::greater(b.v[i], Lanes::set(bound));
  return Lanes::bytes(m);
}
inline std::uint32_t bits(KeyBytes b) { return static_cast<std::uint32_t>(_mm256_movemask_epi8(b)); }
// 0 where the byte is set, else 1.
inline void store_unset(KeyBytes b, std::uint8_t* out) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_add_epi8(b, _mm256_set1_epi8(1)));
}
