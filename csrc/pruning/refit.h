// Least squares on the weights that are kept, every row on its own.
#pragma once
#include <cstdint>

namespace prunus {

// Row i of the answer v solves matrix[S, S] v[S] = target[i, S], S the columns that the row keeps, and is
// zero elsewhere. All contiguous. matrix: (k, k), symmetric, positive definite; conjugate gradients are fast
// where its diagonal is near 1. start: where they begin.
struct Refit {
  const float* matrix;
  const std::uint8_t* mask;  // (n, k), not 0: keep
  const float* target;       // (n, k)
  const float* start;        // (n, k)
  std::int64_t n, k;
  int iterations;    // at most, of every row
  double tolerance;  // a row is done when its residual is this part of the start's
};

// Writes v (n, k); the most iterations that a row took. Memory: per thread, the square of the longest row.
// Throws ValueError when k does not fit an int, and what check_interrupt does.
std::int64_t refit(const Refit& problem, float* out);

}  // namespace prunus
