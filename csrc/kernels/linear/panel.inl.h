// What surrounds the tile kernels: activations into panels, accumulators out to rows of y.

// X is the dtype of x and y (simd/values.h). Rows of x are X::size * stride bytes apart, at any alignment.
template <typename X>
inline const std::uint8_t* element(const void* x, std::int64_t i) {
  return static_cast<const std::uint8_t*>(x) + i * X::size;
}

template <typename X>
inline void load_into(Vec8& v, X x, const std::uint8_t* p) {
  v = load8(x, p);
}

// p, of which the compiler knows nothing: it would keep the address of each of sixteen rows in a register of
// its own, and spill them, where one and a stride will do.
template <typename T>
inline T* anew(T* p) {
  asm("" : "+r"(p));
  return p;
}

// V::lanes tokens of a strip, the first `live` of which exist: squares of x are turned. From column `from`
// on; returns the first column that is left.
template <typename X, typename V>
inline int pack_squares(const void* x, std::int64_t x_stride, int live, int from, int cols, int width,
                        float* panel) {
  int c = from;
  for (; c + V::lanes <= cols; c += V::lanes) {
    V r[V::lanes];
    const std::uint8_t* row = anew(element<X>(x, c));
#pragma GCC unroll 16
    for (int i = 0; i < V::lanes; ++i, row += x_stride * X::size)
      if (V::lanes > 8 || i < live)  // sixteen tokens are turned only where all exist
        load_into(r[i], X{}, row);
      else
        r[i] = V::set(0.0f);
    transpose(r);
    float* to = anew(panel + c * width);
#pragma GCC unroll 16
    for (int i = 0; i < V::lanes; ++i, to += width) r[i].store(to);
  }
  return c;
}

// Whether rows of V::lanes elements from p on, so far apart, lie within cache lines: wide vectors that cross
// from one to the next are slower than narrow ones.
template <typename X, typename V>
inline bool in_lines(const void* p, std::int64_t stride) {
  const auto address = reinterpret_cast<std::uintptr_t>(p) | static_cast<std::uintptr_t>(stride * X::size);
  return V::lanes == 8 || address % (V::lanes * X::size) == 0;
}

template <typename X>
void pack_strip(const void* x, std::int64_t x_stride, int tokens, int cols, int width, float* panel) {
  if (width == 1) {
    int c = 0;
    for (; c + 8 <= cols; c += 8) load8(X{}, element<X>(x, c)).store(panel + c);
    for (; c < cols; ++c) panel[c] = load1(X{}, element<X>(x, c));
    panel[cols] = 0.0f;
    return;
  }
  const bool squares = in_lines<X, Square>(x, x_stride);
  int done = 0;  // columns, of the square of tokens that t is in
  for (int t = 0; t < width; t += 8) {
    const void* first = element<X>(x, t * x_stride);
    const int live = tokens - t;  // may be negative: a strip's empty end
    if (t % Square::lanes == 0)
      done = squares && live >= Square::lanes
                 ? pack_squares<X, Square>(first, x_stride, live, 0, cols, width, panel + t)
                 : 0;
    int c = pack_squares<X, Vec8>(first, x_stride, live, done, cols, width, panel + t);
    for (; c < cols; ++c)
      for (int i = 0; i < 8; ++i)
        panel[c * width + t + i] = i < live ? load1(X{}, element<X>(first, i * x_stride + c)) : 0.0f;
    Vec8::set(0.0f).store(panel + cols * width + t);
  }
}

inline std::uint32_t extreme_bits(float v) {  // 1 for NaN and infinity
  std::uint32_t bits;
  __builtin_memcpy(&bits, &v, sizeof bits);
  return (bits & 0x7f800000u) == 0x7f800000u;
}

template <typename X>
bool pack_rows(const void* x, std::int64_t x_stride, int tokens, int cols, float* panel) {
  std::uint32_t extreme = 0;
  for (int t = 0; t < tokens; ++t, panel += 64) {
    for (int c = 0; c < cols; ++c) {
      panel[c] = load1(X{}, element<X>(x, t * x_stride + c));
      extreme |= extreme_bits(panel[c]);
    }
    for (int c = cols; c < 64; ++c) panel[c] = 0.0f;
  }
  return extreme == 0;
}

