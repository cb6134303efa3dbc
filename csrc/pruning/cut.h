// The exact cut of one budget over any number of parts, and the masks that follow from it.
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

// Cut of the entry of `rank` among all entries of all parts. Reads every entry once; memory: 1/16 of the
// keys.
template <class Key>
Cut<Key> find_cut(const Parts<Key>& parts, std::int64_t rank);

// The same by histograms over all entries, a read per 11 bits of key and constant memory: what find_cut falls
// back to when its sample was misleading.
template <class Key>
Cut<Key> find_cut_by_histograms(const Parts<Key>& parts, std::int64_t rank);

// Writes the masks of all parts: the `prune` lowest entries are dropped, among equals the last of the last
// part first.
template <class Key>
void prune_lowest(const Parts<Key>& parts, std::int64_t prune);

}  // namespace prunus
