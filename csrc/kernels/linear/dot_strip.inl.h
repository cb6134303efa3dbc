// Sums of a dot tile for a strip of tokens, the lanes of the SIMD registers. One text for every isa: an isa
// says what a dot product of lanes is (simd/dot_<isa>.h).
//
// panel [lanes of w][Width][4 bytes]; sums [rows in groups][Width], of int32 or float, by place.

#include "formats/layout/dot.inl.h"

// The parts of a tile.
struct DotTile : DotLayout {
  const std::uint8_t* tile;
  DotTile(const std::uint8_t* bytes, int rows, int cols, Unit unit)
      : DotLayout(rows, cols, unit), tile(bytes) {}
  std::uint64_t bits(int group, int word) const {
    std::uint64_t b;
    __builtin_memcpy(&b, tile + (group * words + word) * 8, sizeof b);
    return b;
  }
  int first(int group) const {  // blocks before it
    std::uint32_t f;
    __builtin_memcpy(&f, tile + first_at + group * 4, sizeof f);
    return static_cast<int>(f);
  }
  const std::uint8_t* values(int group) const { return tile + values_at + first(group) * block_bytes(); }
};

constexpr int kRunBytes = DotLayout::run * DotLayout::lane_bytes;  // of a row

// Where `count` blocks of a group begin: the values of their first row, how far apart rows are, lane ids.
struct DotRun {
  const std::uint8_t* values;
  std::int64_t stride;
  const std::uint16_t* ids;
  int count;
};

// Rows rows x Vectors vectors of sums stay in registers, in Sets sets where they would be too few to hide the
// latency of a dot product.
template <typename Value, typename V, int Vectors, int Rows, int Sets>
struct DotSums {
  V sum[Sets][Rows][Vectors];

  template <int Set>
  void add_block(const DotRun& run, int q, const std::uint8_t* panel) {
    const std::uint8_t* x = panel + static_cast<std::int64_t>(run.ids[q]) * (Vectors * V::lanes * 4);
    const std::uint8_t* w = run.values + q * 4;
    V xs[Vectors];
#pragma GCC unroll 8
    for (int j = 0; j < Vectors; ++j) xs[j] = V::load(x + j * V::lanes * 4);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
      const V ws = V::spread(w + i * run.stride);
#pragma GCC unroll 8
      for (int j = 0; j < Vectors; ++j) sum[Set][i][j] = dot(Value{}, sum[Set][i][j], xs[j], ws);
    }
  }
  // As many blocks as there are sets.
  template <int Set = 0>
  void add_sets(const DotRun& run, int q, const std::uint8_t* panel) {
    add_block<Set>(run, q + Set, panel);
    if constexpr (Set + 1 < Sets) add_sets<Set + 1>(run, q, panel);
  }
  // A whole run, whose place needs no arithmetic.
  void add_whole(const DotRun& run, const std::uint8_t* panel) {
    static_assert(DotLayout::run % Sets == 0);
    for (int q = 0; q < DotLayout::run; q += Sets) add_sets(run, q, panel);
  }
  void add(const DotRun& run, const std::uint8_t* panel) {
    int q = 0;
    for (; q + Sets <= run.count; q += Sets) add_sets(run, q, panel);
    if constexpr (Sets > 1)
      for (; q < run.count; ++q) add_block<0>(run, q, panel);
  }
  void start(const std::uint8_t* from, bool fresh) {
#pragma GCC unroll 4
    for (int s = 0; s < Sets; ++s)
#pragma GCC unroll 8
      for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < Vectors; ++j)
          sum[s][i][j] = s > 0 || fresh ? V::zero() : V::load(from + (i * Vectors + j) * V::lanes * 4);
  }
  void store(std::uint8_t* to) const {
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < Vectors; ++j) {
        V all = sum[0][i][j];
#pragma GCC unroll 4
        for (int s = 1; s < Sets; ++s) all = add_sums(Value{}, all, sum[s][i][j]);
        all.store(to + (i * Vectors + j) * V::lanes * 4);
      }
  }
};

// Lanes of w whose activations are read before the next: they should stay in L1.
constexpr int dot_chunk(int width) { return 16384 / width / 64 * 64 > 64 ? 16384 / width / 64 * 64 : 64; }

template <typename Value, typename V, int Vectors, int Rows, int Sets>
[[gnu::noinline]] void dot_rows(const DotTile& t, const std::uint8_t* panel, std::uint8_t* sums) {
  constexpr int width = Vectors * V::lanes, chunk = dot_chunk(width);
  std::uint16_t ids[chunk + 64];
  int done[DotLayout::most_rows];  // blocks of each group
  for (int g = 0; g < t.groups; ++g) done[g] = 0;
  for (int begin = 0; begin < t.lanes; begin += chunk) {
    const int last = begin + chunk < t.lanes ? begin + chunk : t.lanes;
    for (int g = 0; g < t.groups; ++g) {
      int count = 0;
      for (int word = begin / 64; word * 64 < last; ++word)
        count += lane_ids(t.bits(g, word), word * 64, ids + count);
      const std::uint8_t* values = t.values(g);
      const int of_group = t.first(g + 1) - t.first(g);
      for (int i = 0; i < t.r; i += Rows) {
        DotSums<Value, V, Vectors, Rows, Sets> s;
        std::uint8_t* at = sums + (g * t.r + i) * width * 4;
        s.start(at, begin == 0);
        for (int q = 0; q < count;) {
          if (t.r >= DotLayout::run)
            for (int from = done[g] + q; from % DotLayout::run == 0 && count - q >= DotLayout::run;
                 from += DotLayout::run, q += DotLayout::run)
              s.add_whole(
                  {values + from * t.block_bytes() + i * kRunBytes, kRunBytes, ids + q, DotLayout::run},
                  panel);
          if (q == count) break;
          const int from = done[g] + q, stride = t.row_stride(from, of_group);
          const int in_run = t.r < DotLayout::run ? count : DotLayout::run - from % DotLayout::run;
          const int n = in_run < count - q ? in_run : count - q;
          s.add({values + t.block_at(from) + i * stride, stride, ids + q, n}, panel);
          q += n;
        }
        s.store(at);
      }
      done[g] += count;
    }
  }
}

// Sets of so many sums that registers hold.
constexpr int dot_sets(int sums) { return kDotSums >= 4 * sums ? 4 : kDotSums >= 2 * sums ? 2 : 1; }

template <typename Value, int Width>
void dot_strip(const TileArgs& a) {
  using V = typename StripLanes<Width>::type;
  constexpr int vectors = Width / V::lanes;
  constexpr int tall = dot_sets(4 * vectors), flat = dot_sets(vectors);
  const DotTile t(a.tile, a.rows, a.cols, a.unit);
  const auto* panel = static_cast<const std::uint8_t*>(a.panel);
  auto* sums = static_cast<std::uint8_t*>(a.sums);
  t.r == 1 ? dot_rows<Value, V, vectors, 1, flat>(t, panel, sums)
           : dot_rows<Value, V, vectors, 4, tall>(t, panel, sums);
}