template <typename X>
bool all_finite(const void* x, std::int64_t x_stride, std::int64_t tokens, std::int64_t cols) {
  std::uint32_t extreme = 0;
  for (std::int64_t t = 0; t < tokens && extreme == 0; ++t)
    for (std::int64_t c = 0; c < cols; ++c)
      extreme |= extreme_bits(load1(X{}, element<X>(x, t * x_stride + c)));
  return extreme == 0;
}

[[maybe_unused]] void init_strip(const float* bias, int rows, int rows_padded, int width, float* acc) {
  for (int r = 0; r < rows_padded; ++r) {
    const float b = bias && r < rows ? bias[r] : 0.0f;
    for (int t = 0; t < width; ++t) acc[r * width + t] = b;
  }
}

// A vector of columns as eight sums of it.
inline Vec8 fold8(Vec8 v) { return v; }

[[maybe_unused]] void reduce_rows(const float* acc, const std::uint8_t* scales, const float* bias, int rows,
                                  int tokens, float* out) {
  const int width = tokens == 1 ? 1 : 8;
  for (int r = 0; r < (rows + 7) / 8 * 8; ++r)
    for (int t = 0; t < width; ++t) {
      float sum = bias && r < rows ? bias[r] : 0.0f;
      if (r < rows && t < tokens) {
        float v[8];
        fold8(RowVec::load(acc + (r * tokens + t) * RowVec::lanes)).store(v);
        const float all = ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
        sum += scales ? load1(F32{}, scales + r * 4) * all : all;
      }
      out[r * width + t] = sum;
    }
}

template <typename X>
inline void store_some(Vec8 v, int count, std::uint8_t* out) {
  if (count >= 8) return store8(X{}, v, out);
  std::uint8_t tail[8 * X::size];
  store8(X{}, v, tail);
  __builtin_memcpy(out, tail, static_cast<std::size_t>(count) * X::size);
}
template <typename X>
inline Vec8 load_some(const std::uint8_t* from, int count) {
  if (count >= 8) return load8(X{}, from);
  std::uint8_t tail[8 * X::size] = {};
  __builtin_memcpy(tail, from, static_cast<std::size_t>(count) * X::size);
  return load8(X{}, tail);
}

// Where one token's entries of a tile go, and the `other` of Finish there.
struct Target {
  std::uint8_t* y;
  const std::uint8_t* other;
};

template <typename V>
inline V combined(V v, Combine combine, V other) {
  return combine == Combine::add ? v + other : v * other;
}

// Rows from `row` on, `count` of them, of one token.
template <typename X>
inline void finish8(Vec8 v, Combine combine, int count, int row, Target to) {
  if (combine != Combine::none) v = combined(v, combine, load_some<X>(to.other + row * X::size, count));
  store_some<X>(v, count, to.y + row * X::size);
}

inline Vec8 eight(Vec8 v, int) { return v; }
template <typename X, typename V>
inline void finish(V v, Combine combine, int count, int row, Target to) {
  if (X::plain && combine == Combine::none && count >= V::lanes)
    return v.store(reinterpret_cast<float*>(to.y + row * X::size));
  for (int i = 0; i < V::lanes / 8 && 8 * i < count; ++i)
    finish8<X>(eight(v, i), combine, count - 8 * i, row + 8 * i, to);
}

template <typename X, Activation A>
void store_row(const float* acc, int rows, Combine combine, Target to) {  // one token
  for (int r = 0; r < rows; r += 8 * kAbreast) {
    Vec8 v[kAbreast];
    const int some = rows - r < 8 * kAbreast ? (rows - r + 7) / 8 : kAbreast;
    for (int i = 0; i < kAbreast; ++i) v[i] = i < some ? Vec8::load(acc + r + 8 * i) : Vec8::set(0.0f);
    activate<A>(v);
    for (int i = 0; i < some; ++i) finish8<X>(v[i], combine, rows - r - 8 * i, r + 8 * i, to);
  }
}

// The sums of V::lanes rows and as many tokens, turned: v[i] holds the rows of token i.
template <typename V>
inline void load_square(const float* acc, int width, V (&v)[V::lanes]) {
  const float* from = anew(acc);
#pragma GCC unroll 16
  for (int i = 0; i < V::lanes; ++i, from += width) v[i] = V::load(from);
  transpose(v);
}

