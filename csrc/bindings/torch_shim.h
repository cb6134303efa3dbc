// torch's stable C ABI without torch: prototypes of the functions used, found in the libtorch_cpu that the
// process already loaded. Every one exists since torch 2.10. torch_prototypes_check.cpp compares them with
// the real headers.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

// The same names and kinds as in torch's headers, so that both can be included in one file.
struct AtenTensorOpaque;
using AtenTensorHandle = AtenTensorOpaque*;
class TorchLibraryOpaque;
using TorchLibraryHandle = TorchLibraryOpaque*;
struct StableListOpaque;
using StableListHandle = StableListOpaque*;
using AOTITorchError = std::int32_t;
using StableIValue = std::uint64_t;

namespace prunus::torch_shim {

using Kernel = void (*)(StableIValue* stack, std::uint64_t inputs, std::uint64_t outputs);
using Range = void (*)(std::int64_t begin, std::int64_t end, void* context);

// torch translates what crosses the boundary for this version of the ABI (2.10.0).
inline constexpr std::uint64_t kAbiVersion = (std::uint64_t{2} << 56) | (std::uint64_t{10} << 48);

// X(return type, name, parameters)
#define PRUNUS_TORCH_FUNCTIONS(X)                                                                      \
  X(AOTITorchError, aoti_torch_get_dim, (AtenTensorHandle, std::int64_t*))                             \
  X(AOTITorchError, aoti_torch_get_sizes, (AtenTensorHandle, std::int64_t**))                          \
  X(AOTITorchError, aoti_torch_get_strides, (AtenTensorHandle, std::int64_t**))                        \
  X(AOTITorchError, aoti_torch_get_dtype, (AtenTensorHandle, std::int32_t*))                           \
  X(AOTITorchError, aoti_torch_get_device_type, (AtenTensorHandle, std::int32_t*))                     \
  X(AOTITorchError, aoti_torch_get_device_index, (AtenTensorHandle, std::int32_t*))                    \
  X(std::int32_t, aoti_torch_device_type_cuda, ())                                                     \
  X(AOTITorchError, aoti_torch_get_storage_size, (AtenTensorHandle, std::int64_t*))                    \
  X(AOTITorchError, aoti_torch_get_storage_offset, (AtenTensorHandle, std::int64_t*))                  \
  X(AOTITorchError, torch_get_const_data_ptr, (AtenTensorHandle, const void**))                        \
  X(AOTITorchError, torch_get_mutable_data_ptr, (AtenTensorHandle, void**))                            \
  X(AOTITorchError, aoti_torch_empty_strided,                                                          \
    (std::int64_t, const std::int64_t*, const std::int64_t*, std::int32_t, std::int32_t, std::int32_t, \
     AtenTensorHandle*))                                                                               \
  X(AOTITorchError, aoti_torch_copy_, (AtenTensorHandle, AtenTensorHandle, std::int32_t))              \
  X(AOTITorchError, aoti_torch_new_tensor_handle, (AtenTensorHandle, AtenTensorHandle*))               \
  X(AOTITorchError, aoti_torch_delete_tensor_object, (AtenTensorHandle))                               \
  X(AOTITorchError, torch_call_dispatcher, (const char*, const char*, StableIValue*, std::uint64_t))   \
  X(AOTITorchError, torch_new_list_reserve_size, (std::size_t, StableListHandle*))                     \
  X(AOTITorchError, torch_list_size, (StableListHandle, std::size_t*))                                 \
  X(AOTITorchError, torch_list_get_item, (StableListHandle, std::size_t, StableIValue*))               \
  X(AOTITorchError, torch_list_push_back, (StableListHandle, StableIValue))                            \
  X(AOTITorchError, torch_delete_list, (StableListHandle))                                             \
  X(bool, aoti_torch_grad_mode_is_enabled, ())                                                         \
  X(AOTITorchError, aoti_torch_library_init_impl,                                                      \
    (const char*, const char*, const char*, std::uint32_t, TorchLibraryHandle*))                       \
  X(AOTITorchError, torch_library_impl,                                                                \
    (TorchLibraryHandle, const char*, ::prunus::torch_shim::Kernel, std::uint64_t))                    \
  X(AOTITorchError, torch_parallel_for,                                                                \
    (std::int64_t, std::int64_t, std::int64_t, ::prunus::torch_shim::Range, void*))                    \
  X(AOTITorchError, torch_get_num_threads, (std::uint32_t*))                                           \
  X(std::int32_t, aoti_torch_device_type_cpu, ())                                                      \
  X(std::int32_t, aoti_torch_dtype_float32, ())                                                        \
  X(std::int32_t, aoti_torch_dtype_float64, ())                                                        \
  X(std::int32_t, aoti_torch_dtype_float16, ())                                                        \
  X(std::int32_t, aoti_torch_dtype_bfloat16, ())                                                       \
  X(std::int32_t, aoti_torch_dtype_uint8, ())                                                          \
  X(std::int32_t, aoti_torch_dtype_int8, ())                                                           \
  X(std::int32_t, aoti_torch_dtype_int32, ())                                                          \
  X(std::int32_t, aoti_torch_dtype_int64, ())                                                          \
  X(std::int32_t, aoti_torch_dtype_bool, ())

struct Functions {
#define PRUNUS_TORCH_MEMBER(result, name, parameters) result(*name) parameters;
  PRUNUS_TORCH_FUNCTIONS(PRUNUS_TORCH_MEMBER)
#undef PRUNUS_TORCH_MEMBER
};

// Of libtorch_cuda, where torch has it. Another macro: a torch for CPUs has no prototypes of them.
struct CUDAGuardOpaque;
using CUDAGuardHandle = CUDAGuardOpaque*;

#define PRUNUS_TORCH_CUDA_FUNCTIONS(X)                                                                    \
  X(AOTITorchError, aoti_torch_create_cuda_guard, (std::int32_t, ::prunus::torch_shim::CUDAGuardHandle*)) \
  X(AOTITorchError, aoti_torch_delete_cuda_guard, (::prunus::torch_shim::CUDAGuardHandle))                \
  X(AOTITorchError, aoti_torch_get_current_cuda_stream, (std::int32_t, void**))

struct CudaFunctions {
#define PRUNUS_TORCH_MEMBER(result, name, parameters) result(*name) parameters;
  PRUNUS_TORCH_CUDA_FUNCTIONS(PRUNUS_TORCH_MEMBER)
#undef PRUNUS_TORCH_MEMBER
};

// Looked up at the first call. Throws std::runtime_error where torch has none.
const CudaFunctions& cuda_functions();

// Filled by load(). Calling through it before is a bug.
extern Functions functions;

// Looks every function up. Returns "" or a sentence that names what is missing; then nothing may be called.
std::string load(const std::string& torch_version);

}  // namespace prunus::torch_shim
