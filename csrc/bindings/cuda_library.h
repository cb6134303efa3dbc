// libprunus_cuda.so, once it is open.
#pragma once
#include <string>

#include "cuda/api.h"

namespace prunus::bindings {

// The table; throws std::runtime_error before a library was opened.
const cuda::Api& cuda_api();
// Throws std::runtime_error, in CUDA's words, unless error is 0.
void check_cuda(int error, const char* what);

}  // namespace prunus::bindings
