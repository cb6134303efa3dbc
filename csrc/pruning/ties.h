// Entries equal to the cut of which only the last ones are pruned.
#pragma once
#include <cstdint>
#include <vector>

#include "pruning/chunks.h"
#include "pruning/flags.h"

namespace prunus {

struct TieDrop {
  std::int64_t task, count;  // the last `count` ties of this chunk are dropped
};

// Shares floor.drop out from the end: ties[task] is the number of ties in each chunk. Parts with ties in
// column order are dealt with here, so every flag must have been written, with ties kept.
template <class Key>
std::vector<TieDrop> share_ties(const Parts<Key>& parts, const Chunks<Key>& chunks,
                                const std::vector<std::int32_t>& ties, const Floor<Key>& floor);

}  // namespace prunus
