// Sums of squares, and products into another array. 16-bit elements go through a piece of floats in L1, and
// every product through float64. One text for every isa.

constexpr int kPiece = 1024;  // elements

// n <= kPiece elements as something to calculate with: themselves if possible, else widened into `room`.
inline const float* widened(float, const std::uint8_t* p, int, float*) {
  return reinterpret_cast<const float*>(p);
}
inline const double* widened(double, const std::uint8_t* p, int, double*) {
  return reinterpret_cast<const double*>(p);
}
template <typename Value>
inline const float* widened_halves(Value value, const std::uint8_t* p, int n, float* room) {
  int i = 0;
  for (; i + 8 <= n; i += 8) load8(value, p + i * 2).store(room + i);
  for (; i < n; ++i) room[i] = load1(value, p + i * 2);
  return room;
}
inline const float* widened(f16_t, const std::uint8_t* p, int n, float* room) {
  return widened_halves(F16{}, p, n, room);
}
inline const float* widened(bf16_t, const std::uint8_t* p, int n, float* room) {
  return widened_halves(Bf16{}, p, n, room);
}

template <typename T>
struct Calculated {
  using type = float;
};
template <>
struct Calculated<double> {
  using type = double;
};

// At any alignment.
template <typename F>
inline double double_at(const F* p, std::int64_t i) {
  F v;
  __builtin_memcpy(&v, p + i, sizeof v);
  return v;
}

template <typename T>
double sum_of_squares(const std::uint8_t* p, std::int64_t n) {
  using F = typename Calculated<T>::type;
  F room[kPiece];
  double sums[8] = {};
  for (std::int64_t begin = 0; begin < n; begin += kPiece) {
    const int here = static_cast<int>(n - begin < kPiece ? n - begin : kPiece);
    const F* v = widened(T{}, p + begin * static_cast<std::int64_t>(sizeof(T)), here, room);
    int i = 0;
    for (; i + 8 <= here; i += 8)
      for (int l = 0; l < 8; ++l) sums[l] += double_at(v, i + l) * double_at(v, i + l);
    for (; i < here; ++i) sums[0] += double_at(v, i) * double_at(v, i);
  }
  return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

// Four rows at a time: the sums are loaded and stored once per four.
template <typename T>
void add_squares(const std::uint8_t* p, std::int64_t row_bytes, std::int64_t rows, std::int64_t n,
                 double* sums) {
  using F = typename Calculated<T>::type;
  F room[4][kPiece];
  for (std::int64_t begin = 0; begin < n; begin += kPiece) {
    const int here = static_cast<int>(n - begin < kPiece ? n - begin : kPiece);
    const std::uint8_t* from = p + begin * static_cast<std::int64_t>(sizeof(T));
    double* __restrict to = sums + begin;
    const auto row_at = [&](std::int64_t row, int i) {
      return widened(T{}, from + row * row_bytes, here, room[i]);
    };
    const auto square = [](const F* v, int j) { return double_at(v, j) * double_at(v, j); };
    std::int64_t row = 0;
    for (; row + 4 <= rows; row += 4) {
      const F *a = row_at(row, 0), *b = row_at(row + 1, 1), *c = row_at(row + 2, 2), *d = row_at(row + 3, 3);
      for (int j = 0; j < here; ++j) to[j] += (square(a, j) + square(b, j)) + (square(c, j) + square(d, j));
    }
    for (; row < rows; ++row) {
      const F* a = row_at(row, 0);
      for (int j = 0; j < here; ++j) to[j] += square(a, j);
    }
  }
}

inline void narrowed(const float* from, int n, float*, std::uint8_t* to) {
  __builtin_memcpy(to, from, static_cast<std::size_t>(n) * sizeof(float));
}
inline void narrowed(const double* from, int n, double*, std::uint8_t* to) {
  __builtin_memcpy(to, from, static_cast<std::size_t>(n) * sizeof(double));
}
template <typename Value>
inline void narrowed_halves(Value value, const float* from, int n, std::uint8_t* to) {
  int i = 0;
  for (; i + 8 <= n; i += 8) store8(value, Vec8::load(from + i), to + i * 2);
  if (i == n) return;
  float last[8] = {};
  std::uint8_t room[16];
  __builtin_memcpy(last, from + i, static_cast<std::size_t>(n - i) * sizeof(float));
  store8(value, Vec8::load(last), room);
  __builtin_memcpy(to + i * 2, room, static_cast<std::size_t>(n - i) * 2);
}
inline void narrowed(const float* from, int n, f16_t*, std::uint8_t* to) {
  narrowed_halves(F16{}, from, n, to);
}
inline void narrowed(const float* from, int n, bf16_t*, std::uint8_t* to) {
  narrowed_halves(Bf16{}, from, n, to);
}

template <typename T>
void scale(const std::uint8_t* p, std::int64_t n, double factor, const double* factors, std::uint8_t* out) {
  using F = typename Calculated<T>::type;
  constexpr std::int64_t size = sizeof(T);
  F room[kPiece], product[kPiece];
  for (std::int64_t begin = 0; begin < n; begin += kPiece) {
    const int here = static_cast<int>(n - begin < kPiece ? n - begin : kPiece);
    const F* v = widened(T{}, p + begin * size, here, room);
    // The row after this one comes next, and writing leaves time to fetch it.
    for (std::int64_t i = 0; i < here * size; i += 64) __builtin_prefetch(p + (n + begin) * size + i);
    if (factors) {
      for (int i = 0; i < here; ++i) product[i] = static_cast<F>(double_at(v, i) * factors[begin + i]);
    } else {
      for (int i = 0; i < here; ++i) product[i] = static_cast<F>(double_at(v, i) * factor);
    }
    narrowed(product, here, static_cast<T*>(nullptr), out + begin * size);
  }
}
