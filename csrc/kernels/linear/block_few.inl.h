// y += w . x for one to four tokens and one block tile: rows are the lanes.

// A block's shape and what follows, known at compile time. Cols: columns that go together; a block is as wide
// (Exact) or a multiple.
template <int Rows, int Cols, bool Exact>
struct FewShape {
  static constexpr int per_group = Rows < 8 ? 8 / Rows : 1, lanes = Rows < 8 ? 8 : Rows;
  static constexpr int height = Rows < 8 ? Rows : 8;  // rows of eight lanes that lie together
  static int cols(const BlockTile& t) { return Exact ? Cols : t.c; }
};

// The activations of eight lanes for `Cols` columns of their blocks. PerGroup: rows of blocks in eight lanes.
template <int PerGroup, int Cols>
struct BlockInputs {
  const float* x;
  const std::uint8_t* columns;
  static BlockInputs of(const float* x, const std::uint8_t* columns) { return {x, columns}; }
  Vec8 operator()(int j) const {
    if (PerGroup == 1) return Vec8::set(x[columns[0] + j]);
    if (PerGroup == 2) return set_halves(x[columns[0] + j], x[columns[1] + j]);
    if (PerGroup == 8) return lookup8(x + j, columns);
    const std::uint8_t ids[8] = {columns[0], columns[0], columns[1], columns[1],
                                 columns[2], columns[2], columns[3], columns[3]};
    return lookup8(x + j, ids);
  }
};
template <>
struct BlockInputs<2, 4> {
  InHalves both;
  static BlockInputs of(const float* x, const std::uint8_t* columns) {
    return {InHalves::load(x + columns[0], x + columns[1])};
  }
  Vec8 operator()(int j) const { return both(j); }
};

// A multiply-add waits for the one before it on its sum, so a row has several, which take turns.
constexpr int few_sets(int sums) { return sums >= 8 ? 1 : sums >= 4 ? 2 : 4; }

// `Together` times eight lanes of one group: total = w . x.
template <typename Value, int Tokens, int Together, int Rows, int Cols, bool Exact>
inline void add_group(const BlockTile& t, const std::uint8_t* values, const std::uint8_t* columns, int steps,
                      const float* panel, Vec8 (&total)[Together][Tokens]) {
  using Shape = FewShape<Rows, Cols, Exact>;
  using Inputs = BlockInputs<Shape::per_group, Cols>;
  constexpr int sets = few_sets(Together * Tokens), unroll = sets > Cols ? sets / Cols : 1;
  Vec8 sum[sets][Together][Tokens];
#pragma GCC unroll 4
  for (int a = 0; a < sets; ++a)
#pragma GCC unroll 4
    for (int h = 0; h < Together; ++h)
#pragma GCC unroll 4
      for (int i = 0; i < Tokens; ++i) sum[a][h][i] = Vec8::set(0.0f);
  const auto add = [&](int u) {  // one block of each row of blocks
    for (int from = 0; from < Shape::cols(t); from += Cols) {
      Inputs x[Tokens];
#pragma GCC unroll 4
      for (int i = 0; i < Tokens; ++i) x[i] = Inputs::of(panel + i * kFewPanel + from, columns);
#pragma GCC unroll 4
      for (int j = 0; j < Cols; ++j) {
#pragma GCC unroll 4
        for (int h = 0; h < Together; ++h) {
          const Vec8 w = load8(Value{}, values + h * 8 * Value::size);
#pragma GCC unroll 4
          for (int i = 0; i < Tokens; ++i) {
            Vec8& to = sum[(u * Cols + j) % sets][h][i];
            to = fma(w, x[i](j), to);
          }
        }
        values += Shape::lanes * Value::size;
      }
    }
    columns += Shape::per_group;
  };
  int q = 0;
  for (; q + unroll <= steps; q += unroll) {
#pragma GCC unroll 4
    for (int u = 0; u < unroll; ++u) add(u);
  }
  for (; q < steps; ++q) add(0);
#pragma GCC unroll 4
  for (int h = 0; h < Together; ++h)
#pragma GCC unroll 4
    for (int i = 0; i < Tokens; ++i) {
      total[h][i] = sum[0][h][i];
#pragma GCC unroll 4
      for (int a = 1; a < sets; ++a) total[h][i] = total[h][i] + sum[a][h][i];
    }
}

