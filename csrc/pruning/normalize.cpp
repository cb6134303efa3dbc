#include "pruning/normalize.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "pruning/floats.h"
#include "pruning/keys.h"
#include "pruning/sweep.h"

namespace prunus {
namespace {

// A line is multiplied by scale and then by inverse; scale is 1 but for float64 lines that need it.
struct Factor {
  double scale, inverse;
};

// What the sum of squares says, if it can be trusted.
bool trusted(double sum) { return sum > 0x1p-900 && sum < 0x1p1000; }

// Of the line w[0], w[step], ...: the power of two that brings its largest entry near 1, then the sum again.
template <class T>
Factor careful_factor(const Plane& w, std::int64_t row, std::int64_t col, bool by_row) {
  const std::int64_t n = by_row ? w.cols : w.rows;
  const auto at = [&](std::int64_t i) {
    return std::fabs(to_double(load<T>(by_row ? w.at(row, i) : w.at(i, col), 0)));
  };
  double largest = 0, sum = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    if (std::isnan(at(i))) return {1, at(i)};
    largest = std::max(largest, at(i));
  }
  if (largest == 0 || std::isinf(largest)) return {1, 0};
  const double scale = std::ldexp(1.0, std::clamp(-std::ilogb(largest), -1022, 1023));
  for (std::int64_t i = 0; i < n; ++i) sum += (at(i) * scale) * (at(i) * scale);
  return {scale, 1 / std::sqrt(sum)};
}

template <class T>
void scale_line(const std::uint8_t* __restrict in, std::int64_t n, Factor f, T* __restrict out) {
  if (f.scale == 1) {
    for (std::int64_t i = 0; i < n; ++i) out[i] = from_double<T>(to_double(load<T>(in, i)) * f.inverse);
  } else {
    for (std::int64_t i = 0; i < n; ++i)
      out[i] = from_double<T>(to_double(load<T>(in, i)) * f.scale * f.inverse);
  }
}

template <class T>
double sum_of_squares(const std::uint8_t* p, std::int64_t n) {
  constexpr std::int64_t lanes = 8;
  double sums[lanes] = {};
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (std::int64_t l = 0; l < lanes; ++l) {
      const double v = to_double(load<T>(p, i + l));
      sums[l] += v * v;
    }
  for (; i < n; ++i) {
    const double v = to_double(load<T>(p, i));
    sums[0] += v * v;
  }
  return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

template <class T>
void normalize_rows(const Plane& w, T* out) {
  const std::int64_t per_task = std::max<std::int64_t>(1, kChunk / std::max<std::int64_t>(1, w.cols));
  sweep(ceil_div(w.rows, per_task), num_threads(), [&](std::int64_t task, int) {
    for (std::int64_t row = task * per_task; row < std::min(w.rows, (task + 1) * per_task); ++row) {
      const double sum = sum_of_squares<T>(w.at(row, 0), w.cols);
      const Factor f = trusted(sum) ? Factor{1, 1 / std::sqrt(sum)} : careful_factor<T>(w, row, 0, true);
      scale_line(w.at(row, 0), w.cols, f, out + row * w.cols);
    }
  });
}

constexpr std::int64_t kSumRows = 256,
                       kSumCols = 1024;  // a task of the column sums; fixed, so the bits are too

// sums[j] += squares of column j over four rows at a time: the sums are loaded and stored once per four.
template <class T>
void add_squares(const Plane& w, std::int64_t row, std::int64_t rows, std::int64_t col, std::int64_t cols,
                 double* __restrict sums) {
  const auto square = [](const std::uint8_t* p, std::int64_t j) {
    const double v = to_double(load<T>(p, j));
    return v * v;
  };
  const std::int64_t end = row + rows;
  for (; row + 4 <= end; row += 4) {
    const std::uint8_t *a = w.at(row, col), *b = w.at(row + 1, col), *c = w.at(row + 2, col),
                       *d = w.at(row + 3, col);
    for (std::int64_t j = 0; j < cols; ++j)
      sums[j] += (square(a, j) + square(b, j)) + (square(c, j) + square(d, j));
  }
  for (; row < end; ++row) {
    const std::uint8_t* a = w.at(row, col);
    for (std::int64_t j = 0; j < cols; ++j) sums[j] += square(a, j);
  }
}

template <class T>
std::vector<Factor> column_factors(const Plane& w) {
  const std::int64_t bands = ceil_div(w.rows, kSumRows), panels = ceil_div(w.cols, kSumCols);
  std::vector<double> sums(static_cast<std::size_t>(bands * w.cols));
  sweep(bands * panels, num_threads(), [&](std::int64_t task, int) {
    const std::int64_t row = task / panels * kSumRows, col = task % panels * kSumCols;
    add_squares<T>(w, row, std::min(kSumRows, w.rows - row), col, std::min(kSumCols, w.cols - col),
                   &sums[static_cast<std::size_t>(task / panels * w.cols + col)]);
  });
  std::vector<Factor> factors(static_cast<std::size_t>(w.cols));
  for (std::int64_t band = 1; band < bands; ++band)
    for (std::int64_t j = 0; j < w.cols; ++j)
      sums[static_cast<std::size_t>(j)] += sums[static_cast<std::size_t>(band * w.cols + j)];
  for (std::int64_t j = 0; j < w.cols; ++j) {
    const double sum = sums[static_cast<std::size_t>(j)];
    factors[static_cast<std::size_t>(j)] =
        trusted(sum) ? Factor{1, 1 / std::sqrt(sum)} : careful_factor<T>(w, 0, j, false);
  }
  return factors;
}

template <class T>
void normalize_columns(const Plane& w, T* out) {
  const std::vector<Factor> factors = column_factors<T>(w);
  std::vector<double> inverse;
  bool scaled = false;
  for (const Factor& f : factors) {
    inverse.push_back(f.inverse);
    scaled |= f.scale != 1;
  }
  const std::int64_t panels = ceil_div(w.cols, kChunk), per_task = std::max<std::int64_t>(1, kChunk / w.cols);
  sweep(ceil_div(w.rows, per_task) * panels, num_threads(), [&](std::int64_t task, int) {
    const std::int64_t col = task % panels * kChunk, n = std::min(kChunk, w.cols - col),
                       first = task / panels * per_task;
    const double* __restrict by = &inverse[static_cast<std::size_t>(col)];
    for (std::int64_t row = first; row < std::min(w.rows, first + per_task); ++row) {
      const std::uint8_t* __restrict in = w.at(row, col);
      T* __restrict to = out + row * w.cols + col;
      if (scaled) {
        for (std::int64_t j = 0; j < n; ++j)
          to[j] = from_double<T>(to_double(load<T>(in, j)) *
                                 factors[static_cast<std::size_t>(col + j)].scale * by[j]);
      } else {
        for (std::int64_t j = 0; j < n; ++j) to[j] = from_double<T>(to_double(load<T>(in, j)) * by[j]);
      }
    }
  });
}

}  // namespace

void normalize(const Plane& w, bool by_row, std::uint8_t* out) {
  if (w.size() == 0) return;
  with_float(w.dtype, [&](auto t) {
    using T = decltype(t);
    T* to = reinterpret_cast<T*>(out);
    by_row ? normalize_rows<T>(w, to) : normalize_columns<T>(w, to);
  });
}

}  // namespace prunus
