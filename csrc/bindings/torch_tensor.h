// An owned torch tensor behind the stable C ABI.
#pragma once
#include <cstdint>
#include <string>
#include <utility>

#include "bindings/linear_operands.h"
#include "bindings/torch_shim.h"

namespace prunus::torch_shim {

// Throws std::runtime_error when a torch function reported an error (torch keeps the text to itself
// before 2.13).
void check_torch(AOTITorchError error, const char* function);

const char* dtype_name(std::int32_t dtype);

// As torch numbers them.
struct Device {
  std::int32_t type, index;
  bool operator==(const Device& other) const { return type == other.type && index == other.index; }
  bool operator!=(const Device& other) const { return !(*this == other); }
};
Device cpu();
std::string device_text(Device device);  // "cpu", "cuda:0"

class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(AtenTensorHandle owned) : handle_(owned) {}
  Tensor(Tensor&& other) noexcept : handle_(other.release()) {}
  Tensor& operator=(Tensor&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Tensor() {
    if (handle_) functions.aoti_torch_delete_tensor_object(handle_);
  }

  explicit operator bool() const { return handle_ != nullptr; }
  AtenTensorHandle get() const { return handle_; }
  AtenTensorHandle release() { return std::exchange(handle_, nullptr); }

  std::int32_t dtype() const;  // torch's number
  Device device() const;
  // For the argument `name`: throws ValueError where its memory was freed (untyped_storage().resize_), which
  // leaves sizes behind that nothing backs.
  bindings::Operand operand(const char* name) const;
  const void* data() const;
  void* mutable_data();

  // Contiguous.
  static Tensor empty(std::int64_t dims, const std::int64_t* sizes, std::int32_t dtype, Device on = cpu());
  Tensor contiguous_copy() const;  // on the same device
  // True when autograd would record an operation on this tensor.
  bool tracked() const;

 private:
  bindings::Operand described() const;
  AtenTensorHandle handle_ = nullptr;
};

}  // namespace prunus::torch_shim
