// Kernels that start before the one in front of them in the stream has ended (programmatic dependent launch,
// of sm_90): starting one, and the first looks at memory, take longer than a small product. Such a kernel
// says first that the next may start, fetches what it will read into L2, and waits; until then it reads
// nothing that counts and writes nothing.
#pragma once
#include "cuda/device.h"

namespace prunus::cuda {

#ifdef PRUNUS_CUDA_ON_HOST

inline void let_next_start() {}
inline void wait_for_those_before() {}
inline void prefetch_l2(const void*) {}
template <typename... Parameters, typename... Arguments>
int launch_overlapped(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes,
                      void* stream, Arguments... arguments) {
  return launch(kernel, grid, block, shared_bytes, stream, arguments...);
}

#else

__device__ __forceinline__ void let_next_start() {
#  if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#  endif
}
__device__ __forceinline__ void wait_for_those_before() {
#  if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#  endif
}
__device__ __forceinline__ void prefetch_l2(const void* p) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

// Whether the device runs code of this kernel that waits: code for sm_80 does not, also where a newer device
// runs it.
template <typename Kernel>
bool waits(Kernel* kernel) {
  cudaFuncAttributes attributes{};
  const bool known = cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess;
  return known && attributes.ptxVersion >= 90 && attributes.binaryVersion >= 90;
}

// `launch` for a kernel that calls the functions above.
template <typename... Parameters, typename... Arguments>
int launch_overlapped(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes,
                      void* stream, Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return 0;
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t how{};
  how.gridDim = grid, how.blockDim = block, how.dynamicSmemBytes = shared_bytes;
  how.stream = static_cast<cudaStream_t>(stream);
  how.attrs = &early, how.numAttrs = waits(kernel) ? 1 : 0;
  return static_cast<int>(cudaLaunchKernelEx(&how, kernel, arguments...));
}

#endif

}  // namespace prunus::cuda
