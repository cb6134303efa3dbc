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
