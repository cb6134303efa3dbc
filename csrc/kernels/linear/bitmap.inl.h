// y += w . x for one bitmap tile. One text for every isa. Tiles are 64 columns wide: one word of bits per
// row.

#include "formats/layout/bitmap.inl.h"

inline std::uint64_t bits_of_row(const std::uint8_t* tile, int row) {
  std::uint64_t bits;
  __builtin_memcpy(&bits, tile + row * 8, sizeof bits);
  return bits;
}

// The lowest set bit of a row: its column's activations times its value. Takes the bit away.
template <typename V, int Vectors>
inline void add_lowest(std::uint64_t& bits, V w, const float* panel, V (&sum)[Vectors]) {
  const float* x = panel + static_cast<std::size_t>(__builtin_ctzll(bits)) * (V::lanes * Vectors);
#pragma GCC unroll 16
  for (int j = 0; j < Vectors; ++j) sum[j] = fma(w, V::load(x + j * V::lanes), sum[j]);
  bits &= bits - 1;
}

// All set bits of a row. Values are loaded four at a time, but the row ends at any of them.
template <typename Value, typename V, int Vectors>
inline void add_all(std::uint64_t bits, const std::uint8_t* value, float scale, const float* panel,
                    V (&sum)[Vectors]) {
  for (; bits != 0; value += 4 * Value::size) {
    const Four<V, Value> w(value, scale);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      add_lowest(bits, w(i), panel, sum);
      if (bits == 0) return;
    }
  }
}

// Rows neighbouring rows, four bits of each in turn as long as all have four: where a strip alone has too few
// sums to hide the latency of the multiply-add, the other rows do. Returns the values of the row after them.
template <typename Value, typename V, int Vectors, int Rows>
inline const std::uint8_t* walk_bits(const std::uint8_t* tile, const std::uint8_t* scales, int row,
                                     const std::uint8_t* value, const float* panel, float* acc) {
  constexpr int width = V::lanes * Vectors;
  std::uint64_t bits[Rows];
  const std::uint8_t* values[Rows];
  float scale[Rows];
  V sum[Rows][Vectors];
  int together = Rows > 1 ? 64 : 0;
#pragma GCC unroll 4
  for (int i = 0; i < Rows; ++i) {
    bits[i] = bits_of_row(tile, row + i);
    scale[i] = scales ? load1(F32{}, scales + (row + i) * 4) : 1.0f;
    values[i] = value;
    const int count = __builtin_popcountll(bits[i]);
    value += count * Value::size;
    together = count < together ? count : together;
#pragma GCC unroll 16
    for (int j = 0; j < Vectors; ++j) sum[i][j] = V::load(acc + i * width + j * V::lanes);
  }
  // Wide strips wait for nothing here, and the walk is 3 % slower with it.
  if (width <= 32) fetch_ahead(values[0], static_cast<int>(value - values[0]));
  for (; together >= 4; together -= 4)
#pragma GCC unroll 4
    for (int i = 0; i < Rows; ++i) {
      const Four<V, Value> w(values[i], scale[i]);
      values[i] += 4 * Value::size;
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) add_lowest(bits[i], w(q), panel, sum[i]);
    }
#pragma GCC unroll 4
  for (int i = 0; i < Rows; ++i) {
    add_all<Value>(bits[i], values[i], scale[i], panel, sum[i]);
#pragma GCC unroll 16
    for (int j = 0; j < Vectors; ++j) sum[i][j].store(acc + i * width + j * V::lanes);
  }
  return value;
}

// Many tokens: the set bits of a row are walked one by one; a row's accumulators stay in registers.
template <typename Value, int Width>
void bitmap(const TileArgs& args) {
  const FloatTile a(args);
  float* acc = a.acc;
  using V = typename pick<Width % Vec::lanes == 0, Vec, Vec8>::type;
  constexpr int vectors = Width / V::lanes, together = vectors > 4 ? 1 : vectors > 2 ? 2 : 4;
  const std::uint8_t* value = a.tile + BitmapLayout::values_at(a.rows);
  int r = 0;
  for (; r + together <= a.rows; r += together, acc += together * Width)
    value = walk_bits<Value, V, vectors, together>(a.tile, a.scales, r, value, a.panel, acc);
  for (; r < a.rows; ++r, acc += Width)
    value = walk_bits<Value, V, vectors, 1>(a.tile, a.scales, r, value, a.panel, acc);
}

// The weights of a row, zeros included, a vector of columns at a time. An isa that expands a whole row at
// once has its own, and may take the columns in another order (`activations`).
template <typename Value>
struct RowWeights {
  const std::uint8_t*& value;
  std::uint64_t bits;
  RowWeights(const std::uint8_t* bits_at, const std::uint8_t*& next) : value(next) {
    __builtin_memcpy(&bits, bits_at, sizeof bits);
  }
  RowVec operator()(int i) { return expand(Value{}, value, bits, i); }
  static RowVec activations(const float* panel, int i) { return RowVec::load(panel + i * RowVec::lanes); }
};

// Few tokens: a vector of weights at a time is expanded to its columns and multiplied with the activations of
// every token, zeros included. No branch depends on the weights. The sums of a row stay a vector, which
// `reduce_rows` adds up once; one or two tokens have two where vectors are narrow, because many multiply-adds
// after each other on one sum would wait for their latency. All loops over tokens are unrolled, or the sums
// would live in memory; the activations of few tokens stay in registers where there are enough.
template <typename Value, int Tokens>
void bitmap_rows(const TileArgs& args) {
  const FloatTile a(args);
  float* acc = a.acc;
  constexpr int lanes = RowVec::lanes, steps = 64 / lanes;
  constexpr int sums = Tokens <= 2 ? steps / 4 : 1;
  // Rows of int8 are short, so more of them fit the time that a read takes.
  constexpr int ahead = Value::size < 2 ? 8192 : 2048;
  constexpr int lines = Value::size > 2 ? 3 : Value::size;
  const std::uint8_t* value = a.tile + BitmapLayout::values_at(a.rows);
  RowVec x[Tokens][steps];
#pragma GCC unroll 8
  for (int t = 0; t < Tokens; ++t)
#pragma GCC unroll 8
    for (int c = 0; c < steps; ++c) x[t][c] = RowWeights<Value>::activations(a.panel + t * 64, c);
  for (int r = 0; r < a.rows; ++r, acc += Tokens * lanes) {
    __builtin_prefetch(a.tile + r * 8 + ahead);
    for (int line = 0; line < lines; ++line) __builtin_prefetch(value + ahead + 64 * line);
    RowVec sum[Tokens][sums];
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t)
#pragma GCC unroll 4
      for (int i = 0; i < sums; ++i) sum[t][i] = i == 0 ? RowVec::load(acc + t * lanes) : RowVec::set(0.0f);
    RowWeights<Value> row(a.tile + r * 8, value);
#pragma GCC unroll 8
    for (int c = 0; c < steps; ++c) {
      const RowVec w = row(c);
#pragma GCC unroll 8
      for (int t = 0; t < Tokens; ++t) sum[t][c % sums] = fma(w, x[t][c], sum[t][c % sums]);
    }
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t) {
#pragma GCC unroll 4
      for (int i = 1; i < sums; ++i) sum[t][0] = sum[t][0] + sum[t][i];
      sum[t][0].store(acc + t * lanes);
    }
  }
}
