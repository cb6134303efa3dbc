// One score as its key (pruning/keys.h). Sealed like simd/<isa>.h.

// A NaN's magnitude is beyond infinity's, so the difference is negative.
template <typename T>
inline typename KeyOf<T>::Key key_at(T, const std::uint8_t* p, std::int64_t i, typename KeyOf<T>::Key& nan) {
  using Key = typename KeyOf<T>::Key;
  Key b;
  __builtin_memcpy(&b, p + i * static_cast<std::int64_t>(sizeof b), sizeof b);
  const Key sign = static_cast<Key>(b >> (8 * sizeof(Key) - 1));
  const Key magnitude = static_cast<Key>(b & ~(static_cast<Key>(1) << (8 * sizeof(Key) - 1)));
  nan = static_cast<Key>(nan | (KeyOf<T>::infinity - magnitude));
  return static_cast<Key>((magnitude ^ sign) - sign);
}
template <typename Key>
inline Key key_at(RawKeys<Key>, const std::uint8_t* p, std::int64_t i, Key&) {
  Key key;
  __builtin_memcpy(&key, p + i * static_cast<std::int64_t>(sizeof key), sizeof key);
  return key;
}
