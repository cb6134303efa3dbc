// Sums of a dot tile for a strip of tokens by tile products: 32 rows of weights times 16 lanes of Width
// tokens a step. Where blocks are missing, the lanes that are there are copied side by side, some steps ahead
// in a ring, because a tile cannot be loaded from what was just stored without a long wait. Steps follow each
// other without a gap from one pass (32 rows) to the next, and the sums of a pass are stored while the next
// begins. After every step others may use the vectors: the tile products of a step take 64 cycles.
//
// Blocks of 16 or 32 rows. panel [lanes of w, up to 16][Width][4 bytes];
// sums [rows, up to 32][Width], by place.

// Lanes that all passes read before the next ones: they should stay in L1. Whole words of bits.
struct AmxChunks {
  int lanes, count;
  AmxChunks(const DotTile& t, int width) {
    const int most = 24 * 1024 / (width * 4), wanted = (t.lanes + most - 1) / most;
    lanes = ((t.lanes + wanted - 1) / wanted + 63) / 64 * 64;
    count = (t.lanes + lanes - 1) / lanes;
  }
};

// Which runs of a group begin in a chunk, and where reading its bits begins.
struct AmxRuns {
  int first, last;  // runs
  int word, skip;   // skip: lanes of that word that belong to runs before
};

// The groups of a tile in the order of the passes: chunk by chunk, every `stride`-th from `first` on.
struct AmxOrder {
  const DotTile& t;
  AmxChunks chunks;
  int first, stride;
  int before[DotLayout::most_rows / 16];  // blocks of a group in the chunks before
  AmxOrder(const DotTile& tile, const AmxChunks& c, int f, int s) : t(tile), chunks(c), first(f), stride(s) {
    for (int g = 0; g < t.groups; ++g) before[g] = 0;
  }
  int blocks(int g) const { return t.first(g + 1) - t.first(g); }
  bool dense(int g) const { return blocks(g) == t.lanes; }
  // In order of chunks only.
  AmxRuns runs(int g, int chunk) {
    const int word = chunk * chunks.lanes / 64, words = chunks.lanes / 64;
    const int end = chunk + 1 == chunks.count ? t.words : word + words, was = before[g];
    if (dense(g))
      before[g] = end * 64 < t.lanes ? end * 64 : t.lanes;
    else
      for (int w = word; w < end; ++w) before[g] += __builtin_popcountll(t.bits(g, w));
    AmxRuns r{(was + 15) / 16, (before[g] + 15) / 16, word, 0};
    r.skip = r.first * 16 - was;
    return r;
  }
};

// The lanes of some groups of a tile, in a ring.
template <int Width>
struct LaneRing {
  static constexpr int lane = Width * 4, size = 4, ahead = 2, most = 512;
  alignas(64) std::uint8_t ring[size][16 * lane];
  AmxOrder order;
  const std::uint8_t* panel;
  int group, chunk = 0;         // being copied
  int steps = 0, word = 0;      // of it, left to copy; to be read
  int at = 0, have = 0;         // ids read
  unsigned head = 0, tail = 0;  // steps copied, taken
  std::uint16_t ids[most + 80];

  LaneRing(const AmxOrder& groups, const std::uint8_t* x)
      : order(groups), panel(x), group(groups.first - groups.stride) {
    for (int i = 0; i < ahead; ++i) copy();
  }
  bool next_group() {
    for (; chunk < order.chunks.count; ++chunk, group = order.first - order.stride)
      for (group += order.stride; group < order.t.groups; group += order.stride) {
        if (order.dense(group)) continue;
        const AmxRuns r = order.runs(group, chunk);
        if (r.first == r.last) continue;
        steps = r.last - r.first;
        word = r.word;
        have = 0;
        read();
        at = r.skip;
        return true;
      }
    return false;
  }
  void read() {
    for (; have <= most - 64 && word < order.t.words; ++word)
      have += lane_ids(order.t.bits(group, word), word * 64, ids + have);
    for (int i = have; i < have + 16; ++i) ids[i] = 0;  // there the weights are zero
  }
  void copy() {
    if (steps == 0 && !next_group()) return;
    if (have - at < 16) {
      for (int i = at; i < have; ++i) ids[i - at] = ids[i];
      have -= at;
      at = 0;
      read();
    }
    std::uint8_t* to = ring[head++ % size];
    const std::uint8_t* const from = panel;  // here, where bytes that are stored cannot change it
    const std::uint16_t* const id = ids + at;
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) __builtin_memcpy(to + i * lane, from + id[i] * lane, lane);
    at += 16;
    --steps;
  }
  const std::uint8_t* take() {
    copy();
    return ring[tail++ % size];
  }
};

// The weights of a group in a chunk. Its last lanes get zeros behind.
struct AmxGroup {
  static constexpr int tile_bytes = 1024;
  alignas(64) std::uint8_t rest[2 * tile_bytes];
  const std::uint8_t* values;
  int bytes, whole, steps;
  bool dense;
  int first_lane;
  void read(AmxOrder& order, int g, int chunk) {
    const DotTile& t = order.t;
    steps = 0;
    if (g >= t.groups) return;
    const AmxRuns r = order.runs(g, chunk);
    const int count = order.blocks(g), left = count % 16;
    bytes = t.r * 64;
    steps = r.last - r.first;
    whole = count / 16 - r.first;
    dense = count == t.lanes;
    first_lane = r.first * 16;
    values = t.values(g) + static_cast<std::int64_t>(r.first) * bytes;
    if (left == 0 || r.last * 16 < count || steps == 0) return;
    const std::uint8_t* last = values + whole * static_cast<std::int64_t>(bytes);
    for (int i = 0; i < t.r; ++i, last += left * 4)
      spread_lanes(static_cast<std::uint16_t>((1 << left) - 1), last, rest + i * 64);
  }
  const std::uint8_t* step(int s) const {
    return s < whole ? values + s * static_cast<std::int64_t>(bytes) : rest;
  }
};

