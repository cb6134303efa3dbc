// Products of rows and columns at some places only (SDDMM): the gradient of the values that a weight keeps.
// One text for every isa.

// Tokens side by side are the lanes. A row's stay in registers while its entries are walked, so that an entry
// costs a load for every multiply-add.
constexpr int kSampledVectors = Vec::lanes < 8 ? 16 : 8;
constexpr int kSampledTokens = kSampledVectors * Vec::lanes;

// Sums of lanes are taken for many entries at once, whatever rows these are of: a row has few in a tile, and
// what is in registers for it would have to make room.
constexpr int kSampledBatch = 64;

inline Vec sampled_entry(const Vec (&row)[kSampledVectors], const float* x) {
  Vec sum = Vec::set(0.0f);
#pragma GCC unroll 16
  for (int v = 0; v < kSampledVectors; ++v) sum = fma(row[v], Vec::load(x + v * Vec::lanes), sum);
  return sum;
}

// *to[i] += the sum of the lanes of entry i.
__attribute__((noinline)) void add_sampled(const float* lanes, float* const* to, int count) {
  for (int first = 0; first < count; first += 8) {
    Vec sums[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) sums[i] = Vec::load(lanes + (first + i) * Vec::lanes);
    float all[8];
    sums_of(sums).store(all);
    const int here = count - first < 8 ? count - first : 8;
    for (int i = 0; i < here; ++i) *to[first + i] += all[i];
  }
}

[[maybe_unused]] void sampled(const SampledArgs& args) {
  const SampledArgs a = args;  // a copy, which the compiler may keep in registers
  float lanes[kSampledBatch * Vec::lanes] = {};
  float *to[kSampledBatch], *lane = lanes, **entry = to;
  const std::int32_t* first = a.first;
  const float* row = a.rows;
  for (int r = 0; r < a.row_count; ++r, first += a.stride, row += kSampledTokens) {
    const std::uint8_t *column = a.column + first[0], *const end = a.column + first[1];
    if (column == end) continue;
    float* sum = a.sums + first[0];
    Vec y[kSampledVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kSampledVectors; ++v) y[v] = Vec::load(row + v * Vec::lanes);
    for (; column != end; ++column) {
      sampled_entry(y, a.columns + *column * kSampledTokens).store(lane);
      lane += Vec::lanes;
      *entry++ = sum++;
      if (entry == to + kSampledBatch) {
        add_sampled(lanes, to, kSampledBatch);
        lane = lanes;
        entry = to;
      }
    }
  }
  add_sampled(lanes, to, static_cast<int>(entry - to));
}
