// N:M masks by counting: an entry stays when fewer than n of its group beat it.
#pragma once
#include <cstdint>

#include "pruning/scored.h"

namespace prunus {

// m^2 compares per group; larger groups select one by one.
inline constexpr std::int64_t kCountedGroup = kNMLargest;

// Groups of m <= kCountedGroup consecutive entries of a row of the part's grid, or of a column where
// by_column.
template <class Key>
void prune_nm(const Scored<Key>& part, std::int64_t n, std::int64_t m);

}  // namespace prunus