// acc += v, whose lanes are `Height` neighbouring rows each, from first[0], first[1] ... on.
template <int Height>
inline void add_rows(Vec8 v, const int* first, float* acc) {
  if (Height == 8) return (Vec8::load(acc + first[0]) + v).store(acc + first[0]);
  if (Height == 4)
    return store_halves(load_halves(acc + first[0], acc + first[1]) + v, acc + first[0], acc + first[1]);
  float lanes[8];
  v.store(lanes);
  for (int i = 0; i < 8; ++i) acc[first[i / Height] + i % Height] += lanes[i];
}

template <typename Value, int Tokens, int Rows, int Cols, bool Exact>
void block_groups(const BlockTile& t, const std::uint8_t* scales, int rows, const float* panel, float* acc) {
  using Shape = FewShape<Rows, Cols, Exact>;
  constexpr int most = Tokens <= 2 ? 4 : 2, together = Shape::lanes / 8 < most ? Shape::lanes / 8 : most;
  constexpr int height = Shape::height;
  const std::uint8_t* values = t.first;
  for (int g = 0; g < t.groups && t.steps[g] != 0; ++g) {
    const int steps = t.steps_of(g), bytes = steps * Shape::cols(t) * Shape::lanes * Value::size;
    const std::uint8_t* columns = values + bytes;
    fetch_ahead(values, bytes + steps * Shape::per_group);
    for (int lane = 0; lane < Shape::lanes; lane += 8 * together) {
      Vec8 total[together][Tokens];
      add_group<Value, Tokens, together, Rows, Cols, Exact>(t, values + lane * Value::size, columns, steps,
                                                            panel, total);
#pragma GCC unroll 4
      for (int h = 0; h < together; ++h) {
        int first[Shape::per_group];
        for (int p = 0; p < Shape::per_group; ++p)
          first[p] = (t.order[g * Shape::per_group + p] * Rows + lane + 8 * h) & (kFewRows - 1);
        Vec8 scale = Vec8::set(1.0f);
        if (Value::scaled) {
          std::uint8_t of[8];
          for (int i = 0; i < 8; ++i) of[i] = static_cast<std::uint8_t>(first[i / height] + i % height);
          scale = lane_scales(scales, of, rows);
        }
#pragma GCC unroll 4
        for (int i = 0; i < Tokens; ++i)
          add_rows<height>(Value::scaled ? total[h][i] * scale : total[h][i], first, acc + i * kFewRows);
      }
    }
    values = columns + steps * Shape::per_group;
  }
}

// Kinds of width: what one activation load serves (four columns), one column, and everything else.
template <typename Value, int Tokens, int Rows>
inline void block_few_rows(const BlockTile& t, const std::uint8_t* scales, int rows, const float* panel,
                           float* acc) {
  if (Rows < 4) return block_groups<Value, Tokens, Rows, 1, false>(t, scales, rows, panel, acc);
  if (t.c == 1) return block_groups<Value, Tokens, Rows, 1, true>(t, scales, rows, panel, acc);
  if (t.c == 2) return block_groups<Value, Tokens, Rows, 2, true>(t, scales, rows, panel, acc);
  if (t.c == 4) return block_groups<Value, Tokens, Rows, 4, true>(t, scales, rows, panel, acc);
  block_groups<Value, Tokens, Rows, 4, false>(t, scales, rows, panel, acc);
}

template <typename Value, int Tokens>
void block_few(const TileArgs& args) {
  const FloatTile a(args);
  const BlockTile t(a.tile, a.rows, a.unit);
  switch (t.r) {
    case 1:
      return block_few_rows<Value, Tokens, 1>(t, a.scales, a.rows, a.panel, a.acc);
    case 2:
      return block_few_rows<Value, Tokens, 2>(t, a.scales, a.rows, a.panel, a.acc);
    case 4:
      return block_few_rows<Value, Tokens, 4>(t, a.scales, a.rows, a.panel, a.acc);
    case 8:
      return block_few_rows<Value, Tokens, 8>(t, a.scales, a.rows, a.panel, a.acc);
    case 16:
      return block_few_rows<Value, Tokens, 16>(t, a.scales, a.rows, a.panel, a.acc);
    default:
      return block_few_rows<Value, Tokens, 32>(t, a.scales, a.rows, a.panel, a.acc);
  }
}
