// A group of 8 rows in col8's layout (values [steps][8] floats, columns [steps][8]) whose zeros must not be
// multiplied, because x holds NaN or infinity. Strips of 8 tokens; rare, so the text is short, not fast.
inline void walk_careful(const std::uint8_t* order, const std::uint8_t* values, const std::uint8_t* columns,
                         int steps, const float* panel, float* acc) {
  for (int lane = 0; lane < 8; ++lane) {
    Vec8 sum = Vec8::load(acc + order[lane] * 8);
    for (int q = 0; q < steps; ++q) {
      const float w = load1(F32{}, values + (q * 8 + lane) * 4);
      if (w != 0.0f) sum = fma(Vec8::set(w), Vec8::load(panel + columns[q * 8 + lane] * 8), sum);
    }
    sum.store(acc + order[lane] * 8);
  }
}

// Whether no element of x (tokens, cols) is NaN or infinity.
bool all_finite(const float* x, std::int64_t x_stride, std::int64_t tokens, std::int64_t cols) {
  std::uint32_t extreme = 0;
  for (std::int64_t t = 0; t < tokens && extreme == 0; ++t, x += x_stride)
    for (std::int64_t c = 0; c < cols; ++c) {
      std::uint32_t bits;
      __builtin_memcpy(&bits, x + c, sizeof bits);
      extreme |= (bits & 0x7f800000u) == 0x7f800000u;
    }
  return extreme == 0;
}
