// What surrounds dot products where squares are eight lanes, as plain loops. Sealed like simd/<isa>.h; after
// the isa's own lanes.

// Those of 64 lanes whose bits are set, side by side; returns how many.
inline int join_lanes(std::uint64_t bits, const std::uint8_t* from, std::uint8_t* to) {
  int n = 0;
  for (; bits != 0; bits &= bits - 1) __builtin_memcpy(to + 4 * n++, from + 4 * __builtin_ctzll(bits), 4);
  return n;
}

// Which of the 64 lanes from `base` on have a block, as ids; returns how many.
inline int lane_ids(std::uint64_t bits, int base, std::uint16_t* ids) {
  int n = 0;
  for (; bits != 0; bits &= bits - 1) ids[n++] = static_cast<std::uint16_t>(base + __builtin_ctzll(bits));
  return n;
}

template <typename X>
inline void store_lanes(X x, Vec8 v, std::uint8_t* out) {
  store8(x, v, out);
}

// The totals of four sums.
template <typename Value>
inline void four_totals(Value value, DotVec a, DotVec b, DotVec c, DotVec d, std::int32_t* to) {
  const DotVec all[4] = {a, b, c, d};
  for (int i = 0; i < 4; ++i) to[i] = total(value, all[i]);
}

template <int Tokens>
struct StripLanes {
  using type = DotVec;
};
