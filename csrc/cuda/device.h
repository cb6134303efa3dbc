// The words of CUDA that kernels use, from one place: the real ones under nvcc, or their model on the host
// (tests/cuda/host), with which the same text is tested where there is no GPU.
#pragma once
#include <cstddef>
#include <cstdint>

#ifdef PRUNUS_CUDA_ON_HOST
#  include <cuda_on_host.h>
#else
#  include <cuda_runtime.h>

#  define PRUNUS_DYNAMIC_SHARED(type, name)                              \
    extern __shared__ __align__(16) unsigned char prunus_shared_bytes[]; \
    type* const name = reinterpret_cast<type*>(prunus_shared_bytes)

namespace prunus::cuda {

// Starts a kernel; the answer is CUDA's number of what went wrong, 0 for nothing. No kernel waits for another
// one of ours: they follow each other in their stream.
template <typename... Parameters, typename... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes, void* stream,
           Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return 0;
  // clang-format off: it would put spaces into the last token.
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(arguments...);
  // clang-format on
  return static_cast<int>(cudaGetLastError());
}

}  // namespace prunus::cuda
#endif

namespace prunus::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

}  // namespace prunus::cuda
