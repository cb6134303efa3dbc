// Products with a packed weight.
#pragma once
#include "cuda/api.h"

namespace prunus::cuda {

int linear(const Linear& call, void* stream);

}  // namespace prunus::cuda
