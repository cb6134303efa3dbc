// y += w . x for one block tile. One text for every isa.

// The parts of a tile (formats/block.cpp), and one of its groups.
struct BlockTile {
  int r, c, per_group, lanes, groups, end;
  const std::uint8_t *order, *steps, *first;
};
inline BlockTile block_tile(const std::uint8_t* tile, int rows, int cols, Unit unit) {
  const int r = unit.rows, c = unit.cols, per_group = r < 8 ? 8 / r : 1, lanes = per_group * r;
  const int groups = (rows + lanes - 1) / lanes;
  return {r,
          c,
          per_group,
          lanes,
          groups,
          (cols + c - 1) / c * c,
          tile,
          tile + groups * per_group,
          tile + (groups * (per_group + 1) + 7) / 8 * 8};
}

// Eight lanes of a group: their rows of w in the tile.
inline void chunk_rows(const BlockTile& t, int group, int chunk, std::uint8_t (&rows)[8]) {
  for (int i = 0; i < 8; ++i) {
    const int lane = chunk * 8 + i;
    rows[i] = static_cast<std::uint8_t>(t.order[group * t.per_group + lane / t.r] * t.r + lane % t.r);
  }
}

// Eight lanes of a group as floats [steps * c][8], at the distance `stride`: in place for fp32.
struct Floats {
  const std::uint8_t* at;
  int stride;
};
template <typename Value>
inline Floats chunk_floats(const std::uint8_t* values, int vectors, int lanes, const std::uint8_t* scales,
                           const std::uint8_t* rows_of, int rows, float* room) {
  if (Value::size == 4) return {values, lanes * 4};
  const Vec8 scale = scales ? lane_scales(scales, rows_of, rows) : Vec8::set(1.0f);
  for (int q = 0; q < vectors; ++q, values += lanes * Value::size) {
    const Vec8 v = load8(Value{}, values);
    (Value::size == 1 ? v * scale : v).store(room + q * 8);
  }
  return {reinterpret_cast<const std::uint8_t*>(room), 32};
}

// fn(rows of 8 lanes, their floats, first column ids, steps) for every eight lanes of every group.
template <typename Value, typename Fn>
inline void for_each_chunk(const BlockTile& t, const std::uint8_t* scales, int rows, Fn fn) {
  const std::uint8_t* values = t.first;
  float room[Value::size == 4 ? 1 : 256 * 8];
  for (int g = 0; g < t.groups && t.steps[g] != 0; ++g) {
    const int steps = t.steps[g];
    const std::uint8_t* columns = values + steps * t.c * t.lanes * Value::size;
    fetch_ahead(values, steps * (t.c * t.lanes * Value::size + t.per_group));
    for (int chunk = 0; chunk < t.lanes / 8; ++chunk) {
      std::uint8_t rows_of[8];
      chunk_rows(t, g, chunk, rows_of);
      const Floats floats = chunk_floats<Value>(values + chunk * 8 * Value::size, steps * t.c, t.lanes,
                                                scales, rows_of, rows, room);
      fn(rows_of, floats, columns, steps);
    }
    values = columns + steps * t.per_group;
  }
}

// Many tokens: Rows rows of a block share every activation that is loaded, and all their sums stay in
// registers while the blocks are walked.
template <typename V, int Vectors, int Rows>
inline void add_column(V (&sum)[Rows][Vectors], const std::uint8_t* value, const float* x) {
  V xs[Vectors];
#pragma GCC unroll 16
  for (int j = 0; j < Vectors; ++j) xs[j] = V::load(x + j * V::lanes);
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) {
    const V w = V::set(load1(F32{}, value + 4 * i));
#pragma GCC unroll 16
    for (int j = 0; j < Vectors; ++j) sum[i][j] = fma(w, xs[j], sum[i][j]);
  }
}

// `Blocks` neighbouring rows of blocks are walked together where one has too few sums to hide the
// latency of the multiply-add.
template <typename V, int Vectors, int Rows, int Blocks = 1>
[[gnu::noinline]] void walk_blocks(const BlockTile& t, const std::uint8_t* rows_of, Floats floats,
                                   const std::uint8_t* columns, int steps, const float* panel, float* acc) {
  constexpr int width = V::lanes * Vectors;
  for (int lane = 0; lane < 8; lane += Rows * Blocks) {
    V sum[Blocks][Rows][Vectors];
#pragma GCC unroll 8
    for (int h = 0; h < Blocks; ++h)
#pragma GCC unroll 8
      for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 16
        for (int j = 0; j < Vectors; ++j)
          sum[h][i][j] = V::load(acc + (rows_of[lane + h * Rows] + i) * width + j * V::lanes);
    const std::uint8_t* column = columns + lane / t.r * (t.r < 8);
    const std::uint8_t* value = floats.at + lane * 4;
    const auto add = [&](int b) {
#pragma GCC unroll 8
      for (int h = 0; h < Blocks; ++h)
        add_column<V, Vectors, Rows>(sum[h], value + 4 * h * Rows, panel + (column[h] + b) * width);
      value += floats.stride;
    };
    if (t.c == 1)
      for (int q = 0; q < steps; ++q, column += t.per_group) add(0);
    else
      for (int q = 0; q < steps; ++q, column += t.per_group)
        for (int b = 0; b < t.c; ++b) add(b);
#pragma GCC unroll 8
    for (int h = 0; h < Blocks; ++h)
#pragma GCC unroll 8
      for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 16
        for (int j = 0; j < Vectors; ++j)
          sum[h][i][j].store(acc + (rows_of[lane + h * Rows] + i) * width + j * V::lanes);
  }
}

