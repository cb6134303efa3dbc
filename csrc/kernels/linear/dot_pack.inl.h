// Before the dot kernels: activations into lanes of 32 bits.
//
// quads: x as 8-bit integers, four columns a lane: x = (q - zero) * scale of its token.
//   [lanes up to 16][width][4] | float scale[width] | i32 zero[width]
// pairs: x as bf16, two columns a lane: [lanes up to 16][width][2]
// flat: a token after the other (row.h, panel lane_rows); quads have scale and zero [kLaneRowTokens] behind.
// Missing tokens and columns are zero.

// How a token becomes integers. Its range holds 0, so that 0 stays 0. Where it holds NaN or infinity the
// scale is NaN, and so is all that its sums become.
struct Quantized {
  float scale, inverse;
  std::int32_t zero;
};

inline Quantized as_integers(float low, float high, float nan) {
  const float scale = high / 255.0f - low / 255.0f;
  if (nan != nan) return {nan, 0.0f, 0};
  if (!(scale >= 1e-37f)) return {0.0f, 0.0f, 0};
  const float inverse = 1.0f / scale;
  return {scale, inverse, nearest_int(0.0f - low * inverse)};
}

// The smallest and largest of a token and 0, and NaN if it holds NaN or infinity. Two vectors at a time, for
// each waits for the one before it.
struct Range {
  static constexpr int vectors = 2, lanes = vectors * Square::lanes;
  Square low[vectors], high[vectors], nan[vectors];
  Range() {
    for (int i = 0; i < vectors; ++i) low[i] = high[i] = nan[i] = Square::set(0.0f);
  }
  template <typename X>
  __attribute__((always_inline)) void add(X x, const std::uint8_t* p) {
#pragma GCC unroll 2
    for (int i = 0; i < vectors; ++i) {
      Square v;
      load_into(v, x, p + i * Square::lanes * X::size);
      low[i] = at_most(low[i], v);
      high[i] = at_least(high[i], v);
      nan[i] = fma(v, Square::set(0.0f), nan[i]);
    }
  }
  Quantized quantized() const {
    const Square l = at_most(low[0], low[1]), h = at_least(high[0], high[1]), n = nan[0] + nan[1];
    Vec8 least = eight(l, 0), most = eight(h, 0), any = eight(n, 0);
    if constexpr (Square::lanes > 8) {
      least = at_most(least, eight(l, 1));
      most = at_least(most, eight(h, 1));
      any = any + eight(n, 1);
    }
    float of_least[8], of_most[8], of_any[8];
    least.store(of_least);
    most.store(of_most);
    any.store(of_any);
    for (int i = 1; i < 8; ++i) {
      of_least[0] = of_least[i] < of_least[0] ? of_least[i] : of_least[0];
      of_most[0] = of_most[i] > of_most[0] ? of_most[i] : of_most[0];
      of_any[0] += of_any[i];
    }
    return as_integers(of_least[0], of_most[0], of_any[0]);
  }
};
template <typename X>
inline Quantized range_of(const std::uint8_t* x, int cols) {
  Range range;
  int c = 0;
  for (; c + Range::lanes <= cols; c += Range::lanes) range.add(X{}, x + c * X::size);
  if (c < cols) {
    std::uint8_t rest[Range::lanes * X::size] = {};
    __builtin_memcpy(rest, x + c * X::size, static_cast<std::size_t>(cols - c) * X::size);
    range.add(X{}, rest);
  }
  return range.quantized();
}

// How a lane is made: four columns as integers, or two as bf16.
struct Quads {
  static constexpr int cols = 4;
  Quantized how;
  template <typename X>
  Square lanes(X x, const std::uint8_t* p) const {
    return quads_of(x, p, how.inverse, how.zero);
  }
};
struct Pairs {
  static constexpr int cols = 2;
  template <typename X>
  Square lanes(X x, const std::uint8_t* p) const {
    return pairs_of(x, p);
  }
};

// fn(first lane, Square::lanes lanes of the token) for all of its columns.
template <typename X, typename Lane, typename Fn>
inline void for_each_lanes(const Lane& lane, const std::uint8_t* x, int from, int cols, Fn fn) {
  constexpr int step = Square::lanes * Lane::cols;
  if (from + step <= cols) return fn(lane.lanes(X{}, x + from * X::size));
  std::uint8_t rest[step * X::size] = {};
  if (from < cols)
    __builtin_memcpy(rest, x + from * X::size, static_cast<std::size_t>(cols - from) * X::size);
  fn(lane.lanes(X{}, rest));
}

