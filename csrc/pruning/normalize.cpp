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

// For float64 lines whose squares leave the range; everything else is a kernel's.
template <class T>
void scale_line(const std::uint8_t* in, std::int64_t n, Factor f, std::uint8_t* out) {
  if (f.scale == 1) return score_kernels<T>().scale(in, n, f.inverse, nullptr, out);
  T* to = reinterpret_cast<T*>(out);
  for (std::int64_t i = 0; i < n; ++i)
    to[i] = from_double<T>(to_double(load<T>(in, i)) * f.scale * f.inverse);
}

template <class T>
void normalize_rows(const Plane& w, std::uint8_t* out) {
  const std::int64_t per_task = std::max<std::int64_t>(1, kChunk / std::max<std::int64_t>(1, w.cols));
  sweep(ceil_div(w.rows, per_task), num_threads(), [&](std::int64_t task, int) {
    for (std::int64_t row = task * per_task; row < std::min(w.rows, (task + 1) * per_task); ++row) {
      const double sum = score_kernels<T>().sum_of_squares(w.at(row, 0), w.cols);
      const Factor f = trusted(sum) ? Factor{1, 1 / std::sqrt(sum)} : careful_factor<T>(w, row, 0, true);
      scale_line<T>(w.at(row, 0), w.cols, f, out + row * w.cols * static_cast<std::int64_t>(sizeof(T)));
    }
  });
}

constexpr std::int64_t kSumRows = 256,
                       kSumCols = 1024;  // a task of the column sums; fixed, so the bits are too

template <class T>
std::vector<Factor> column_factors(const Plane& w) {
  const std::int64_t bands = ceil_div(w.rows, kSumRows), panels = ceil_div(w.cols, kSumCols);
  std::vector<double> sums(static_cast<std::size_t>(bands * w.cols));
  sweep(bands * panels, num_threads(), [&](std::int64_t task, int) {
    const std::int64_t row = task / panels * kSumRows, col = task % panels * kSumCols;
    score_kernels<T>().add_squares(w.at(row, col), w.row_stride * static_cast<std::int64_t>(sizeof(T)),
                                   std::min(kSumRows, w.rows - row), std::min(kSumCols, w.cols - col),
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
void normalize_columns(const Plane& w, std::uint8_t* out) {
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
    const Factor* by = &factors[static_cast<std::size_t>(col)];
    for (std::int64_t row = first; row < std::min(w.rows, first + per_task); ++row) {
      const std::uint8_t* in = w.at(row, col);
      std::uint8_t* to = out + (row * w.cols + col) * static_cast<std::int64_t>(sizeof(T));
      if (scaled) {
        for (std::int64_t j = 0; j < n; ++j)
          reinterpret_cast<T*>(to)[j] =
              from_double<T>(to_double(load<T>(in, j)) * by[j].scale * by[j].inverse);
      } else {
        score_kernels<T>().scale(in, n, 1, &inverse[static_cast<std::size_t>(col)], to);
      }
    }
  });
}

}  // namespace

void normalize(const Plane& w, bool by_row, std::uint8_t* out) {
  if (w.size() == 0) return;
  with_float(w.dtype, [&](auto t) {
    using T = decltype(t);
    by_row ? normalize_rows<T>(w, out) : normalize_columns<T>(w, out);
  });
}

}  // namespace prunus