template <typename Value, int Width>
void block_strip(const std::uint8_t* tile, const std::uint8_t* scales, int rows, int cols, Unit unit,
                 const float* panel, float* acc) {
  using V = typename pick<Width % Vec::lanes == 0, Vec, Vec8>::type;
  constexpr int vectors = Width / V::lanes, most = rows_for(vectors);
  const BlockTile t = block_tile(tile, rows, cols, unit);
  for_each_chunk<Value>(
      t, scales, rows,
      [&](const std::uint8_t* rows_of, Floats floats, const std::uint8_t* columns, int steps) {
        const auto walk = [&](auto rows_of_block) {
          constexpr int r = decltype(rows_of_block)::value, n = r < most ? r : most;
          walk_blocks<V, vectors, n, most / n>(t, rows_of, floats, columns, steps, panel, acc);
        };
        switch (t.r) {
          case 1:
            return walk(constant<1>{});
          case 2:
            return walk(constant<2>{});
          case 4:
            return walk(constant<4>{});
          default:
            return walk(constant<8>{});
        }
      });
}

// Any tokens, 8 at a time, when x holds NaN or infinity: zeros (holes) are skipped. The chunk becomes a col8
// group.
template <typename Value>
void block_careful(const std::uint8_t* tile, const std::uint8_t* scales, int rows, int cols, Unit unit,
                   const float* panel, float* acc) {
  const BlockTile t = block_tile(tile, rows, cols, unit);
  for_each_chunk<Value>(
      t, scales, rows,
      [&](const std::uint8_t* rows_of, Floats floats, const std::uint8_t* columns, int steps) {
        float values[256 * 8];
        std::uint8_t ids[256 * 8];
        for (int e = 0; e < steps * t.c; ++e) {
          Vec8::load_bytes(floats.at + e * floats.stride).store(values + e * 8);
          const std::uint8_t* of_step = columns + e / t.c * t.per_group;
          for (int i = 0; i < 8; ++i)  // the zero column behind the last for what lies outside
            ids[e * 8 + i] = static_cast<std::uint8_t>(of_step[t.r < 8 ? i / t.r : 0] + e % t.c);
        }
        walk_careful(rows_of, reinterpret_cast<const std::uint8_t*>(values), ids, steps * t.c, panel, acc);
      });
}

// The activations of eight lanes for column j of their blocks. PerGroup: rows of blocks in eight lanes.
template <int PerGroup>
inline Vec8 block_inputs(const float* x, const std::uint8_t* columns, int j) {
  if (PerGroup == 1) return Vec8::set(x[columns[0] + j]);
  if (PerGroup == 2) return set_halves(x[columns[0] + j], x[columns[1] + j]);
  if (PerGroup == 8) return lookup8(x + j, columns);
  const std::uint8_t ids[8] = {columns[0], columns[0], columns[1], columns[1],
                               columns[2], columns[2], columns[3], columns[3]};
  return lookup8(x + j, ids);
}

// Eight lanes of a group and what is left of their walk.
struct Chain {
  const std::uint8_t *value, *column;
  int steps;
  std::uint8_t rows_of[8];
};

