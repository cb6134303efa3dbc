// Many small budgets: one per line of memory.
#pragma once
#include <cstdint>

#include "pruning/scored.h"

namespace prunus {

// Of every `length` consecutive entries the `prune` lowest are dropped. length divides the size.
template <class Key>
void prune_groups(const Scored<Key>& part, std::int64_t length, std::int64_t prune);

// Of every column of the plane the `prune` lowest entries are dropped.
template <class T>
void prune_columns(const Plane& plane, const MaskPlane& mask, std::int64_t prune);

}  // namespace prunus
