// What surrounds the col8 kernel: activations into panels, accumulators out to rows of y.

void pack_panel(const float* x, std::int64_t x_stride, int tokens, int cols, int width, float* panel) {
  if (width == 1) {
    __builtin_memcpy(panel, x, static_cast<std::size_t>(cols) * sizeof(float));
    panel[cols] = 0.0f;
    return;
  }
  for (int t = 0; t < width; t += 8) {
    const int live = tokens - t < 8 ? tokens - t : 8;  // may be negative: a strip's empty end
    int c = 0;
    for (; c + 8 <= cols; c += 8) {
      Vec8 r[8];
      for (int i = 0; i < 8; ++i) r[i] = i < live ? Vec8::load(x + (t + i) * x_stride + c) : Vec8::set(0.0f);
      transpose8(r);
      for (int i = 0; i < 8; ++i) r[i].store(panel + (c + i) * width + t);
    }
    for (; c < cols; ++c)
      for (int i = 0; i < 8; ++i) panel[c * width + t + i] = i < live ? x[(t + i) * x_stride + c] : 0.0f;
    Vec8::set(0.0f).store(panel + cols * width + t);
  }
}

void init_acc(const float* bias, int rows, int rows_padded, int width, float* acc) {
  for (int r = 0; r < rows_padded; ++r) {
    const float b = bias && r < rows ? bias[r] : 0.0f;
    for (int t = 0; t < width; ++t) acc[r * width + t] = b;
  }
}

template <Activation A>
void store_row(const float* acc, int rows, float* y) {  // one token
  for (int r = 0; r < rows; r += 8) {
    const Vec8 v = activate8<A>(Vec8::load(acc + r));
    if (rows - r >= 8) {
      v.store(y + r);
    } else {
      float tail[8];
      v.store(tail);
      __builtin_memcpy(y + r, tail, static_cast<std::size_t>(rows - r) * sizeof(float));
    }
  }
}

template <Activation A>
void store_block(const float* acc, int width, int rows, int tokens, float* y, std::int64_t y_stride) {
  for (int t = 0; t < tokens; t += 8)
    for (int r = 0; r < rows; r += 8) {
      Vec8 v[8];
      for (int i = 0; i < 8; ++i) v[i] = activate8<A>(Vec8::load(acc + (r + i) * width + t));
      transpose8(v);
      const int live = tokens - t < 8 ? tokens - t : 8;
      for (int i = 0; i < live; ++i) {
        float* out = y + (t + i) * y_stride + r;
        if (rows - r >= 8) {
          v[i].store(out);
        } else {
          float tail[8];
          v[i].store(tail);
          __builtin_memcpy(out, tail, static_cast<std::size_t>(rows - r) * sizeof(float));
        }
      }
    }
}

template <Activation A>
void store_as(const float* acc, int width, int rows, int tokens, float* y, std::int64_t y_stride) {
  width == 1 ? store_row<A>(acc, rows, y) : store_block<A>(acc, width, rows, tokens, y, y_stride);
}

void store_tile(const float* acc, int width, int rows, int tokens, Activation act, float* y,
                std::int64_t y_stride) {
  switch (act) {
    case Activation::none:
      return store_as<Activation::none>(acc, width, rows, tokens, y, y_stride);
    case Activation::relu:
      return store_as<Activation::relu>(acc, width, rows, tokens, y, y_stride);
    case Activation::gelu:
      return store_as<Activation::gelu>(acc, width, rows, tokens, y, y_stride);
    case Activation::gelu_tanh:
      return store_as<Activation::gelu_tanh>(acc, width, rows, tokens, y, y_stride);
    case Activation::silu:
      return store_as<Activation::silu>(acc, width, rows, tokens, y, y_stride);
  }
}
