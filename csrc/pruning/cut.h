// One budget over any number of parts.
#pragma once
#include <cstdint>
#include <vector>

#include "pruning/nth_key.h"
#include "pruning/scored.h"

namespace prunus {

// Thrown where a key has no order; the caller knows which tensor and says so.
struct NoOrder {};

template <class Key>
using Parts = std::vector<const Scored<Key>*>;

// floor(sparsity * n + 0.5), never more than n.
std::int64_t pruned_count(double sparsity, std::int64_t n);

// Keys of all entries of all parts, in their order. Throws NoOrder.
template <class Key>
std::vector<Key> read_all(const Parts<Key>& parts);

// Writes the masks of all parts: the `prune` lowest entries are dropped, among equals the last of the last
// part first.
template <class Key>
void prune_lowest(const Parts<Key>& parts, std::int64_t prune);

}  // namespace prunus
