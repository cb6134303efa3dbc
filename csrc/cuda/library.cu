// The table of functions, and what the library knows about devices.
#include "cuda/api.h"
#include "cuda/device.h"

namespace prunus::cuda {
namespace {

// Any kernel will do to ask whether the device has code for it.
__global__ void nothing() {}

#ifdef PRUNUS_CUDA_ON_HOST
constexpr const char* kArchitectures = "host";
#else
constexpr const char* kArchitectures = PRUNUS_CUDA_ARCHITECTURES;
#endif

const char* error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

int device_count(int* count) { return static_cast<int>(cudaGetDeviceCount(count)); }

int describe(int device, DeviceInfo* info) {
  cudaDeviceProp properties{};
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, device)) return static_cast<int>(error);
  for (int i = 0; i < 127; ++i) info->name[i] = properties.name[i];
  info->name[127] = 0;
  info->major = properties.major;
  info->minor = properties.minor;
  info->multiprocessors = properties.multiProcessorCount;
  info->memory = properties.totalGlobalMem;
  int before = 0;
  if (const cudaError_t error = cudaGetDevice(&before)) return static_cast<int>(error);
  if (const cudaError_t error = cudaSetDevice(device)) return static_cast<int>(error);
  cudaFuncAttributes attributes{};
  info->has_code = cudaFuncGetAttributes(&attributes, nothing) == cudaSuccess;
  static_cast<void>(cudaGetLastError());  // the question leaves its answer behind
  return static_cast<int>(cudaSetDevice(before));
}

const Api kApi = {kApiVersion, kArchitectures, error_text, device_count, describe, &kProducts, &kPruning};

}  // namespace
}  // namespace prunus::cuda

const prunus::cuda::Api* prunus_cuda_api() { return &prunus::cuda::kApi; }
