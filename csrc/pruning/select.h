// Scores in, masks out. Exact: of every group of g entries floor(sparsity * g + 0.5) are pruned, the lowest
// scores first and among equal scores the later entry first, for any number of threads. All throw ValueError
// naming the scores that hold NaN. Masks have the plane's rows and cols.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "pruning/plane.h"

namespace prunus {

enum class Scope { tensor, row, column };

struct Selection {
  Plane scores;
  MaskPlane mask;
  std::string name;  // in errors: "scores", "scores[3]"
};

void select_unstructured(const Selection& s, double sparsity, Scope scope);

// One budget over all entries of all selections; dtypes may differ (their values are compared exactly).
void select_global(const std::vector<Selection>& all, double sparsity);

// n kept of every m consecutive entries of a row (the caller's rows). m divides the row length.
void select_nm(const Selection& s, std::int64_t n, std::int64_t m);

// Whole blocks of rows x cols, scored by the sum of their entries in float64; blocks at the edge are scaled
// up to the count of a whole block.
void select_blocks(const Selection& s, std::int64_t rows, std::int64_t cols, double sparsity);

}  // namespace prunus
