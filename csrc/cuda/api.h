// All that leaves libprunus_cuda.so: one table of functions over plain pointers. They queue work on `stream`
// (a cudaStream_t of the current device), allocate nothing and wait for nothing. Each answers with CUDA's
// number of what went wrong, 0 for nothing.
#pragma once
#include <cstdint>

#include "cuda/products.h"
#include "cuda/pruning.h"

namespace prunus::cuda {

// Raised with every change of the table: a library of another build is refused.
inline constexpr int kApiVersion = 2;

struct DeviceInfo {
  char name[128];
  int major, minor;  // compute capability
  int multiprocessors;
  std::uint64_t memory;  // bytes
  int has_code;          // 1: this library has kernels that the device can run
};

struct Api {
  int version;
  const char* architectures;  // that it was compiled for
  const char* (*error_text)(int error);
  int (*device_count)(int* count);
  int (*describe)(int device, DeviceInfo* info);
  const ProductApi* products;
  const PruningApi* pruning;
};

}  // namespace prunus::cuda

extern "C" __attribute__((visibility("default"))) const prunus::cuda::Api* prunus_cuda_api();
