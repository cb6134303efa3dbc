// A guess of where the cut lies.
#pragma once
#include "pruning/keys.h"

namespace prunus {

template <class Key>
struct Bracket {
  Key low, high;  // low < high
  bool ends;      // so many entries may equal low or high that these are counted apart
};

}  // namespace prunus
