// What tile products of attention read and leave, and how queries, keys and values get there.
//
// In `room`, one after the other; a tile is 1 KB, 16 rows x 64 bytes:
//   keys     [keys / 16][dim / 32] tiles   a row is a pair of dimensions, of 16 keys
//   values   [keys / 32][dim / 16] tiles   a row is a pair of keys, in 16 dimensions
//   queries  [dim / 32] tiles              a row is a query, in 32 dimensions
// and twice, for every other step:
//   scores   [keys / 16] tiles             a row is a query's score of 16 keys, float
//   weights  [keys / 32] tiles             a row is a query's weight of 32 keys
//   sums     [dim / 16] tiles              a row is a query's answer in 16 dimensions, float

struct AttentionRoom {
  static constexpr int tile = 1024;
  int keys, dim;  // rounded up to 32
  std::uint8_t *key_tiles, *value_tiles, *query_tiles;
  explicit AttentionRoom(const AttentionArgs& a)
      : keys((a.keys + 31) / 32 * 32), dim((a.dim + 31) / 32 * 32) {
    const std::int64_t plane = std::int64_t{keys} * dim * 2;
    key_tiles = a.room;
    value_tiles = key_tiles + plane;
    query_tiles = value_tiles + plane;
  }
};

// 16 queries from `first` on, and the keys that one of them may look at, in pairs of 16.
struct AttentionStep {
  int first, rows, pairs;
  std::uint8_t *scores, *weights, *sums;
  alignas(64) float inverse[16];  // of the sums of the weights
  void begin(const AttentionArgs& a, const AttentionRoom& room, int step) {
    first = step * 16;
    rows = a.queries - first < 16 ? a.queries - first : 16;
    pairs = static_cast<int>((a.keys_seen(first + rows - 1) + 31) / 32);
    const std::int64_t of_weights = std::int64_t{room.keys} / 32 * AttentionRoom::tile,
                       of_sums = room.dim / 16 * AttentionRoom::tile;
    scores = room.query_tiles + room.dim / 32 * AttentionRoom::tile + step % 2 * (3 * of_weights + of_sums);
    weights = scores + 2 * of_weights;
    sums = weights + of_weights;
  }
};

// 32 columns as pairs; where only `count` are left, zeros behind them.
template <typename X>
inline Zmm some_pairs(X x, const std::uint8_t* p, int count) {
  if (count >= 32) return pairs_of(x, p);
  std::uint8_t columns[32 * X::size] = {};
  if (count > 0) __builtin_memcpy(columns, p, static_cast<std::size_t>(count) * X::size);
  return pairs_of(x, columns);
}

// Rows of one of the three, as tiles want them. `wild`: whether anything in it is (simd/pairs_avx512.h).
template <typename X>
struct AttentionRows {
  const std::uint8_t* data;
  std::int64_t stride;  // bytes
  int count, dim;
  bool wild = false;
  AttentionRows(const void* p, std::int64_t elements, int rows, int columns)
      : data(static_cast<const std::uint8_t*>(p)), stride(elements * X::size), count(rows), dim(columns) {}
  Zmm pairs(int row, int column) {
    const std::uint8_t* from = data + row * stride + column * X::size;
    const Zmm v = some_pairs(X{}, from, row < count ? dim - column : 0);
    wild |= is_wild(v);
    return v;
  }
};

template <typename X>
bool pack_attention_keys(const AttentionArgs& a, const AttentionRoom& room) {
  AttentionRows<X> rows(a.k, a.k_stride, a.keys, a.dim);
  std::uint8_t* to = room.key_tiles;
  for (int key = 0; key < room.keys; key += 16)
    for (int column = 0; column < room.dim; column += 32, to += AttentionRoom::tile) {
      Zmm square[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) square[i] = rows.pairs(key + i, column);
      transpose(square);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) square[i].store(reinterpret_cast<float*>(to + i * 64));
    }
  return !rows.wild;
}

template <typename X>
bool pack_attention_values(const AttentionArgs& a, const AttentionRoom& room) {
  AttentionRows<X> rows(a.v, a.v_stride, a.keys, a.dim);
  std::uint8_t* to = room.value_tiles;
  for (int key = 0; key < room.keys; key += 32)
    for (int column = 0; column < room.dim; column += 32, to += 2 * AttentionRoom::tile)
      for (int i = 0; i < 16; ++i) {
        const Zmm one = rows.pairs(key + 2 * i, column), two = rows.pairs(key + 2 * i + 1, column);
        interleaved<0>(one, two).store(reinterpret_cast<float*>(to + i * 64));
        interleaved<1>(one, two).store(reinterpret_cast<float*>(to + AttentionRoom::tile + i * 64));
      }
  return !rows.wild;
}

template <typename X>
bool pack_attention_queries(const AttentionArgs& a, const AttentionRoom& room, int first) {
  AttentionRows<X> rows(static_cast<const std::uint8_t*>(a.q) + first * a.q_stride * X::size, a.q_stride,
                        a.queries - first, a.dim);
  std::uint8_t* to = room.query_tiles;
  for (int column = 0; column < room.dim; column += 32, to += AttentionRoom::tile)
    for (int i = 0; i < 16; ++i) rows.pairs(i, column).store(reinterpret_cast<float*>(to + i * 64));
  return !rows.wild;
}