// `steps` blocks of each chain. A multiply-add waits for the one before it on its sum, so that several chains
// go along together. Cols: those of a block, 0 where only t knows; loops over a known number are unrolled.
template <typename Value, int Tokens, int PerGroup, int Chains, int Cols>
inline void add_columns(Chain* chains, int steps, const BlockTile& t, const Vec8* scale, const float* panel,
                        const std::uint8_t* ahead, Vec8 (*sum)[Tokens]) {
  const int step = t.lanes * Value::size, cols = Cols ? Cols : t.c;
  // Of their own: pointers in `chains` would be stored and loaded at every step.
  const std::uint8_t *value[Chains], *column[Chains];
  Vec8 own[Chains][Tokens];
#pragma GCC unroll 4
  for (int n = 0; n < Chains; ++n) {
    value[n] = chains[n].value;
    column[n] = chains[n].column;
    for (int i = 0; i < Tokens; ++i) own[n][i] = sum[n][i];
  }
  for (int q = 0; q < steps; ++q) {
#pragma GCC unroll 4
    for (int n = 0; n < Chains; ++n) {
#pragma GCC unroll 4
      for (int j = 0; j < cols; ++j) {
        __builtin_prefetch(ahead);
        ahead += 8 * Value::size;
        const Vec8 v = load8(Value{}, value[n]);
        const Vec8 w = Value::size == 1 ? v * scale[n] : v;
#pragma GCC unroll 8
        for (int i = 0; i < Tokens; ++i)
          own[n][i] = fma(w, block_inputs<PerGroup>(panel + i * kFewPanel, column[n], j), own[n][i]);
        value[n] += step;
      }
      column[n] += PerGroup;
    }
  }
#pragma GCC unroll 4
  for (int n = 0; n < Chains; ++n) {
    chains[n].value = value[n];
    chains[n].column = column[n];
    chains[n].steps -= steps;
    for (int i = 0; i < Tokens; ++i) sum[n][i] = own[n][i];
  }
}
template <typename Value, int Tokens, int PerGroup, int Chains>
inline void add_blocks(Chain* chains, int steps, const BlockTile& t, const Vec8* scale, const float* panel,
                       const std::uint8_t* ahead, Vec8 (*sum)[Tokens]) {
  if (t.c == 4)
    return add_columns<Value, Tokens, PerGroup, Chains, 4>(chains, steps, t, scale, panel, ahead, sum);
  if (t.c == 1)
    return add_columns<Value, Tokens, PerGroup, Chains, 1>(chains, steps, t, scale, panel, ahead, sum);
  add_columns<Value, Tokens, PerGroup, Chains, 0>(chains, steps, t, scale, panel, ahead, sum);
}

// Neighbours have nearly equal counts: together as far as the shortest goes, then each alone.
template <typename Value, int Tokens, int PerGroup, int Chains>
inline void walk_chains(Chain* chains, int count, const BlockTile& t, const std::uint8_t* scales, int rows,
                        const float* panel, float* acc) {
  Vec8 sum[Chains][Tokens], scale[Chains];
  for (int n = 0; n < count; ++n) {
    scale[n] = Value::size == 1 ? lane_scales(scales, chains[n].rows_of, rows) : Vec8::set(1.0f);
    for (int i = 0; i < Tokens; ++i) sum[n][i] = lookup8(acc + i * kFewRows, chains[n].rows_of);
  }
  if (count == Chains) {
    // The chains are so many streams: what follows the last is fetched in its order, not the streams'.
    const Chain& last = chains[Chains - 1];
    add_blocks<Value, Tokens, PerGroup, Chains>(chains, last.steps, t, scale, panel,
                                                last.column + last.steps * PerGroup, sum);
  }
  for (int n = 0; n < count; ++n) {
    add_blocks<Value, Tokens, PerGroup, 1>(chains + n, chains[n].steps, t, scale + n, panel,
                                           chains[n].value + kPrefetch, sum + n);
    for (int i = 0; i < Tokens; ++i) {
      float lanes[8];
      sum[n][i].store(lanes);
      for (int l = 0; l < 8; ++l) acc[i * kFewRows + chains[n].rows_of[l]] = lanes[l];
    }
  }
}

// Few tokens: rows are the lanes.
template <typename Value, int Tokens, int PerGroup>
inline void block_few_lanes(const BlockTile& t, const std::uint8_t* scales, int rows, const float* panel,
                            float* acc) {
  constexpr int most = kAccumulators < 8 || Tokens > 2 ? 1 : 4 / Tokens;
  Chain chains[most];
  int count = 0;
  const std::uint8_t* values = t.first;
  for (int g = 0; g < t.groups && t.steps[g] != 0; ++g) {
    const int steps = t.steps[g];
    const std::uint8_t* columns = values + steps * t.c * t.lanes * Value::size;
    for (int chunk = 0; chunk < t.lanes / 8; ++chunk) {
      chains[count] = {values + chunk * 8 * Value::size, columns, steps, {}};
      chunk_rows(t, g, chunk, chains[count].rows_of);
      if (++count < most) continue;
      walk_chains<Value, Tokens, PerGroup, most>(chains, count, t, scales, rows, panel, acc);
      count = 0;
    }
    values = columns + steps * t.per_group;
  }
  walk_chains<Value, Tokens, PerGroup, most>(chains, count, t, scales, rows, panel, acc);
}

template <typename Value, int Tokens>
void block_few(const std::uint8_t* tile, const std::uint8_t* scales, int rows, int cols, Unit unit,
               const float* panel, float* acc) {
  const BlockTile t = block_tile(tile, rows, cols, unit);
  if (t.r >= 8) return block_few_lanes<Value, Tokens, 1>(t, scales, rows, panel, acc);
  if (t.r == 4) return block_few_lanes<Value, Tokens, 2>(t, scales, rows, panel, acc);
  if (t.r == 2) return block_few_lanes<Value, Tokens, 4>(t, scales, rows, panel, acc);
  block_few_lanes<Value, Tokens, 8>(t, scales, rows, panel, acc);
}
