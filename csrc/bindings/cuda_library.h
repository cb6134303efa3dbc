// libprunus_cuda.so, once it is open.
#pragma once
#include <string>

#include "cuda/api.h"

namespace prunus::bindings {

// The table, or nullptr before a library was opened.
const cuda::Api* cuda_api_if_open();
// The table; throws std::runtime_error with the reason where there is none.
const cuda::Api& cuda_api();
// Throws std::runtime_error, in CUDA's words, unless error is 0.
void check_cuda(int error, const char* what);

}  // namespace prunus::bindings
