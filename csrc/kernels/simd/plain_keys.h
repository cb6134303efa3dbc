// Thirty-two keys as plain loops, for isas without something better. Sealed like simd/<isa>.h.
#include "kernels/simd/keys.h"

// Whether a NaN has been among the scores read.
template <typename T>
struct NanFinder {
  typename KeyOf<T>::Key seen = 0;
  bool found() const { return seen < 0; }
};

template <typename T>
struct KeyBlock {
  using Key = typename KeyOf<T>::Key;
  Key v[32];
  static KeyBlock load(const std::uint8_t* p, NanFinder<T>& nan) {
    KeyBlock b;
    for (int i = 0; i < 32; ++i) b.v[i] = key_at(T{}, p, i, nan.seen);
    return b;
  }
  void store(Key* out) const { __builtin_memcpy(out, v, sizeof v); }
};

// One byte per key: 255 or 0.
struct KeyBytes {
  std::uint8_t v[32];
};
template <typename T>
inline KeyBytes less(const KeyBlock<T>& b, typename KeyOf<T>::Key bound) {
  KeyBytes r;
  for (int i = 0; i < 32; ++i) r.v[i] = static_cast<std::uint8_t>(-(b.v[i] < bound));
  return r;
}
template <typename T>
inline KeyBytes greater(const KeyBlock<T>& b, typename KeyOf<T>::Key bound) {
  KeyBytes r;
  for (int i = 0; i < 32; ++i) r.v[i] = static_cast<std::uint8_t>(-(b.v[i] > bound));
  return r;
}
inline std::uint32_t bits(const KeyBytes& b) {
  std::uint32_t r = 0;
  for (int i = 0; i < 32; i += 8) {
    std::uint64_t eight;
    __builtin_memcpy(&eight, b.v + i, 8);
    // The product gathers the lowest bit of every byte in the highest byte, the first byte's lowest.
    r |= static_cast<std::uint32_t>((eight & 0x0101010101010101u) * 0x0102040810204080u >> 56) << i;
  }
  return r;
}
// 0 where the byte is set, else 1.
inline void store_unset(const KeyBytes& b, std::uint8_t* out) {
  for (int i = 0; i < 32; ++i) out[i] = static_cast<std::uint8_t>(b.v[i] + 1);
}
