#include "bindings/torch_shim.h"

#include <dlfcn.h>

#include <stdexcept>

namespace prunus::torch_shim {

Functions functions{};

std::string load(const std::string& torch_version) {
  // NOLOAD: only the library of the torch that is imported, never a second copy from another path.
  void* library = dlopen("libtorch_cpu.so", RTLD_NOLOAD | RTLD_LAZY);
  if (!library) return "torch " + torch_version + ": expected libtorch_cpu.so in this process, got none";
  Functions found{};
#define PRUNUS_TORCH_LOOKUP(result, name, parameters)                         \
  found.name = reinterpret_cast<result(*) parameters>(dlsym(library, #name)); \
  if (!found.name)                                                            \
    return "torch " + torch_version + ": expected the symbol " #name " (torch >= 2.10), got none";
  PRUNUS_TORCH_FUNCTIONS(PRUNUS_TORCH_LOOKUP)
#undef PRUNUS_TORCH_LOOKUP
  functions = found;
  return "";
}

const CudaFunctions& cuda_functions() {
  static const CudaFunctions found = [] {
    CudaFunctions table{};
    void* library = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
    if (!library) throw std::runtime_error("torch: expected libtorch_cuda.so in this process, got none");
#define PRUNUS_TORCH_LOOKUP(result, name, parameters)                         \
  table.name = reinterpret_cast<result(*) parameters>(dlsym(library, #name)); \
  if (!table.name) throw std::runtime_error("torch: expected the symbol " #name ", got none");
    PRUNUS_TORCH_CUDA_FUNCTIONS(PRUNUS_TORCH_LOOKUP)
#undef PRUNUS_TORCH_LOOKUP
    return table;
  }();
  return found;
}

}  // namespace prunus::torch_shim