// Squares of tokens and lanes are turned. `token(i)` says how token i becomes lanes. Where a square has more
// tokens than the strip, what is too much of a lane the next overwrites; behind the last, what comes later.
template <typename X, typename Lane, typename Token>
inline void pack_lanes(const void* x, std::int64_t stride, int tokens, int cols, int width,
                       std::uint8_t* panel, Token token) {
  constexpr int step = Square::lanes * Lane::cols;
  const int padded = (cols + 16 * Lane::cols - 1) / (16 * Lane::cols) * (16 * Lane::cols);
  for (int t = 0; t < width; t += Square::lanes) {
    const auto* first = element<X>(x, t * stride);
    for (int c = 0; c < padded; c += step) {
      Square r[Square::lanes];
#pragma GCC unroll 16
      for (int i = 0; i < Square::lanes; ++i)
        if (t + i < tokens)
          for_each_lanes<X>(token(t + i), first + i * stride * X::size, c, cols, [&](Square v) { r[i] = v; });
        else
          r[i] = Square::set(0.0f);
      transpose(r);
      auto* to = reinterpret_cast<float*>(panel) + c / Lane::cols * width + t;
#pragma GCC unroll 16
      for (int i = 0; i < Square::lanes; ++i) r[i].store(to + i * width);
    }
  }
}

inline std::int64_t lane_panel_bytes(int cols, int of_lane, int width) {
  return static_cast<std::int64_t>((cols + 16 * of_lane - 1) / (16 * of_lane) * 16) * width * 4;
}

template <typename X>
void pack_quads(const void* x, std::int64_t stride, int tokens, int cols, int width, std::uint8_t* panel) {
  Quads how[kMaxStrip];
  for (int i = 0; i < width; ++i)
    how[i].how = i < tokens ? range_of<X>(element<X>(x, i * stride), cols) : Quantized{0.0f, 0.0f, 0};
  pack_lanes<X, Quads>(x, stride, tokens, cols, width, panel, [&](int i) { return how[i]; });
  auto* scale = reinterpret_cast<float*>(panel + lane_panel_bytes(cols, 4, width));
  auto* zero = reinterpret_cast<std::int32_t*>(scale + width);
  for (int i = 0; i < width; ++i) {
    scale[i] = how[i].how.scale;
    zero[i] = how[i].how.zero;
  }
}

template <typename X>
void pack_pairs(const void* x, std::int64_t stride, int tokens, int cols, int width, std::uint8_t* panel) {
  pack_lanes<X, Pairs>(x, stride, tokens, cols, width, panel, [](int) { return Pairs{}; });
}

// A token after the other.
template <typename X, typename Lane>
inline void flat_lanes(const std::uint8_t* x, int cols, const Lane& lane, std::uint8_t* to) {
  constexpr int step = Square::lanes * Lane::cols;
  const auto padded = static_cast<int>(lane_panel_bytes(cols, Lane::cols, 1)) / 4 * Lane::cols;
  for (int c = 0; c < padded; c += step, to += Square::lanes * 4)
    for_each_lanes<X>(lane, x, c, cols, [&](Square v) { v.store(reinterpret_cast<float*>(to)); });
}

template <typename X>
void flat_quads(const void* x, std::int64_t stride, int tokens, int cols, int width, std::uint8_t* panel) {
  const std::int64_t row = lane_panel_bytes(cols, 4, 1);
  auto* scale = reinterpret_cast<float*>(panel + row * width);
  auto* zero = reinterpret_cast<std::int32_t*>(scale + kLaneRowTokens);
  __builtin_memset(panel + row * tokens, 0,
                   static_cast<std::size_t>(row * (width - tokens)) + 8 * kLaneRowTokens);
  for (int i = 0; i < tokens; ++i) {
    const auto* from = element<X>(x, i * stride);
    const Quads how{range_of<X>(from, cols)};
    scale[i] = how.how.scale;
    zero[i] = how.how.zero;
    flat_lanes<X>(from, cols, how, panel + row * i);
  }
}

template <typename X>
void flat_pairs(const void* x, std::int64_t stride, int tokens, int cols, int width, std::uint8_t* panel) {
  const std::int64_t row = lane_panel_bytes(cols, 2, 1);
  __builtin_memset(panel + row * tokens, 0, static_cast<std::size_t>(row * (width - tokens)));
  for (int i = 0; i < tokens; ++i) flat_lanes<X>(element<X>(x, i * stride), cols, Pairs{}, panel + row * i);
}
