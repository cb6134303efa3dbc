// All that leaves libprunus_cuda.so: one table of functions over plain pointers. They queue work on `stream`
// (a cudaStream_t of the current device), allocate nothing and wait for nothing. Each answers with CUDA's
// number of what went wrong, 0 for nothing.
#pragma once
#include <cstdint>

namespace prunus::cuda {

// Raised with every change of the table: a library of another build is refused.
inline constexpr int kApiVersion = 1;

struct DeviceInfo {
  char name[128];
  int major, minor;  // compute capability
  int multiprocessors;
  std::uint64_t memory;  // bytes
  int has_code;          // 1: this library has kernels that the device can run
};

// A packed weight of format warp, aligned to 16 bytes. What of the bytes does not fit n and k, which only the
// device can see, gives NaN.
struct Packed {
  const std::uint8_t* data;
  std::uint64_t bytes;
  std::int64_t n, k;
};

// y (m, n) = activation(x (m, k) . w^T + bias) + residual. Dtypes are numbers of core/dtypes.def.
struct Linear {
  Packed w;
  std::int64_t m;
  int dtype;  // of x, residual and y: float32, float16 or bfloat16
  const void* x;
  std::int64_t x_stride;  // of a token, in elements
  const void* bias;       // (n), or nullptr
  int bias_dtype;
  const void* residual;  // or nullptr
  std::int64_t residual_stride;
  int activation;  // core/activation.h
  int times_y;     // 1: what y holds is multiplied in, for gated
  void* y;         // (m, n)
};

struct Api {
  int version;
  const char* architectures;  // that it was compiled for
  const char* (*error_text)(int error);
  int (*device_count)(int* count);
  int (*describe)(int device, DeviceInfo* info);
  int (*linear)(const Linear& call, void* stream);
  // The weight as an ordinary one: out (n, k) of `dtype`.
  int (*expand)(const Packed& w, int dtype, void* out, void* stream);
  // What `linear` does with its sums, for sums (m, n) of somebody else; of `call` neither w.data nor x is
  // read.
  int (*finish)(const Linear& call, const void* sums, void* stream);
};

}  // namespace prunus::cuda

extern "C" __attribute__((visibility("default"))) const prunus::cuda::Api* prunus_cuda_api();
