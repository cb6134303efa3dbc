// For many tokens: the dense weight, which somebody else multiplies, and what comes after the product.
#pragma once
#include "cuda/api.h"

namespace prunus::cuda {

int expand(const Packed& w, int dtype, void* out, void* stream);
int finish(const Linear& call, const void* sums, void* stream);

}  // namespace prunus::cuda
