// What the boxed kernels do with their arguments. They run without the GIL and must not touch Python.
#pragma once
#include <memory>
#include <stdexcept>
#include <string>

#include "bindings/linear_operands.h"
#include "bindings/torch_kernels.h"
#include "bindings/torch_tensor.h"
#include "core/check.h"

namespace prunus::bindings {

using torch_shim::Tensor;

inline Tensor take(StableIValue value) { return Tensor(reinterpret_cast<AtenTensorHandle>(value)); }

// Tensor?: null, or a heap cell that the kernel frees (torch/csrc/stable, ToImpl<std::optional>).
inline Tensor take_optional(StableIValue value) {
  const std::unique_ptr<StableIValue> cell(reinterpret_cast<StableIValue*>(value));
  return cell ? take(*cell) : Tensor();
}

// A tensor of one contiguous dimension and one dtype.
inline Operand read_list(const char* name, const Tensor& tensor, const char* dtype) {
  const Operand p = tensor.operand(name);
  if (p.dtype != dtype) throw ValueError(expected_got(name, dtype, p.dtype));
  if (p.dims != 1 || (p.sizes[0] > 1 && p.strides[0] != 1))
    throw ValueError(expected_got(name, "one contiguous dimension", shape_text(p.sizes, p.dims)));
  return p;
}

inline PackedView read_packed(const char* name, const Tensor& packed) {
  const Operand p = read_list(name, packed, "uint8");
  return open_packed(static_cast<const std::uint8_t*>(packed.data()), static_cast<std::size_t>(p.sizes[0]));
}

// torch's default for an op without a derivative is a silent gradient of None.
inline void refuse_gradient(const char* name, const Tensor& tensor) {
  if (tensor && torch_shim::functions.aoti_torch_grad_mode_is_enabled() && tensor.tracked())
    throw std::runtime_error(gradient_sentence(name));
}

// Rows of one distance: of the tensor itself or of a contiguous copy that takes its place.
inline Rows as_rows(Tensor& tensor, const Operand& operand) {
  Rows rows = rows_of(operand);
  if (!rows.direct) {
    rows.stride = operand.sizes[operand.dims - 1];
    tensor = tensor.contiguous_copy();
  }
  return rows;
}

// Only standard exceptions have a meaning in libtorch: ours becomes Python's ValueError there.
template <typename F>
void checked(F f) {
  try {
    f();
  } catch (const FormatError& e) {
    throw ValueError(e.what());
  }
}
template <typename F>
void answer(StableIValue* stack, F f) {
  checked([&] { stack[0] = reinterpret_cast<StableIValue>(f().release()); });
}

}  // namespace prunus::bindings
