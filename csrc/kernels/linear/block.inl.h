// y += w . x for one block tile. One text for every isa.

#include "formats/layout/block.inl.h"

struct BlockTile : BlockLayout {
  const std::uint8_t *order, *steps, *first;
  BlockTile(const std::uint8_t* tile, int rows, Unit unit)
      : BlockLayout(rows, unit), order(tile), steps(tile + steps_at()), first(tile + head_bytes()) {}
  // Damaged bytes must not leave the rooms that kernels have for a group.
  int steps_of(int group) const { return steps[group] < most_steps() ? steps[group] : most_steps(); }
};

// Eight lanes of a group: their rows of w in the tile.
inline void chunk_rows(const BlockTile& t, int group, int chunk, std::uint8_t (&rows)[8]) {
  for (int i = 0; i < 8; ++i) {
    const int lane = chunk * 8 + i;
    const int row_of_blocks = t.order[group * t.per_group + (lane >> t.shift)];
    rows[i] = static_cast<std::uint8_t>((row_of_blocks << t.shift) + (lane & (t.r - 1)));
  }
}

// Eight lanes of a group as floats [steps * c][8], at the distance `stride`: in place for fp32.
struct BlockFloats {
  const std::uint8_t* at;
  int stride;
};
template <typename Value>
inline BlockFloats chunk_floats(const std::uint8_t* values, int vectors, int lanes,
                                const std::uint8_t* scales, const std::uint8_t* rows_of, int rows,
                                float* room) {
  if (Value::plain) return {values, lanes * 4};
  const Vec8 scale = scales ? lane_scales(scales, rows_of, rows) : Vec8::set(1.0f);
  for (int q = 0; q < vectors; ++q, values += lanes * Value::size) {
    const Vec8 v = load8(Value{}, values);
    (Value::scaled ? v * scale : v).store(room + q * 8);
  }
  return {reinterpret_cast<const std::uint8_t*>(room), 32};
}

// fn(rows of 8 lanes, their floats, first column ids, steps) for every eight lanes of every group.
template <typename Value, typename Fn>
inline void for_each_chunk(const BlockTile& t, const std::uint8_t* scales, int rows, Fn fn) {
  const std::uint8_t* values = t.first;
  float room[Value::plain ? 1 : 256 * 8];
  for (int g = 0; g < t.groups && t.steps[g] != 0; ++g) {
    const int steps = t.steps_of(g);
    const std::uint8_t* columns = values + t.value_bytes(steps, Value::size);
    fetch_ahead(values, t.group_bytes(steps, Value::size));
    for (int chunk = 0; chunk < t.lanes / 8; ++chunk) {
      std::uint8_t rows_of[8];
      chunk_rows(t, g, chunk, rows_of);
      const BlockFloats floats = chunk_floats<Value>(values + chunk * 8 * Value::size, steps * t.c, t.lanes,
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
[[gnu::noinline]] void walk_blocks(const BlockTile& t, const std::uint8_t* rows_of, BlockFloats floats,
                                   const std::uint8_t* columns, int steps, const float* panel, float* acc) {
  constexpr int width = V::lanes * Vectors;
  for (int lane = 0; lane < 8; lane += Rows * Blocks) {
    V sum[Blocks][Rows][Vectors];
    const auto each_sum = [&](auto f) {  // f(sum, where it is kept)
#pragma GCC unroll 8
      for (int h = 0; h < Blocks; ++h)
#pragma GCC unroll 8
        for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 16
          for (int j = 0; j < Vectors; ++j)
            f(sum[h][i][j], acc + (rows_of[lane + h * Rows] + i) * width + j * V::lanes);
    };
    each_sum([](V& s, const float* at) { s = V::load(at); });
    const std::uint8_t* column = columns + (lane >> t.shift);
    const std::uint8_t* value = floats.at + lane * 4;
    const auto add = [&](int b) {
#pragma GCC unroll 8
      for (int h = 0; h < Blocks; ++h)
        add_column<V, Vectors, Rows>(sum[h], value + 4 * h * Rows, panel + (column[h] + b) * width);
      value += floats.stride;
    };
    const auto walk = [&](int cols) {  // inlined: loops over a known number are unrolled
      for (int q = 0; q < steps; ++q, column += t.per_group)
#pragma GCC unroll 4
        for (int b = 0; b < cols; ++b) add(b);
    };
    // Sixteen registers (avx2) do not suffice for what the compiler makes of four columns at once.
    t.c == 1 ? walk(1) : t.c == 4 && kAccumulators >= 16 ? walk(4) : walk(t.c);
    each_sum([](const V& s, float* at) { s.store(at); });
  }
}

template <typename Value, int Width>
void block_strip(const TileArgs& args) {
  const FloatTile a(args);
  using V = typename pick<Width % Vec::lanes == 0, Vec, Vec8>::type;
  constexpr int vectors = Width / V::lanes, most = rows_for(vectors);
  const BlockTile t(a.tile, a.rows, a.unit);
  for_each_chunk<Value>(
      t, a.scales, a.rows,
      [&](const std::uint8_t* rows_of, BlockFloats floats, const std::uint8_t* columns, int steps) {
        const auto walk = [&](auto rows_of_block) {
          constexpr int r = decltype(rows_of_block)::value, n = r < most ? r : most;
          walk_blocks<V, vectors, n, most / n>(t, rows_of, floats, columns, steps, a.panel, a.acc);
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
template <typename Value, int Width>
void block_careful(const TileArgs& args) {
  static_assert(Width == 8, "walk_careful's strip");
  const FloatTile a(args);
  const BlockTile t(a.tile, a.rows, a.unit);
  for_each_chunk<Value>(
      t, a.scales, a.rows,
      [&](const std::uint8_t* rows_of, BlockFloats floats, const std::uint8_t* columns, int steps) {
        float values[256 * 8];
        std::uint8_t ids[256 * 8];
        for (int e = 0; e < steps * t.c; ++e) {
          Vec8::load_bytes(floats.at + e * floats.stride).store(values + e * 8);
          const std::uint8_t* of_step = columns + e / t.c * t.per_group;
          for (int i = 0; i < 8; ++i)  // the zero column behind the last for what lies outside
            ids[e * 8 + i] = static_cast<std::uint8_t>(of_step[i >> t.shift] + e % t.c);
        }
        walk_careful(rows_of, reinterpret_cast<const std::uint8_t*>(values), ids, steps * t.c, a.panel,
                     a.acc);
      });
}