// Sums are tiles 0 to 3, weights 4 and 5, tokens 6 and 7.
template <typename Value, int Width>
struct AmxSums {
  static constexpr int token_tiles = Width / 16, lane = Width * 4;
  // A tile of weights is loaded faster than it comes from L3: so many bytes before it is needed.
  static constexpr int ahead = 4096;
  std::uint8_t* held = nullptr;  // where the sums in the tiles belong
  std::uint8_t* next = nullptr;  // and those that follow
  bool fresh = true;             // which begin at zero
  Tiles tiles;

  template <int Sum>
  void change() {
    constexpr int row = Sum / token_tiles * 16, token = Sum % token_tiles * 16;
    constexpr std::int64_t offset = row * lane + token * 4;
    if (held) tiles.store<Sum>(held + offset, lane);
    if (fresh)
      tiles.zero<Sum>();
    else
      tiles.load<Sum>(next + offset, lane);
  }
  template <int Half>
  void change_half() {
    change<Half * token_tiles>();
    if constexpr (token_tiles == 2) change<Half * token_tiles + 1>();
  }
  static void fetch_ahead(const std::uint8_t* a) {
#pragma GCC unroll 16
    for (int line = 0; line < 16; ++line) __builtin_prefetch(a + ahead + line * 64, 0, 3);
  }
  // 16 rows; b: nullptr where the tokens are loaded. first: of these sums.
  template <int Half>
  void add(const std::uint8_t* a, const std::uint8_t* b, bool first) {
    constexpr int weights = 4 + Half, sum = Half * token_tiles;
    tiles.load<weights>(a, 64);
    fetch_ahead(a);
    if (b) tiles.load<6>(b, lane);
    if (first) change<sum>();
    tiles.dot<sum, weights, 6>(Value{});
    if constexpr (token_tiles == 2) {
      if (b) tiles.load<7>(b + 64, lane);
      if (first) change<sum + 1>();
      tiles.dot<sum + 1, weights, 7>(Value{});
    }
  }
  void finish() {
    fresh = true;
    change_half<0>();
    change_half<1>();
  }
};

// Groups of 32 rows.
template <typename Value, int Width>
void amx_tall(const DotTile& t, const std::uint8_t* panel, std::uint8_t* sums, Meanwhile* meanwhile) {
  AmxSums<Value, Width> s;
  AmxOrder order(t, AmxChunks(t, Width), 0, 1);
  LaneRing<Width> ring(order, panel);
  AmxGroup group;
  for (int chunk = 0; chunk < order.chunks.count; ++chunk)
    for (int g = 0; g < t.groups; ++g) {
      group.read(order, g, chunk);
      if (group.steps == 0 && chunk > 0) continue;
      s.fresh = chunk == 0;
      s.next = sums + g * 32 * Width * 4;
      const std::uint8_t* dense = panel + group.first_lane * Width * 4;
      for (int i = 0; i < group.steps; ++i) {
        const std::uint8_t* b = group.dense ? dense + i * 16 * Width * 4 : ring.take();
        const std::uint8_t* a = group.step(i);
        s.template add<0>(a, b, i == 0);
        s.template add<1>(a + AmxGroup::tile_bytes, nullptr, i == 0);
        if (meanwhile) meanwhile->some(*meanwhile);
      }
      if (group.steps == 0) s.finish();
      s.held = s.next;
    }
  s.finish();
}

// Groups of 16 rows, two at a time, each with lanes of its own.
template <typename Value, int Width>
void amx_pairs(const DotTile& t, const std::uint8_t* panel, std::uint8_t* sums, Meanwhile* meanwhile) {
  AmxSums<Value, Width> s;
  const AmxChunks chunks(t, Width);
  AmxOrder even(t, chunks, 0, 2), odd(t, chunks, 1, 2);
  LaneRing<Width> first(even, panel), second(odd, panel);
  AmxGroup one, two;
  for (int chunk = 0; chunk < chunks.count; ++chunk)
    for (int g = 0; g < t.groups; g += 2) {
      one.read(even, g, chunk);
      two.read(odd, g + 1, chunk);
      const int steps = one.steps > two.steps ? one.steps : two.steps;
      if (steps == 0 && chunk > 0) continue;
      s.fresh = chunk == 0;
      s.next = sums + g * 16 * Width * 4;
      const auto dense = [&](const AmxGroup& group, int i) {
        return panel + (group.first_lane + i * 16) * Width * 4;
      };
      for (int i = 0; i < steps || i == 0; ++i) {
        if (i < one.steps)
          s.template add<0>(one.step(i), one.dense ? dense(one, i) : first.take(), i == 0);
        else if (i == 0)
          s.template change_half<0>();
        if (i < two.steps)
          s.template add<1>(two.step(i), two.dense ? dense(two, i) : second.take(), i == 0);
        else if (i == 0)
          s.template change_half<1>();
        if (meanwhile) meanwhile->some(*meanwhile);
      }
      s.held = s.next;
    }
  s.finish();
}

template <typename Value, int Width>
void dot_amx(const TileArgs& a) {
  const DotTile t(a.tile, a.rows, a.cols, a.unit);
  const auto* panel = static_cast<const std::uint8_t*>(a.panel);
  auto* sums = static_cast<std::uint8_t*>(a.sums);
  start_tiles();
  t.r == 32 ? amx_tall<Value, Width>(t, panel, sums, a.meanwhile)
            : amx_pairs<Value, Width>(t, panel, sums, a.meanwhile);
  end_tiles();
}
