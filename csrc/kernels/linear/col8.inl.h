// y += w . x for one col8 tile. One text for every isa.

#include "formats/layout/col8.inl.h"

struct Col8Tile {
  const std::uint8_t* order;
  const std::uint8_t* steps;
  const std::uint8_t* groups;
  int group_count;
};
inline Col8Tile col8_tile(const std::uint8_t* tile, int rows) {
  const Col8Layout layout(rows);
  return {tile, tile + layout.steps_at(), tile + layout.head_bytes(), layout.groups};
}

// The scales of a group's eight rows; lanes past the last row hold nothing.
inline Vec8 lane_scales(const std::uint8_t* scales, const std::uint8_t* order, int rows) {
  float s[8];
  for (int i = 0; i < 8; ++i) s[i] = order[i] < rows ? load1(F32{}, scales + order[i] * 4) : 0.0f;
  return Vec8::load(s);
}

// The values of a group as floats: in place for fp32, else widened into `room` once for all tokens of the
// strip.
template <typename Value>
inline const std::uint8_t* group_floats(const std::uint8_t* values, int steps, const std::uint8_t* scales,
                                        const std::uint8_t* order, int rows, float* room) {
  if (Value::plain) return values;
  const Vec8 scale = scales ? lane_scales(scales, order, rows) : Vec8::set(1.0f);
  for (int q = 0; q < steps; ++q) {
    const Vec8 v = load8(Value{}, values + q * 8 * Value::size);
    (Value::scaled ? v * scale : v).store(room + q * 8);
  }
  return reinterpret_cast<const std::uint8_t*>(room);
}

// The columns of `Rows` lanes from `p` on, a byte each, with as few loads as there is a word for.
template <int Rows>
inline std::uint64_t load_columns(const std::uint8_t* p) {
  std::uint64_t columns = 0;
  __builtin_memcpy(&columns, p, Rows);
  return columns;
}

// The activations of column i of `places`. For eight tokens a rotation and a mask make the offset in bytes:
// one operation less than shift, mask and shift, of the five that a nonzero costs there.
template <int Width>
inline const float* activations_of(const float* panel, std::uint64_t places, int i) {
  if (Width != 8) return panel + (places >> (8 * i) & 255) * Width;
  constexpr int scale = 5;  // eight floats
  const int right = (8 * i - scale) & 63;
  const std::uint64_t offset = (places >> right | places << (64 - right)) & (255ull << scale);
  return reinterpret_cast<const float*>(reinterpret_cast<const std::uint8_t*>(panel) + offset);
}

// Many tokens. A row's accumulators stay in registers while its nonzeros are walked: broadcast the value,
// multiply with the strip of its column (L1), no store until the row is done. `Rows` neighbouring lanes of a
// group, which have the same trip count, are interleaved where a strip alone has too few accumulators to hide
// the multiply-add latency. Inlined, with pointers to the sums: the compiler must take the bytes of `order`
// and the sums for aliases, and would work out each address again for every vector it stores.
template <typename V, int Vectors, int Rows>
inline __attribute__((always_inline)) void walk_rows(const std::uint8_t* order, const std::uint8_t* values,
                                                     const std::uint8_t* columns, int steps,
                                                     const float* panel, float* acc) {
  constexpr int width = V::lanes * Vectors;
#pragma GCC unroll 2
  for (int lane = 0; lane < 8; lane += Rows) {
    V sum[Rows][Vectors];
    float* at[Rows];
    for (int i = 0; i < Rows; ++i) {
      at[i] = acc + order[lane + i] * width;
      for (int j = 0; j < Vectors; ++j) sum[i][j] = V::load(at[i] + j * V::lanes);
    }
    const std::uint8_t *value = values + 4 * lane, *column = columns + lane;
#pragma GCC unroll 2
    for (int q = 0; q < steps; ++q, value += 32, column += 8) {
      const Spread<V, Rows> step(value);
      const std::uint64_t places = load_columns<Rows>(column);
#pragma GCC unroll 8
      for (int i = 0; i < Rows; ++i) {
        const float* x = activations_of<width>(panel, places, i);
        const V w = step(i);
#pragma GCC unroll 16
        for (int j = 0; j < Vectors; ++j) sum[i][j] = fma(w, V::load(x + j * V::lanes), sum[i][j]);
      }
    }
    for (int i = 0; i < Rows; ++i)
      for (int j = 0; j < Vectors; ++j) sum[i][j].store(at[i] + j * V::lanes);
  }
}

// Rows to interleave: a power of two up to 8 that fills, but does not spill, the accumulator registers.
constexpr int rows_for(int vectors) {
  int rows = 1;
  while (rows < 8 && 2 * rows * vectors <= kAccumulators) rows *= 2;
  return rows;
}

template <typename Value, int Width>
void col8(const TileArgs& args) {
  const FloatTile a(args);
  // Widths that are no multiple of the widest vector use the 8-lane one.
  using V = typename pick<Width % Vec::lanes == 0, Vec, Vec8>::type;
  constexpr int vectors = Width / V::lanes;
  const Col8Tile t = col8_tile(a.tile, a.rows);
  const std::uint8_t* values = t.groups;
  float room[Value::plain ? 1 : 255 * 8];
  for (int g = 0; g < t.group_count && t.steps[g] != 0; ++g) {
    const int steps = t.steps[g];
    const std::uint8_t* order = t.order + g * 8;
    const std::uint8_t* columns = values + steps * 8 * Value::size;
    fetch_ahead(values, steps * 8 * (Value::size + 1));
    const std::uint8_t* floats = group_floats<Value>(values, steps, a.scales, order, a.rows, room);
    walk_rows<V, vectors, rows_for(vectors)>(order, floats, columns, steps, a.panel, a.acc);
    values = columns + steps * 8;
  }
}

// One token: the 8 rows of a group are the lanes. The sum starts from the accumulator and adds in column
// order, as in the wide kernels, so a token's bits do not depend on the size of its batch.
template <typename Value, int Tokens>
void col8_few(const TileArgs& args) {
  static_assert(Tokens == 1, "more tokens are a strip");
  const FloatTile a(args);
  const Col8Tile t = col8_tile(a.tile, a.rows);
  const std::uint8_t* values = t.groups;
  for (int g = 0; g < t.group_count && t.steps[g] != 0; ++g) {
    const int steps = t.steps[g];
    const std::uint8_t* order = t.order + g * 8;
    const std::uint8_t* columns = values + steps * 8 * Value::size;
    const Vec8 scale = Value::scaled ? lane_scales(a.scales, order, a.rows) : Vec8::set(1.0f);
    Vec8 sum = lookup8(a.acc, order);
#pragma GCC unroll 2
    for (int q = 0; q < steps; ++q) {
      fetch_ahead(values + q * 8 * (Value::size + 1), 8 * (Value::size + 1));
      const Vec8 v = load8(Value{}, values + q * 8 * Value::size);
      sum = fma(Value::scaled ? v * scale : v, lookup8(a.panel, columns + q * 8), sum);
    }
    float lanes[8];
    sum.store(lanes);
    for (int i = 0; i < 8; ++i) a.acc[order[i]] = lanes[i];
    values = columns + steps * 8;
  }
}
