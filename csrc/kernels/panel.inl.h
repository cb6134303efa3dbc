// What surrounds the tile kernels: activations into panels, accumulators out to rows of y.

// X is the dtype of x and y (simd/values.h). Rows of x are X::size * stride bytes apart, at any alignment.
template <typename X>
inline const std::uint8_t* element(const void* x, std::int64_t i) {
  return static_cast<const std::uint8_t*>(x) + i * X::size;
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
  for (int t = 0; t < width; t += 8) {
    const int live = tokens - t < 8 ? tokens - t : 8;  // may be negative: a strip's empty end
    int c = 0;
    for (; c + 8 <= cols; c += 8) {
      Vec8 r[8];
      for (int i = 0; i < 8; ++i)
        r[i] = i < live ? load8(X{}, element<X>(x, (t + i) * x_stride + c)) : Vec8::set(0.0f);
      transpose8(r);
      for (int i = 0; i < 8; ++i) r[i].store(panel + (c + i) * width + t);
    }
    for (; c < cols; ++c)
      for (int i = 0; i < 8; ++i)
        panel[c * width + t + i] = i < live ? load1(X{}, element<X>(x, (t + i) * x_stride + c)) : 0.0f;
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

void init_strip(const float* bias, int rows, int rows_padded, int width, float* acc) {
  for (int r = 0; r < rows_padded; ++r) {
    const float b = bias && r < rows ? bias[r] : 0.0f;
    for (int t = 0; t < width; ++t) acc[r * width + t] = b;
  }
}

void reduce_rows(const float* acc, const float* bias, int rows, int tokens, float* out) {
  const int width = tokens == 1 ? 1 : 8;
  for (int r = 0; r < (rows + 7) / 8 * 8; ++r)
    for (int t = 0; t < width; ++t) {
      float sum = bias && r < rows ? bias[r] : 0.0f;
      if (r < rows && t < tokens) {
        const float* v = acc + (r * tokens + t) * 8;
        sum += ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
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

template <typename X>
inline void finish8(Vec8 v, Combine combine, int count, int row, Target to) {
  if (combine != Combine::none) {
    const Vec8 other = load_some<X>(to.other + row * X::size, count);
    v = combine == Combine::add ? v + other : v * other;
  }
  store_some<X>(v, count, to.y + row * X::size);
}

template <typename X, Activation A>
void store_row(const float* acc, int rows, Combine combine, Target to) {  // one token
  for (int r = 0; r < rows; r += 8) finish8<X>(activate8<A>(Vec8::load(acc + r)), combine, rows - r, r, to);
}

// Eight accumulators from row r on, activated and turned: v[i] holds eight rows of token t + i.
template <Activation A>
inline void turn8(const float* acc, int width, Vec8 (&v)[8]) {
  for (int i = 0; i < 8; ++i) v[i] = activate8<A>(Vec8::load(acc + i * width));
  transpose8(v);
}

// Eight tokens at a time, along their rows: sixteen rows make whole cache lines of y. The other loop order
// (rows outermost, which reads acc once) touches one page of y per token and took twice as long.
template <typename X, Activation A>
void store_block(const float* acc, int width, int rows, int tokens, const Finish& how, Target to,
                 std::int64_t y_stride) {
  const auto token = [&](int t) {
    return Target{to.y + t * y_stride * X::size, to.other + t * how.other_stride * X::size};
  };
  for (int t = 0; t < tokens; t += 8) {
    const int live = tokens - t < 8 ? tokens - t : 8;
    int r = 0;
    for (; live == 8 && r + 16 <= rows; r += 16) {
      Vec8 lo[8], hi[8];
      turn8<A>(acc + r * width + t, width, lo);
      turn8<A>(acc + (r + 8) * width + t, width, hi);
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        finish8<X>(lo[i], how.combine, 8, r, token(t + i));
        finish8<X>(hi[i], how.combine, 8, r + 8, token(t + i));
      }
    }
    for (; r < rows; r += 8) {
      Vec8 v[8];
      turn8<A>(acc + r * width + t, width, v);
      for (int i = 0; i < live; ++i) finish8<X>(v[i], how.combine, rows - r, r, token(t + i));
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

void gate(float* acc, const float* up, std::int64_t count, Activation act) {
  with_activation(act, [&](auto a) {
    for (std::int64_t i = 0; i < count; i += 8)
      (activate8<decltype(a)::value>(Vec8::load(acc + i)) * Vec8::load(up + i)).store(acc + i);
  });
}
