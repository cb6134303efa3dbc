// Which structure the nonzeros of a weight have: N:M groups, blocks or none.
#pragma once
#include <cstdint>
#include <vector>

#include "formats/pack.h"

namespace prunus {

// Strips of rows, spread evenly, as bits.
struct Sample {
  static constexpr int strip_rows = 32, most_strips = 8;
  std::int64_t words;
  std::vector<std::uint64_t> bits;  // [strip][strip_rows][words]
  std::int64_t strips, rows = 0;
  std::uint64_t nnz = 0;
  const std::uint64_t* row(std::int64_t strip, int r) const {
    return bits.data() + (strip * strip_rows + r) * words;
  }
};
Sample take_sample(const Dense& w, const KeptBits& kept);

// The shape that stores the sample in nearly the fewest bytes. filled: share of its slots that hold a
// nonzero.
struct BlockFit {
  Unit unit;
  double filled;
};
BlockFit best_block(const Dense& w, const Sample& sample, Dtype dtype);

// The n:m with the fewest slots per column, the smallest m among equals. {0, 0}: no group size leaves a zero.
Unit best_nm(const Sample& sample, std::int64_t k, double density);

// Most nonzeros in any group of m columns of any row.
int most_in_group(const Dense& w, const KeptBits& kept, int m);

}  // namespace prunus
