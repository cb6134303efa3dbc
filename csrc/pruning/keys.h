// Order-preserving keys: a float as the signed integer that sorts like it.
//
// Sign and magnitude become two's complement, so -0.0 and 0.0 are both 0 and integer compares order
// everything up to the infinities. Integers also keep subnormals apart where the caller runs with
// flush-to-zero.
#pragma once
#include <cstdint>
#include <cstring>
#include <limits>

#include "core/dtype.h"
#include "kernels/score_kernels.h"

namespace prunus {

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
bool keys_of(const std::uint8_t* p, std::int64_t n, typename KeyOf<T>::Key* out) {
  return score_kernels<T>().keys(p, n, out);
}

}  // namespace prunus
