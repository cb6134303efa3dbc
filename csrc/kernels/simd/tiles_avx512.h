// What stands in for the tiles of AMX (simd/amx.h) where bf16 is multiplied in lanes of 512 bits: the same
// products, a row of sums to a register. Tiles 0 to 3 hold sums; 4 to 7 are read where they lie, so that what
// was loaded must stay as it is until it was multiplied. Sealed like the others.

inline void start_tiles() {}
inline void end_tiles() {}

struct Tiles {
  static constexpr int rows = 16, sum_tiles = 4;
  struct Place {
    const std::uint8_t* data;
    std::int64_t stride;
  };
  Place places[sum_tiles];
  __m512 sums[sum_tiles][rows];

  template <int T>
  void zero() {
    for (auto& row : sums[T]) row = _mm512_setzero_ps();
  }
  template <int T>
  void load(const std::uint8_t* p, std::int64_t stride) {
    static_assert(T >= sum_tiles);
    places[T - sum_tiles] = {p, stride};
  }
  template <int T>
  void store(std::uint8_t* p, std::int64_t stride) const {
    for (int r = 0; r < rows; ++r) _mm512_storeu_ps(p + r * stride, sums[T][r]);
  }
  // C += A . B: pairs along the rows of A, which go down the columns of B.
  template <int C, int A, int B>
  void dot(Bf16) {
    const Place a = places[A - sum_tiles], b = places[B - sum_tiles];
    __m512 sum[rows];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) sum[r] = sums[C][r];
    for (int k = 0; k < 16; ++k) {
      const auto down = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b.data + k * b.stride));
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) {
        std::int32_t pair;
        __builtin_memcpy(&pair, a.data + r * a.stride + k * 4, sizeof pair);
        sum[r] = _mm512_dpbf16_ps(sum[r], reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair)), down);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) sums[C][r] = sum[r];
  }
};
