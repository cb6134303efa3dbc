#include "bindings/torch_tensor.h"

#include <stdexcept>
#include <string>
#include <vector>

#include "core/check.h"

namespace prunus::torch_shim {
namespace {

StableIValue from_handle(AtenTensorHandle handle) { return reinterpret_cast<StableIValue>(handle); }

// op(tensor) -> one value, through torch's dispatcher; the dispatcher takes its own reference.
StableIValue call(const char* op, AtenTensorHandle tensor) {
  AtenTensorHandle reference = nullptr;
  check_torch(functions.aoti_torch_new_tensor_handle(tensor, &reference), "new_tensor_handle");
  StableIValue stack[1] = {from_handle(reference)};
  check_torch(functions.torch_call_dispatcher(op, "", stack, kAbiVersion), op);
  return stack[0];
}

bool is_leaf(AtenTensorHandle tensor) { return (call("aten::is_leaf", tensor) & 1) != 0; }

}  // namespace

void check_torch(AOTITorchError error, const char* function) {
  if (error) throw std::runtime_error(std::string("prunus: torch's ") + function + " failed");
}

const char* dtype_name(std::int32_t dtype) {
  struct Name {
    std::int32_t (*number)();
    const char* text;
  };
  const Name names[] = {
      {functions.aoti_torch_dtype_float32, "float32"}, {functions.aoti_torch_dtype_float64, "float64"},
      {functions.aoti_torch_dtype_float16, "float16"}, {functions.aoti_torch_dtype_bfloat16, "bfloat16"},
      {functions.aoti_torch_dtype_uint8, "uint8"},     {functions.aoti_torch_dtype_int8, "int8"},
      {functions.aoti_torch_dtype_int32, "int32"},     {functions.aoti_torch_dtype_int64, "int64"},
      {functions.aoti_torch_dtype_bool, "bool"}};
  for (const Name& name : names)
    if (name.number() == dtype) return name.text;
  return "another dtype";
}

Device cpu() { return {functions.aoti_torch_device_type_cpu(), 0}; }

std::string device_text(Device device) {
  if (device.type == functions.aoti_torch_device_type_cpu()) return "cpu";
  const char* const name = device.type == functions.aoti_torch_device_type_cuda() ? "cuda:" : "device type ";
  return name +
         std::to_string(device.type == functions.aoti_torch_device_type_cuda() ? device.index : device.type);
}

Device Tensor::device() const {
  Device found{};
  check_torch(functions.aoti_torch_get_device_type(handle_, &found.type), "get_device_type");
  check_torch(functions.aoti_torch_get_device_index(handle_, &found.index), "get_device_index");
  if (found.type == functions.aoti_torch_device_type_cpu()) found.index = 0;  // torch says -1 or 0
  return found;
}

std::int32_t Tensor::dtype() const {
  std::int32_t dtype = 0;
  check_torch(functions.aoti_torch_get_dtype(handle_, &dtype), "get_dtype");
  return dtype;
}

bindings::Operand Tensor::described() const {
  std::int64_t dims = 0, *sizes = nullptr, *strides = nullptr;
  check_torch(functions.aoti_torch_get_dim(handle_, &dims), "get_dim");
  check_torch(functions.aoti_torch_get_sizes(handle_, &sizes), "get_sizes");
  check_torch(functions.aoti_torch_get_strides(handle_, &strides), "get_strides");
  return {dtype_name(dtype()), sizes, strides, dims};
}

bindings::Operand Tensor::operand(const char* name) const {
  const bindings::Operand of = described();
  std::int64_t elements = 1, held = 0, first = 0;  // behind the first, and its own place
  for (std::int64_t d = 0; d < of.dims; ++d) {
    if (of.sizes[d] == 0) return of;
    elements += (of.sizes[d] - 1) * of.strides[d];
  }
  check_torch(functions.aoti_torch_get_storage_size(handle_, &held), "get_storage_size");
  check_torch(functions.aoti_torch_get_storage_offset(handle_, &first), "get_storage_offset");
  const bool half = of.dtype == "float16" || of.dtype == "bfloat16";
  const bool four = of.dtype == "float32" || of.dtype == "int32";
  const std::int64_t size = four ? 4 : half ? 2 : 1;  // the doors refuse other dtypes
  if (held / size < first + elements)
    throw ValueError(expected_got(name, "memory of " + std::to_string((first + elements) * size) + " bytes",
                                  std::to_string(held) + ": it was freed"));
  return of;
}

const void* Tensor::data() const {
  const void* data = nullptr;
  check_torch(functions.torch_get_const_data_ptr(handle_, &data), "get_const_data_ptr");
  return data;
}

void* Tensor::mutable_data() {
  void* data = nullptr;
  check_torch(functions.torch_get_mutable_data_ptr(handle_, &data), "get_mutable_data_ptr");
  return data;
}

Tensor Tensor::empty(std::int64_t dims, const std::int64_t* sizes, std::int32_t dtype, Device on) {
  std::vector<std::int64_t> strides(static_cast<std::size_t>(dims), 1);
  for (std::int64_t d = dims - 2; d >= 0; --d) {
    const auto i = static_cast<std::size_t>(d);
    strides[i] = strides[i + 1] * (sizes[d + 1] > 0 ? sizes[d + 1] : 1);
  }
  AtenTensorHandle handle = nullptr;
  check_torch(
      functions.aoti_torch_empty_strided(dims, sizes, strides.data(), dtype, on.type, on.index, &handle),
      "empty_strided");
  return Tensor(handle);
}

Tensor Tensor::contiguous_copy() const {
  const bindings::Operand from = described();
  Tensor copy = empty(from.dims, from.sizes, dtype(), device());
  check_torch(functions.aoti_torch_copy_(copy.handle_, handle_, 0), "copy_");
  return copy;
}

// The stable ABI has no getter of requires_grad. A tensor that autograd made is no leaf; an alias of a leaf
// is one only when autograd records nothing.
bool Tensor::tracked() const {
  if (!is_leaf(handle_)) return true;
  const Tensor alias(reinterpret_cast<AtenTensorHandle>(call("aten::alias", handle_)));
  return !is_leaf(alias.handle_);
}

}  // namespace prunus::torch_shim
