// Order-preserving keys: a float as the signed integer that sorts like it.
#pragma once
#include <cstdint>
#include <cstring>
#include <limits>

#include "core/dtype.h"

namespace prunus {

// Sign and magnitude become two's complement, so -0.0 and 0.0 are both 0 and integer compares order
// everything up to the infinities. Integers also keep subnormals apart where the caller runs with
// flush-to-zero.
template <class T>
struct KeyOf;
template <>
struct KeyOf<float> {
  using Key = std::int32_t;
  static constexpr Key infinity = 0x7f800000;
};
template <>
struct KeyOf<double> {
  using Key = std::int64_t;
  static constexpr Key infinity = 0x7ff0000000000000;
};
template <>
struct KeyOf<f16_t> {
  using Key = std::int16_t;
  static constexpr Key infinity = 0x7c00;
};
template <>
struct KeyOf<bf16_t> {
  using Key = std::int16_t;
  static constexpr Key infinity = 0x7f80;
};

template <class T>
inline T load(const std::uint8_t* p, std::int64_t i) {
  T v;
  std::memcpy(&v, p + i * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  return v;
}

template <class Key>
inline Key magnitude(Key bits) {
  return static_cast<Key>(bits & std::numeric_limits<Key>::max());
}

template <class Key>
inline Key key_of_bits(Key bits) {
  const Key sign = static_cast<Key>(bits >> (8 * sizeof(Key) - 1));
  return static_cast<Key>((magnitude(bits) ^ sign) - sign);
}

// Keys of n contiguous elements; false when one of them is NaN.
template <class T>
bool keys_of(const std::uint8_t* __restrict p, std::int64_t n, typename KeyOf<T>::Key* __restrict out) {
  using Key = typename KeyOf<T>::Key;
  Key nan =
      0;  // negative once inf - magnitude was: a subtraction and an or vectorise in plain SSE2, max does not
  for (std::int64_t i = 0; i < n; ++i) {
    const Key bits = load<Key>(p, i);
    nan = static_cast<Key>(nan | (KeyOf<T>::infinity - magnitude(bits)));
    out[i] = key_of_bits(bits);
  }
  return nan >= 0;
}

}  // namespace prunus
