// Sums of a dot tile for a few tokens: lanes of w are the lanes of the SIMD registers. What is read most is
// the weight, once and in order.
//
// panel [Tokens][lanes of w, up to 16][4 bytes]; sums [rows][kLaneRowTokens], by place.

// A few vectors of weights of a row, the last of which may be cut off.
template <typename V>
inline V load_lanes(const std::uint8_t* p, int left) {
  return left >= V::lanes ? V::load(p) : V::load_some(p, left);
}

// The totals of sums of Rows rows x Tokens tokens, at sums [row][kLaneRowTokens].
template <typename Value, typename V, int Tokens, int Rows>
inline void store_totals(const V (&sum)[Rows][Tokens], std::int32_t* sums) {
  constexpr auto at = [](int n) { return n / Tokens * kLaneRowTokens + n % Tokens; };
#pragma GCC unroll 16
  for (int n = 0; n < Rows * Tokens; n += 4) {
    const auto of = [&](int i) { return sum[(n + i) / Tokens][(n + i) % Tokens]; };
    std::int32_t four[4];
    four_totals(Value{}, of(0), of(1), of(2), of(3), four);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) sums[at(n + i)] = four[i];
  }
}

// Rows whose blocks lie side by side share the lanes of the tokens, which are put side by side too: x
// [Tokens][stride].
template <typename Value, typename V, int Tokens, int Rows>
inline void few_rows(const DotTile& t, const std::uint8_t* values, int row, int count, const std::uint8_t* x,
                     std::int64_t stride, std::int32_t* sums) {
  V sum[Rows][Tokens];
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < Tokens; ++j) sum[i][j] = V::zero();
  // `left` blocks of each row from q on, which lie `apart` bytes apart.
  const auto add = [&](int q, const std::uint8_t* w, std::int64_t apart, int left) {
    V xs[Tokens];
#pragma GCC unroll 8
    for (int j = 0; j < Tokens; ++j) xs[j] = V::load(x + j * stride + q * 4);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const V ws = load_lanes<V>(w + i * apart, left);
      fetch_ahead(w + i * apart, 64);
#pragma GCC unroll 8
      for (int j = 0; j < Tokens; ++j) sum[i][j] = dot(Value{}, sum[i][j], xs[j], ws);
    }
  };
  int q = 0;
  if (t.r >= DotLayout::run) {  // whole runs, whose place needs no arithmetic
    const std::uint8_t* w = values + row * kRunBytes;
    for (; q + DotLayout::run <= count; w += DotLayout::run * t.block_bytes())
#pragma GCC unroll 2
      for (int i = 0; i < DotLayout::run; i += V::lanes, q += V::lanes)
        add(q, w + i * 4, kRunBytes, V::lanes);
  } else {
    const std::int64_t apart = count * static_cast<std::int64_t>(DotLayout::lane_bytes);
    const std::uint8_t* w = values + row * apart;
    for (; q + V::lanes <= count; q += V::lanes) add(q, w + q * 4, apart, V::lanes);
  }
  for (; q < count; q += V::lanes) {
    const int apart = t.row_stride(q, count), run = t.run_of(q, count);
    const int left = t.r < DotLayout::run ? count - q : run - q % DotLayout::run;
    add(q, values + t.block_at(q) + row * static_cast<std::int64_t>(apart), apart, left);
  }
  store_totals<Value>(sum, sums + row * kLaneRowTokens);
}

// Sums of so many rows at a time stay in registers: the more, the longer the piece of the weight that is read
// in order.
constexpr int few_rows_of(int tokens, int most) {
  const int rows = kFewSums / tokens;
  return rows < most ? rows : most;
}

template <typename Value, typename V, int Tokens>
void few_tall(const DotTile& t, const std::uint8_t* panel, std::int32_t* sums) {
  constexpr int most = (most_tile_cols(Format::dot) + 1) / (4 / Value::size) + 64;
  constexpr int of_short = few_rows_of(Tokens, 4), of_tall = few_rows_of(Tokens, 16);
  alignas(64) std::uint8_t side[Tokens][most * 4];
  const std::int64_t lanes = (t.lanes + 15) / 16 * 16;
  for (int g = 0; g < t.groups; ++g, sums += t.r * kLaneRowTokens) {
    const int count = t.first(g + 1) - t.first(g);
    const std::uint8_t* x = panel;
    std::int64_t stride = lanes * 4;
    if (count != t.lanes) {
      for (int j = 0; j < Tokens; ++j) {
        std::uint8_t* to = side[j];
        for (int word = 0; word < t.words; ++word)
          to += 4 * join_lanes(t.bits(g, word), panel + j * lanes * 4 + word * 256, to);
        V::zero().store(to);
      }
      x = side[0];
      stride = most * 4;
    }
    if (t.r < 16)
      for (int i = 0; i < t.r; i += of_short)
        few_rows<Value, V, Tokens, of_short>(t, t.values(g), i, count, x, stride, sums);
    else
      for (int i = 0; i < t.r; i += of_tall)
        few_rows<Value, V, Tokens, of_tall>(t, t.values(g), i, count, x, stride, sums);
  }
}

// Rows of blocks of their own: the weights are spread out.
template <typename Value, typename V, int Tokens>
void few_flat(const DotTile& t, const std::uint8_t* panel, std::int32_t* sums) {
  constexpr int sets = Tokens > 2 ? 1 : 4;
  const std::int64_t lanes = (t.lanes + 15) / 16 * 16;
  const std::uint8_t* next = t.tile + t.values_at;
  for (int g = 0; g < t.groups; ++g) {
    V sum[sets][Tokens];
    for (int s = 0; s < sets; ++s)
      for (int j = 0; j < Tokens; ++j) sum[s][j] = V::zero();
    const auto add = [&](std::uint32_t bits, int lane, int set) {
      const V ws = V::spread_out(bits, next);
      next += 4 * __builtin_popcount(bits);
#pragma GCC unroll 8
      for (int j = 0; j < Tokens; ++j)
        sum[set][j] = dot(Value{}, sum[set][j], V::load(panel + (j * lanes + lane) * 4), ws);
    };
    const int whole = t.lanes / 64;
    for (int word = 0; word < whole; ++word) {
      const std::uint64_t bits = t.bits(g, word);
      fetch_ahead(next, 256);
#pragma GCC unroll 8
      for (int i = 0; i < 64 / V::lanes; ++i)
        add(static_cast<std::uint32_t>(bits >> (i * V::lanes)) & V::all, word * 64 + i * V::lanes, i % sets);
    }
    for (int lane = whole * 64; lane < t.lanes; lane += V::lanes)
      add(static_cast<std::uint32_t>(t.bits(g, whole) >> (lane % 64)) & V::all, lane, 0);
#pragma GCC unroll 8
    for (int j = 0; j < Tokens; ++j) {
      V all = sum[0][j];
      for (int s = 1; s < sets; ++s) all = add_sums(Value{}, all, sum[s][j]);
      sums[g * kLaneRowTokens + j] = total(Value{}, all);
    }
  }
}

template <typename Value, int Tokens>
void dot_few(const TileArgs& a) {
  const DotTile t(a.tile, a.rows, a.cols, a.unit);
  const auto* panel = static_cast<const std::uint8_t*>(a.panel);
  auto* sums = static_cast<std::int32_t*>(a.sums);
  t.r == 1 ? few_flat<Value, DotVec, Tokens>(t, panel, sums)
           : few_tall<Value, DotVec, Tokens>(t, panel, sums);
}
