// What stands in for the tiles of AMX (simd/amx.h) in lanes of 512 bits: the same products, a row of sums to
// a register. Tiles 0 to 3 hold sums; 4 to 7 are read where they lie, so that what was loaded must stay as it
// is until it was multiplied. After simd/dot_avx512.h. Sealed like the others.

inline void start_tiles() {}
inline void end_tiles() {}

// `dot`, whose name a tile's product takes.
template <typename Value>
inline DotZmm dot_of_lanes(Value value, DotZmm sum, DotZmm x, DotZmm w) {
  return dot(value, sum, x, w);
}

struct Tiles {
  static constexpr int rows = 16, sum_tiles = 4;
  struct Place {
    const std::uint8_t* data;
    std::int64_t stride;
  };
  Place places[sum_tiles];
  DotZmm sums[sum_tiles][rows];

  template <int T>
  void zero() {
    for (DotZmm& row : sums[T]) row = DotZmm::zero();
  }
  template <int T>
  void load(const std::uint8_t* p, std::int64_t stride) {
    if constexpr (T < sum_tiles)
      for (int r = 0; r < rows; ++r) sums[T][r] = DotZmm::load(p + r * stride);
    else
      places[T - sum_tiles] = {p, stride};
  }
  template <int T>
  void store(std::uint8_t* p, std::int64_t stride) const {
    for (int r = 0; r < rows; ++r) sums[T][r].store(p + r * stride);
  }
  // C += A . B: lanes along the rows of A, down the columns of B.
  template <int C, int A, int B, typename Value>
  void dot(Value value) {
    const Place a = places[A - sum_tiles], b = places[B - sum_tiles];
    DotZmm sum[rows];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) sum[r] = sums[C][r];
    for (int lane = 0; lane < 16; ++lane) {
      const DotZmm down = DotZmm::load(b.data + lane * b.stride);
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r)
        sum[r] = dot_of_lanes(value, sum[r], down, DotZmm::spread(a.data + r * a.stride + lane * 4));
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) sums[C][r] = sum[r];
  }
};
