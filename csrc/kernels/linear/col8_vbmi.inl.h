// y += w . x for one token and one col8 tile, on an isa whose byte permutations make one table of 128 bytes
// of two registers (AVX512-VBMI): 64 activations are looked up at once instead of loaded and inserted one by
// one.

// Sixty-four bytes, each a function of its place.
struct Bytes64 {
  alignas(64) std::uint8_t byte[64];
  __m512i load() const { return _mm512_load_si512(byte); }
};
template <typename F>
constexpr Bytes64 make_bytes(F f) {
  Bytes64 bytes{};
  for (int i = 0; i < 64; ++i) bytes.byte[i] = static_cast<std::uint8_t>(f(i));
  return bytes;
}

// The activations of a tile's columns as tables: one for each byte of a float.
struct ActivationTables {
  static constexpr int most = 192;  // columns
  __m512i low[4][2], high[4];       // columns 0..127 and 128..191

  explicit ActivationTables(const float* x) {
    for (int i = 0; i < 3; ++i) {
      __m512i bytes[4];
      split_bytes(x + 64 * i, bytes);
      for (int b = 0; b < 4; ++b) (i == 2 ? high[b] : low[b][i]) = bytes[b];
    }
  }

  // out [64] = the activations at 64 columns. Wide: some may be 128 or more.
  template <bool Wide>
  void look_up(__m512i columns, float* out) const {
    const __m512i at = _mm512_permutexvar_epi8(unpack_order(), columns);
    const __mmask64 in_high = Wide ? _mm512_movepi8_mask(at) : 0;
    __m512i byte[4];
#pragma GCC unroll 4
    for (int b = 0; b < 4; ++b) {
      byte[b] = _mm512_permutex2var_epi8(low[b][0], at, low[b][1]);
      if (Wide) byte[b] = _mm512_mask_permutexvar_epi8(byte[b], in_high, at, high[b]);
    }
    const __m512i low_01 = _mm512_unpacklo_epi8(byte[0], byte[1]),
                  high_01 = _mm512_unpackhi_epi8(byte[0], byte[1]),
                  low_23 = _mm512_unpacklo_epi8(byte[2], byte[3]),
                  high_23 = _mm512_unpackhi_epi8(byte[2], byte[3]);
    _mm512_store_si512(out, _mm512_unpacklo_epi16(low_01, low_23));
    _mm512_store_si512(out + 16, _mm512_unpackhi_epi16(low_01, low_23));
    _mm512_store_si512(out + 32, _mm512_unpacklo_epi16(high_01, high_23));
    _mm512_store_si512(out + 48, _mm512_unpackhi_epi16(high_01, high_23));
  }

 private:
  // Byte b of 64 floats, for each b.
  static void split_bytes(const float* x, __m512i (&bytes)[4]) {
    constexpr Bytes64 first_two = make_bytes([](int i) { return i % 32 * 4 + i / 32; }),
                      last_two = make_bytes([](int i) { return i % 32 * 4 + i / 32 + 2; });
    __m512i v[4];
    for (int i = 0; i < 4; ++i) v[i] = _mm512_loadu_si512(x + 16 * i);
    for (int half = 0; half < 2; ++half) {
      const __m512i picks = (half ? last_two : first_two).load();
      const __m512i a = _mm512_permutex2var_epi8(v[0], picks, v[1]),
                    b = _mm512_permutex2var_epi8(v[2], picks, v[3]);
      bytes[2 * half] = _mm512_shuffle_i64x2(a, b, 0x44);
      bytes[2 * half + 1] = _mm512_shuffle_i64x2(a, b, 0xee);
    }
  }
  // Unpacking bytes to floats works inside of 128-bit lanes; in this order floats come out in theirs.
  static __m512i unpack_order() {
    constexpr Bytes64 order = make_bytes([](int i) { return i / 4 % 4 * 16 + i / 16 * 4 + i % 4; });
    return order.load();
  }
};

template <typename Value>
inline Zmm steps_at(const std::uint8_t* values, int entry) {
  return {load16(Value{}, values + entry * Value::size)};
}

// Two steps of a group at a time: the sums of its eight rows are those of the even and those of the odd
// steps.
template <typename Value, bool Wide>
inline void col8_tables(const Col8Tile& t, const std::uint8_t* scales, int rows, const float* x, float* acc) {
  const ActivationTables tables(x);
  alignas(64) float sums[256] = {};  // by row; added to acc together, which saves to gather acc and scales
  alignas(64) float found[64];
  const std::uint8_t* values = t.groups;
  for (int g = 0; g < t.group_count && t.steps[g] != 0; ++g) {
    const int steps = t.steps[g], entries = 8 * steps;
    const std::uint8_t *order = t.order + g * 8, *columns = values + entries * Value::size;
    Zmm both = Zmm::set(0.0f);
    Vec8 last = Vec8::set(0.0f);
    for (int e = 0; e < entries; e += 64) {
      const int left = entries - e;
      const std::uint8_t* value = values + e * Value::size;
      fetch_ahead(values + e * (Value::size + 1), 64 * (Value::size + 1));
      if (left >= 64) {
        tables.look_up<Wide>(_mm512_loadu_si512(columns + e), found);
#pragma GCC unroll 4
        for (int i = 0; i < 64; i += 16) both = fma(steps_at<Value>(value, i), Zmm::load(found + i), both);
        continue;
      }
      const __mmask64 there = _bzhi_u64(~0ull, static_cast<unsigned>(left));
      tables.look_up<Wide>(_mm512_maskz_loadu_epi8(there, columns + e), found);
      int i = 0;
      for (; i + 16 <= left; i += 16) both = fma(steps_at<Value>(value, i), Zmm::load(found + i), both);
      if (i < left) last = load8(Value{}, value + i * Value::size) * Vec8::load(found + i);
    }
    const Vec8 sum = fold8(both) + last;
    float lanes[8];
    sum.store(lanes);
    for (int i = 0; i < 8; ++i) sums[order[i]] = lanes[i];
    values = columns + entries;
  }
  for (int r = 0; r < rows; r += 8) {
    Vec8 scale = Vec8::set(1.0f);
    if (Value::scaled) {
      const unsigned left = rows - r < 8 ? static_cast<unsigned>(rows - r) : 8;
      scale = {_mm256_maskz_loadu_ps(static_cast<__mmask8>(_bzhi_u32(255, left)), scales + 4 * r)};
    }
    fma(scale, Vec8::load(sums + r), Vec8::load(acc + r)).store(acc + r);
  }
}

// Where a row has run out, its value is zero and its column any, so x must be finite. One token after the
// other: the tile is in the cache by then.
template <typename Value, int Tokens>
void col8_vbmi(const TileArgs& args) {
  const FloatTile a(args);
  const Col8Tile t = col8_tile(a.tile, a.rows);
  for (int i = 0; i < Tokens; ++i) {
    alignas(64) float x[ActivationTables::most] = {};
    __builtin_memcpy(x, a.panel + i * kFewPanel, static_cast<std::size_t>(a.cols) * sizeof(float));
    a.cols > 128 ? col8_tables<Value, true>(t, a.scales, a.rows, x, a.acc + i * kFewRows)
                 : col8_tables<Value, false>(t, a.scales, a.rows, x, a.acc + i * kFewRows);
  }
}
