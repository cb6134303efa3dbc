// y += w . x for one bitmap tile. One text for every isa. Tiles are 64 columns wide: one word of bits per
// row.

inline std::uint64_t bits_of_row(const std::uint8_t* tile, int row) {
  std::uint64_t bits;
  __builtin_memcpy(&bits, tile + row * 8, sizeof bits);
  return bits;
}

// Many tokens: the set bits of a row are walked one by one; a row's accumulators stay in registers.
template <typename Value, int Width>
void bitmap(const std::uint8_t* tile, const std::uint8_t* scales, int rows, int, Unit, const float* panel,
            float* acc) {
  using V = typename pick<Width % Vec::lanes == 0, Vec, Vec8>::type;
  constexpr int vectors = Width / V::lanes;
  const std::uint8_t* value = tile + rows * 8;
  for (int r = 0; r < rows; ++r, acc += Width) {
    const float scale = scales ? load1(F32{}, scales + r * 4) : 1.0f;
    V sum[vectors];
    for (int j = 0; j < vectors; ++j) sum[j] = V::load(acc + j * V::lanes);
    for (std::uint64_t bits = bits_of_row(tile, r); bits != 0; bits &= bits - 1, value += Value::size) {
      const float* x = panel + static_cast<std::size_t>(__builtin_ctzll(bits)) * Width;
      const V w = V::set(Value::size == 1 ? load1(Value{}, value) * scale : load1(Value{}, value));
#pragma GCC unroll 16
      for (int j = 0; j < vectors; ++j) sum[j] = fma(w, V::load(x + j * V::lanes), sum[j]);
    }
    for (int j = 0; j < vectors; ++j) sum[j].store(acc + j * V::lanes);
  }
}

// Few tokens: eight weights at a time are expanded to their columns and multiplied with eight activations of
// every token, zeros included. No branch depends on the weights. Fewer than four tokens take several sums
// each, because one multiply-add after another on the same sum would wait four cycles for eight weights.
template <typename Value, int Tokens>
void bitmap_rows(const std::uint8_t* tile, const std::uint8_t* scales, int rows, int, Unit,
                 const float* panel, float* acc) {
  constexpr int sums = Tokens == 1 ? 4 : Tokens < 4 ? 2 : 1;
  const std::uint8_t* value = tile + rows * 8;
  for (int r = 0; r < rows; ++r, acc += Tokens * 8) {
    const std::uint64_t bits = bits_of_row(tile, r);
    __builtin_prefetch(tile + r * 8 + kPrefetch);
    __builtin_prefetch(value + kPrefetch);
    if (Value::size >= 2) __builtin_prefetch(value + kPrefetch + 64);
    if (Value::size >= 4) __builtin_prefetch(value + kPrefetch + 128);
    Vec8 sum[Tokens][sums];
    for (int t = 0; t < Tokens; ++t)
      for (int i = 0; i < sums; ++i) sum[t][i] = i || scales ? Vec8::set(0.0f) : Vec8::load(acc + t * 8);
#pragma GCC unroll 8
    for (int c = 0; c < 8; ++c) {
      const Vec8 w = expand8(Value{}, value, bits, c);
      for (int t = 0; t < Tokens; ++t)
        sum[t][c % sums] = fma(w, Vec8::load(panel + t * 64 + c * 8), sum[t][c % sums]);
    }
    for (int t = 0; t < Tokens; ++t) {
      for (int i = 1; i < sums; ++i) sum[t][0] = sum[t][0] + sum[t][i];
      if (scales)
        sum[t][0] = fma(Vec8::set(load1(F32{}, scales + r * 4)), sum[t][0], Vec8::load(acc + t * 8));
      sum[t][0].store(acc + t * 8);
    }
  }
}
