// prunus::linear for torch: the boxed CPU kernel. Runs without the GIL and must not touch Python.
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/linear_operands.h"
#include "bindings/torch_kernels.h"
#include "bindings/torch_tensor.h"
#include "core/check.h"
#include "ops/linear.h"

namespace prunus::bindings {
namespace {

using torch_shim::Tensor;

Tensor take(StableIValue value) { return Tensor(reinterpret_cast<AtenTensorHandle>(value)); }

// Tensor?: null, or a heap cell that the kernel frees (torch/csrc/stable, ToImpl<std::optional>).
Tensor take_optional(StableIValue value) {
  const std::unique_ptr<StableIValue> cell(reinterpret_cast<StableIValue*>(value));
  return cell ? take(*cell) : Tensor();
}

PackedView read_packed(const Tensor& packed, std::int64_t out_features) {
  const Operand p = packed.operand();
  if (p.dtype != "uint8") throw ValueError(expected_got("packed", "uint8", p.dtype));
  if (p.dims != 1 || (p.sizes[0] > 1 && p.strides[0] != 1))
    throw ValueError(expected_got("packed", "one contiguous dimension", shape_text(p.sizes, p.dims)));
  const PackedView w =
      read_header(static_cast<const std::uint8_t*>(packed.data()), static_cast<std::size_t>(p.sizes[0]));
  if (static_cast<std::int64_t>(w.header.n) != out_features)
    throw ValueError(expected_got("out_features", std::to_string(w.header.n), std::to_string(out_features)));
  return w;
}

// torch's default for an op without a derivative is a silent gradient of None.
void refuse_gradients(const Tensor& x, const Tensor& bias) {
  if (!torch_shim::functions.aoti_torch_grad_mode_is_enabled()) return;
  if (x.tracked()) throw std::runtime_error(gradient_sentence("x"));
  if (bias && bias.tracked()) throw std::runtime_error(gradient_sentence("bias"));
}

Tensor linear_torch(Tensor x, const Tensor& packed, Tensor bias, std::int64_t out_features,
                    std::int64_t activation) {
  const PackedView w = read_packed(packed, out_features);
  const Operand given = x.operand();
  const Operand b = bias ? bias.operand() : Operand{};
  const Dtype dtype = check_linear(w.header, given, bias ? &b : nullptr, activation);
  refuse_gradients(x, bias);

  std::vector<std::int64_t> sizes(given.sizes, given.sizes + given.dims);
  sizes.back() = out_features;
  Tensor y = Tensor::empty(given.dims, sizes.data(), x.dtype());
  Rows rows = rows_of(given);
  if (!rows.direct) {
    x = x.contiguous_copy();
    rows.stride = static_cast<std::int64_t>(w.header.k);
  }
  if (bias && b.sizes[0] > 1 && b.strides[0] != 1) bias = bias.contiguous_copy();
  const FloatBias floats =
      bias ? FloatBias(bias.data(), dtype_from_name(b.dtype), out_features) : FloatBias();
  linear(w, LinearArgs{dtype, x.data(), rows.count, rows.stride, floats.data(), y.mutable_data(),
                       out_features, static_cast<Activation>(activation)});
  return y;
}

}  // namespace

std::string gradient_sentence(const char* argument) {
  return expected_got(
             argument,
             "a tensor without gradient (this op has no backward; prunus.linear and SparseLinear have)",
             "requires_grad=True") +
         ": run under torch.no_grad() or torch.inference_mode(), or turn the layer back with to_linear() to "
         "train";
}

void linear_kernel(StableIValue* stack, std::uint64_t, std::uint64_t) {
  Tensor x = take(stack[0]), packed = take(stack[1]), bias = take_optional(stack[2]);
  const auto out_features = static_cast<std::int64_t>(stack[3]),
             activation = static_cast<std::int64_t>(stack[4]);
  try {
    Tensor y = linear_torch(std::move(x), packed, std::move(bias), out_features, activation);
    stack[0] = reinterpret_cast<StableIValue>(y.release());
  } catch (const FormatError& e) {
    // Only standard exceptions have a meaning in libtorch: this one becomes Python's ValueError there.
    throw ValueError(e.what());
  }
}

}  // namespace prunus::bindings
