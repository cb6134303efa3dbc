// After the dot kernels: sums of int32 or floats into y.

// Up to Square::lanes floats or int32; what is missing is zero.
inline Square load_lanes(const void* from, int count) {
  if (count >= Square::lanes) return Square::load(static_cast<const float*>(from));
  float some[Square::lanes] = {};
  __builtin_memcpy(some, from, static_cast<std::size_t>(count) * sizeof(float));
  return Square::load(some);
}
inline Square bias_lanes(const float* bias, int r, int count) {
  return bias ? load_lanes(bias + r, count) : Square::set(0.0f);
}

// What makes the sums of a token floats, with bias. The rows from `r` on, `count` of them, are the lanes.
// from(t): the same, whose first token is t.
struct IntSums {
  RowMeaning rows;
  TokenMeaning tokens;
  struct At {
    Ints weights;
    Square scale, bias;
  };
  __attribute__((always_inline)) At at(int r, int count) const {
    return {as_ints(load_lanes(rows.weights + 4 * r, count)), load_lanes(rows.scales + 4 * r, count),
            bias_lanes(rows.bias, r, count)};
  }
  IntSums from(int t) const { return {rows, {tokens.scale + t, tokens.zero + t}}; }
  Square operator()(const At& a, Square sum, int t) const {
    return fma(
        to_floats(minus_product(as_ints(sum), a.weights, tokens.zero[t])) * Square::set(tokens.scale[t]),
        a.scale, a.bias);
  }
};
struct FloatSums {
  RowMeaning rows;
  struct At {
    Square bias;
  };
  At at(int r, int count) const { return {bias_lanes(rows.bias, r, count)}; }
  FloatSums from(int) const { return *this; }
  Square operator()(const At& a, Square sum, int) const { return sum + a.bias; }
};

// The sums [rows][width] of as many tokens of rows at `place`, turned: v[i] holds the rows of token i.
inline __attribute__((always_inline)) void load_rows(const float* sums, int width, const std::uint8_t* place,
                                                     int count, Square (&v)[Square::lanes]) {
  const auto row = [&](int i) { return Square::load(sums + place[i] * width); };
  if (count >= Square::lanes)
#pragma GCC unroll 16
    for (int i = 0; i < Square::lanes; ++i) v[i] = row(i);
  else
    for (int i = 0; i < Square::lanes; ++i) v[i] = row(i < count ? i : 0);
  transpose(v);
}

// A square as it is most of the time, whole. Each token is finished and gone before the next: the square,
// what is known of the rows and one pointer are all that fits into registers.
template <typename X, Activation A, bool Combined, typename Sums>
inline __attribute__((always_inline)) void finish_square(const Sums& meaning, const typename Sums::At& at,
                                                         Square (&v)[Square::lanes], const Finish& how,
                                                         Target to, std::int64_t y_bytes) {
  const Combine combine = how.combine;
  const std::int64_t other_bytes = how.other_stride * X::size;
  const auto put = [&](Square f) {
    if (Combined) {
      Square other;
      load_into(other, X{}, to.other);
      f = combined(f, combine, other);
      to.other = anew(to.other + other_bytes);
    }
    store_lanes(X{}, f, to.y);
    to.y = anew(to.y + y_bytes);
  };
  if constexpr (A == Activation::none) {
#pragma GCC unroll 16
    for (int i = 0; i < Square::lanes; ++i) put(meaning(at, v[i], i));
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < Square::lanes; ++i) v[i] = meaning(at, v[i], i);
    activate<A>(v);
#pragma GCC unroll 16
    for (int i = 0; i < Square::lanes; ++i) put(v[i]);
  }
}

// Into y, by squares: Square::lanes rows of as many tokens.
template <typename X, Activation A, typename Sums>
void store_sums(const Sums& meaning, const float* sums, int width, int rows, int tokens, const Finish& how,
                Target to, std::int64_t y_stride) {
  const std::int64_t y_bytes = y_stride * X::size, other_bytes = how.other_stride * X::size;
  for (int t = 0; t < tokens; t += Square::lanes) {
    const int live = tokens - t < Square::lanes ? tokens - t : Square::lanes;
    const Sums of = meaning.from(t);
    for (int r = 0; r < rows; r += Square::lanes) {
      const auto at = of.at(r, rows - r);
      Square v[Square::lanes];
      load_rows(sums + t, width, of.rows.place + r, rows - r, v);
      Target token{to.y + t * y_bytes + r * X::size, to.other + t * other_bytes + r * X::size};
      if (live == Square::lanes && rows - r >= Square::lanes) {
        how.combine == Combine::none ? finish_square<X, A, false>(of, at, v, how, token, y_bytes)
                                     : finish_square<X, A, true>(of, at, v, how, token, y_bytes);
        continue;
      }
      for (int i = 0; i < live; ++i) v[i] = of(at, v[i], i);
      activate<A>(v, live);
      for (int i = 0; i < live; ++i, token.y += y_bytes, token.other += other_bytes)
        finish<X>(v[i], how.combine, rows - r, 0, token);
    }
  }
}
template <typename X, typename Sums>
void store_by(const Sums& meaning, const void* sums, int width, int rows, int tokens, const Finish& how,
              void* y, std::int64_t y_stride) {
  const Target to{static_cast<std::uint8_t*>(y), static_cast<const std::uint8_t*>(how.other)};
  with_activation(how.activation, [&](auto act) {
    store_sums<X, decltype(act)::value>(meaning, static_cast<const float*>(sums), width, rows, tokens, how,
                                        to, y_stride);
  });
}
template <typename X>
void store_ints(const void* sums, int width, int rows, int tokens, const RowMeaning& row,
                const TokenMeaning& token, const Finish& how, void* y, std::int64_t y_stride) {
  store_by<X>(IntSums{row, token}, sums, width, rows, tokens, how, y, y_stride);
}
template <typename X>
void store_floats(const void* sums, int width, int rows, int tokens, const RowMeaning& row,
                  const TokenMeaning&, const Finish& how, void* y, std::int64_t y_stride) {
  store_by<X>(FloatSums{row}, sums, width, rows, tokens, how, y, y_stride);
}
