// y += w . x for one nm tile. One text for every isa. Nothing depends on the counts of nonzeros: 8 rows are
// the lanes of a vector and one permutation of a group's activations serves them all.

#include "formats/layout/nm.inl.h"

// A block of 8 rows as a col8 group: columns in bytes, lanes in order.
struct NmGroup {
  std::uint8_t order[8], columns[255 * 8];
};
inline void nm_group(const std::uint8_t* positions, const NmLayout& t, Unit unit, int block, NmGroup& group) {
  for (int i = 0; i < 8; ++i) group.order[i] = static_cast<std::uint8_t>(block * 8 + i);
  std::uint8_t* out = group.columns;
  for (int g = 0, base = 0; g < t.groups; ++g, base += unit.cols)
    for (int s = 0; s < unit.rows; ++s, out += 8, positions += t.position_bits)
      unpack_places(positions, t.position_bits, base, out);
}

// fn(col8-like group: rows, values as floats, columns) for every 8 rows.
template <typename Value, typename Fn>
inline void for_each_nm_group(const std::uint8_t* tile, const std::uint8_t* scales, int rows, int cols,
                              Unit unit, Fn fn) {
  const NmLayout t(rows, cols, unit);
  NmGroup group;
  float room[Value::plain ? 1 : 255 * 8];
  for (int b = 0; b < t.blocks; ++b) {
    fetch_ahead(tile, t.block_bytes(Value::size));
    const std::uint8_t* positions = tile + t.value_bytes(Value::size);
    nm_group(positions, t, unit, b, group);
    const std::uint8_t* floats = group_floats<Value>(tile, t.steps, scales, group.order, rows, room);
    fn(group.order, floats, group.columns, t.steps);
    tile = positions + t.steps * t.position_bits;
  }
}

// One body for all value types.
template <typename V, int Vectors>
[[gnu::noinline]] void walk_nm(const std::uint8_t* order, const std::uint8_t* floats,
                               const std::uint8_t* columns, int steps, const float* panel, float* acc) {
  walk_rows<V, Vectors, rows_for(Vectors)>(order, floats, columns, steps, panel, acc);
}

// Many tokens: as col8 once the positions are columns, which is one operation for eight nonzeros.
template <typename Value, int Width>
void nm_strip(const TileArgs& args) {
  const FloatTile a(args);
  using V = typename pick<Width % Vec::lanes == 0, Vec, Vec8>::type;
  constexpr int vectors = Width / V::lanes;
  for_each_nm_group<Value>(
      a.tile, a.scales, a.rows, a.cols, a.unit,
      [&](const std::uint8_t* order, const std::uint8_t* floats, const std::uint8_t* columns, int steps) {
        walk_nm<V, vectors>(order, floats, columns, steps, a.panel, a.acc);
      });
}

// Any tokens, 8 at a time, when x holds NaN or infinity: zeros (holes) are skipped.
template <typename Value, int Width>
void nm_careful(const TileArgs& args) {
  static_assert(Width == 8, "walk_careful's strip");
  const FloatTile a(args);
  for_each_nm_group<Value>(
      a.tile, a.scales, a.rows, a.cols, a.unit,
      [&](const std::uint8_t* order, const std::uint8_t* floats, const std::uint8_t* columns, int steps) {
        walk_careful(order, floats, columns, steps, a.panel, a.acc);
      });
}

// Few tokens: `Blocks` times 8 rows at a time, because one multiply-add waits for the one before it on its
// sum. A row is added in column order, as in the wide kernels, so a token's bits do not depend on its batch.
template <typename Value, int Bits, int Tokens, int Blocks>
inline void nm_blocks(const std::uint8_t* tile, const std::uint8_t* scales, int rows, int first,
                      const NmLayout& t, Unit unit, const float* panel, float* acc) {
  const int value_bytes = t.value_bytes(Value::size), block_bytes = value_bytes + t.steps * Bits;
  const std::uint8_t* values = tile + first * block_bytes;
  const std::uint8_t* positions = values + value_bytes;
  // The blocks are so many streams: the bytes after next are fetched in their order, not the streams'.
  constexpr int step_bytes = Blocks * (8 * Value::size + Bits);
  const std::uint8_t* ahead = values + 2 * Blocks * block_bytes;
  Vec8 sum[Blocks][Tokens], scale[Blocks];
  for (int b = 0; b < Blocks; ++b) {
    std::uint8_t order[8];
    for (int i = 0; i < 8; ++i) order[i] = static_cast<std::uint8_t>((first + b) * 8 + i);
    scale[b] = Value::scaled ? lane_scales(scales, order, rows) : Vec8::set(1.0f);
    for (int i = 0; i < Tokens; ++i) sum[b][i] = Vec8::load(acc + i * kFewRows + (first + b) * 8);
  }
  for (int g = 0; g < t.groups; ++g, panel += unit.cols)
    for (int s = 0; s < unit.rows; ++s, values += 8 * Value::size, positions += Bits, ahead += step_bytes) {
      for (int byte = 0; byte < step_bytes; byte += 64) __builtin_prefetch(ahead + byte);
#pragma GCC unroll 8
      for (int b = 0; b < Blocks; ++b) {
        const Vec8 v = load8(Value{}, values + b * block_bytes);
        const Vec8 w = Value::scaled ? v * scale[b] : v;
        const Places places = load_places<Bits>(positions + b * block_bytes);
#pragma GCC unroll 8
        for (int i = 0; i < Tokens; ++i)
          sum[b][i] = fma(w, pick8<Bits>(panel + i * kFewPanel, places), sum[b][i]);
      }
    }
  for (int b = 0; b < Blocks; ++b)
    for (int i = 0; i < Tokens; ++i) sum[b][i].store(acc + i * kFewRows + (first + b) * 8);
}

template <typename Value, int Bits, int Tokens>
inline void nm_few_bits(const FloatTile& a) {
  constexpr int blocks = kAccumulators < 8 || Tokens > 4 ? 1 : Tokens <= 2 ? 4 : 2;
  const NmLayout t(a.rows, a.cols, a.unit);
  int b = 0;
  for (; b + blocks <= t.blocks; b += blocks)
    nm_blocks<Value, Bits, Tokens, blocks>(a.tile, a.scales, a.rows, b, t, a.unit, a.panel, a.acc);
  for (; b < t.blocks; ++b)
    nm_blocks<Value, Bits, Tokens, 1>(a.tile, a.scales, a.rows, b, t, a.unit, a.panel, a.acc);
}

template <typename Value, int Tokens>
void nm_few(const TileArgs& args) {
  const FloatTile a(args);
  if (a.unit.cols <= 4) return nm_few_bits<Value, 2, Tokens>(a);
  if (a.unit.cols <= 8) return nm_few_bits<Value, 3, Tokens>(a);
  nm_few_bits<Value, 4, Tokens>(a);
}