// V::lanes tokens: squares of the sums are turned and stored along the rows of y, Rows at a time: sixteen
// make whole cache lines. Returns the first row that is left. The other loop order (rows outermost, which
// reads acc once) touches one page of y per token and took twice as long.
template <typename X, Activation A, typename V, int Rows, typename At>
inline int store_squares(const float* acc, int width, int rows, Combine combine, At token) {
  int r = 0;
  for (; r + Rows <= rows; r += Rows) {
    V v[Rows / V::lanes][V::lanes];
#pragma GCC unroll 2
    for (int s = 0; s < Rows / V::lanes; ++s) {
      load_square(acc + (r + s * V::lanes) * width, width, v[s]);
      activate<A>(v[s]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < V::lanes; ++i)
#pragma GCC unroll 2
      for (int s = 0; s < Rows / V::lanes; ++s)
        finish<X>(v[s][i], combine, V::lanes, r + s * V::lanes, token(i));
  }
  return r;
}

template <typename X, Activation A>
void store_block(const float* acc, int width, int rows, int tokens, const Finish& how, Target to,
                 std::int64_t y_stride) {
  // Lines that are a multiple of 4096 bytes apart share one set of L1, which has eight places.
  const bool squares =
      in_lines<X, Square>(to.y, y_stride) && (Square::lanes == 8 || y_stride * X::size % 4096 != 0);
  for (int t = 0, step; t < tokens; t += step) {
    const int live = tokens - t;
    const auto token = [&](int i) {
      return Target{to.y + (t + i) * y_stride * X::size, to.other + (t + i) * how.other_stride * X::size};
    };
    int done = 0;  // rows
    step = 8;
    if (squares && live >= Square::lanes) {
      done = store_squares<X, A, Square, 16>(acc + t, width, rows, how.combine, token);
      step = Square::lanes;
    } else if (live >= 8) {
      done = store_squares<X, A, Vec8, 16>(acc + t, width, rows, how.combine, token);
    }
    for (int r = done; r < rows; r += 8)
      for (int u = 0; u < step; u += 8) {
        Vec8 v[8];
        load_square(acc + r * width + t + u, width, v);
        activate<A>(v);
        for (int i = 0; i < 8 && u + i < live; ++i) finish8<X>(v[i], how.combine, rows - r, r, token(u + i));
      }
  }
}

template <typename X, Activation A>
void store_as(const float* acc, int width, int rows, int tokens, const Finish& how, void* y,
              std::int64_t y_stride) {
  const Target to{static_cast<std::uint8_t*>(y), static_cast<const std::uint8_t*>(how.other)};
  width == 1 ? store_row<X, A>(acc, rows, how.combine, to)
             : store_block<X, A>(acc, width, rows, tokens, how, to, y_stride);
}

// f with the activation as a compile-time constant.
template <typename F>
inline void with_activation(Activation act, F f) {
  switch (act) {
    case Activation::none:
      return f(constant<Activation::none>{});
    case Activation::relu:
      return f(constant<Activation::relu>{});
    case Activation::gelu:
      return f(constant<Activation::gelu>{});
    case Activation::gelu_tanh:
      return f(constant<Activation::gelu_tanh>{});
    case Activation::silu:
      return f(constant<Activation::silu>{});
  }
}

template <typename X>
void store_tile(const float* acc, int width, int rows, int tokens, const Finish& how, void* y,
                std::int64_t y_stride) {
  with_activation(how.activation, [&](auto act) {
    store_as<X, decltype(act)::value>(acc, width, rows, tokens, how, y, y_stride);
  });
}

// count: a multiple of eight.
[[maybe_unused]] void gate(float* acc, const float* up, std::int64_t count, Activation act) {
  with_activation(act, [&](auto a) {
    for (std::int64_t i = 0; i < count; i += 8 * kAbreast) {
      Vec8 v[kAbreast];
      const auto some = count - i < 8 * kAbreast ? static_cast<int>(count - i) / 8 : kAbreast;
      for (int j = 0; j < kAbreast; ++j) v[j] = j < some ? Vec8::load(acc + i + 8 * j) : Vec8::set(0.0f);
      activate<decltype(a)::value>(v);
      for (int j = 0; j < some; ++j) (v[j] * Vec8::load(up + i + 8 * j)).store(acc + i + 8 * j);
    }
  });
}
