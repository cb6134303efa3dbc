// What the boxed kernels do with their arguments. They run without the GIL and must not touch Python.
#pragma once
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

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

// A list: the elements, which are the caller's to free.
inline std::vector<StableIValue> take_list(StableIValue value) {
  const auto list = reinterpret_cast<StableListHandle>(value);
  const auto& torch = torch_shim::functions;
  std::size_t count = 0;
  torch_shim::check_torch(torch.torch_list_size(list, &count), "list_size");
  std::vector<StableIValue> elements(count);
  for (std::size_t i = 0; i < count; ++i)
    torch_shim::check_torch(torch.torch_list_get_item(list, i, &elements[i]), "list_get_item");
  torch_shim::check_torch(torch.torch_delete_list(list), "delete_list");
  return elements;
}

inline std::vector<Tensor> take_tensors(StableIValue value, Tensor (*take_one)(StableIValue)) {
  std::vector<Tensor> tensors;
  for (const StableIValue element : take_list(value)) tensors.push_back(take_one(element));
  return tensors;
}

inline StableIValue give_tensors(std::vector<Tensor> tensors) {
  const auto& torch = torch_shim::functions;
  StableListHandle list = nullptr;
  torch_shim::check_torch(torch.torch_new_list_reserve_size(tensors.size(), &list), "new_list");
  for (Tensor& tensor : tensors)
    torch_shim::check_torch(
        torch.torch_list_push_back(list, reinterpret_cast<StableIValue>(tensor.release())), "push_back");
  return reinterpret_cast<StableIValue>(list);
}

// "biases[1]"
inline std::string entry(const char* list, std::size_t i) {
  return std::string(list) + '[' + std::to_string(i) + ']';
}

inline void check_count(const char* name, std::size_t got, std::size_t of_packed) {
  check_value(got == of_packed, expected_got(name, std::to_string(of_packed) + ", one for each of packed",
                                             std::to_string(got)));
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

// The boxed kernels of the operators, over the functions of one device: how their arguments lie on the stack.
template <auto linear>
void boxed_linear(StableIValue* stack, std::uint64_t, std::uint64_t) {
  Tensor x = take(stack[0]), packed = take(stack[1]), bias = take_optional(stack[2]);
  const auto out_features = static_cast<std::int64_t>(stack[3]),
             activation = static_cast<std::int64_t>(stack[4]);
  answer(stack,
         [&] { return linear(std::move(x), packed, std::move(bias), Tensor(), out_features, activation); });
}

template <auto linear>
void boxed_linear_add(StableIValue* stack, std::uint64_t, std::uint64_t) {
  Tensor x = take(stack[0]), packed = take(stack[1]), bias = take_optional(stack[2]),
         residual = take(stack[3]);
  const auto out_features = static_cast<std::int64_t>(stack[4]),
             activation = static_cast<std::int64_t>(stack[5]);
  answer(stack, [&] {
    return linear(std::move(x), packed, std::move(bias), std::move(residual), out_features, activation);
  });
}

template <auto gated>
void boxed_gated(StableIValue* stack, std::uint64_t, std::uint64_t) {
  Tensor x = take(stack[0]), gate = take(stack[1]), up = take(stack[2]), gate_bias = take_optional(stack[3]),
         up_bias = take_optional(stack[4]);
  const auto out_features = static_cast<std::int64_t>(stack[5]),
             activation = static_cast<std::int64_t>(stack[6]);
  answer(stack, [&] {
    return gated(std::move(x), gate, up, std::move(gate_bias), std::move(up_bias), out_features, activation);
  });
}

template <auto linear_many>
void boxed_linear_many(StableIValue* stack, std::uint64_t, std::uint64_t) {
  Tensor x = take(stack[0]);
  const std::vector<Tensor> packed = take_tensors(stack[1], take);
  std::vector<Tensor> biases = take_tensors(stack[2], take_optional);
  const std::vector<StableIValue> out_features = take_list(stack[3]);
  checked(
      [&] { stack[0] = give_tensors(linear_many(std::move(x), packed, std::move(biases), out_features)); });
}

}  // namespace prunus::bindings
