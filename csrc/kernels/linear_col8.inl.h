// y += w . x for one col8 tile and one strip of tokens. One text for every isa.

// Many tokens. A row's accumulators stay in registers while its nonzeros are walked: broadcast the value,
// multiply with the strip of its column (L1), no store until the row is done. `Rows` neighbouring lanes of a
// group, which have the same trip count, are interleaved where a strip alone has too few accumulators to hide
// the multiply-add latency.
template <typename V, int Vectors, int Rows>
void walk_rows(const std::uint8_t* order, const std::uint8_t* values, const std::uint8_t* columns, int steps,
               const float* panel, float* acc) {
  constexpr int width = V::lanes * Vectors;
  for (int lane = 0; lane < 8; lane += Rows) {
    V sum[Rows][Vectors];
    for (int i = 0; i < Rows; ++i)
      for (int j = 0; j < Vectors; ++j) sum[i][j] = V::load(acc + order[lane + i] * width + j * V::lanes);
    const std::uint8_t* value = values + lane * 4;
    const std::uint8_t* column = columns + lane;
#pragma GCC unroll 2
    for (int q = 0; q < steps; ++q, value += 32, column += 8) {
#pragma GCC unroll 8
      for (int i = 0; i < Rows; ++i) {
        const float* x = panel + column[i] * width;
        const V w = V::set(unaligned_float(value + 4 * i));
#pragma GCC unroll 16
        for (int j = 0; j < Vectors; ++j) sum[i][j] = fma(w, V::load(x + j * V::lanes), sum[i][j]);
      }
    }
    for (int i = 0; i < Rows; ++i)
      for (int j = 0; j < Vectors; ++j) sum[i][j].store(acc + order[lane + i] * width + j * V::lanes);
  }
}

// Rows to interleave: a power of two up to 8 that fills, but does not spill, the accumulator registers.
constexpr int rows_for(int vectors) {
  int rows = 1;
  while (rows < 8 && 2 * rows * vectors <= kAccumulators) rows *= 2;
  return rows;
}

template <int Width>
void col8_f32(const std::uint8_t* order, const std::uint8_t* steps, const std::uint8_t* groups,
              int group_count, const float* panel, float* acc) {
  // Widths that are no multiple of the widest vector use the 8-lane one.
  using V = typename pick<Width % Vec::lanes == 0, Vec, Vec8>::type;
  constexpr int vectors = Width / V::lanes;
  for (int g = 0; g < group_count && steps[g] != 0; ++g) {
    const std::size_t entries = std::size_t{steps[g]} * 8;
    walk_rows<V, vectors, rows_for(vectors)>(order + g * 8, groups, groups + entries * 4, steps[g], panel,
                                             acc);
    groups += entries * 5;
  }
}

// One token: the 8 rows of a group are the lanes. The sum starts from the accumulator and adds in column
// order, as in the wide kernels, so a token's bits do not depend on the size of its batch.
template <>
void col8_f32<1>(const std::uint8_t* order, const std::uint8_t* steps, const std::uint8_t* groups,
                 int group_count, const float* panel, float* acc) {
  for (int g = 0; g < group_count && steps[g] != 0; ++g, order += 8) {
    const int many = steps[g];
    const std::uint8_t* columns = groups + many * 32;
    Vec8 sum = lookup8(acc, order);
#pragma GCC unroll 2
    for (int q = 0; q < many; ++q)
      sum = fma(Vec8::load_bytes(groups + q * 32), lookup8(panel, columns + q * 8), sum);
    float lanes[8];
    sum.store(lanes);
    for (int i = 0; i < 8; ++i) acc[order[i]] = lanes[i];
    groups += many * 40;
  }
}
