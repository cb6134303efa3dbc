// The operators for torch: boxed CPU kernels. They run without the GIL and must not touch Python.
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

PackedView read_packed(const char* name, const Tensor& packed) {
  const Operand p = packed.operand();
  if (p.dtype != "uint8") throw ValueError(expected_got(name, "uint8", p.dtype));
  if (p.dims != 1 || (p.sizes[0] > 1 && p.strides[0] != 1))
    throw ValueError(expected_got(name, "one contiguous dimension", shape_text(p.sizes, p.dims)));
  return read_header(static_cast<const std::uint8_t*>(packed.data()), static_cast<std::size_t>(p.sizes[0]));
}

// The schema has it for the fake kernel, which cannot read the bytes.
void check_out_features(const PackedHeader& w, std::int64_t out_features) {
  if (static_cast<std::int64_t>(w.n) != out_features)
    throw ValueError(expected_got("out_features", std::to_string(w.n), std::to_string(out_features)));
}

// torch's default for an op without a derivative is a silent gradient of None.
void refuse_gradient(const char* name, const Tensor& tensor) {
  if (tensor && torch_shim::functions.aoti_torch_grad_mode_is_enabled() && tensor.tracked())
    throw std::runtime_error(gradient_sentence(name));
}

// Rows of one distance: of the tensor itself or of a contiguous copy that takes its place.
Rows as_rows(Tensor& tensor, const Operand& operand) {
  Rows rows = rows_of(operand);
  if (!rows.direct) {
    rows.stride = operand.sizes[operand.dims - 1];
    tensor = tensor.contiguous_copy();
  }
  return rows;
}

// What the operators share: x as rows, y to be filled, and the arguments that say so.
struct TorchCall {
  Tensor x, y;
  Operand given;  // x as it came
  LinearArgs args{};

  TorchCall(const PackedHeader& w, Tensor tensor, std::int64_t activation)
      : x(std::move(tensor)), given(x.operand()) {
    args.dtype = check_input(w, given, activation);
    args.activation = static_cast<Activation>(activation);
    args.y_stride = static_cast<std::int64_t>(w.n);
  }

  // After all checks.
  void prepare() {
    std::vector<std::int64_t> sizes(given.sizes, given.sizes + given.dims);
    sizes.back() = args.y_stride;
    y = Tensor::empty(given.dims, sizes.data(), x.dtype());
    const Rows rows = as_rows(x, given);
    args.x = x.data();
    args.m = rows.count;
    args.x_stride = rows.stride;
    args.y = y.mutable_data();
  }

  FloatBias floats(const char* name, const PackedHeader& w, Tensor& bias) const {
    if (!bias) return {};
    const Operand operand = bias.operand();
    check_bias(name, w, given, operand);
    refuse_gradient(name, bias);
    if (operand.sizes[0] > 1 && operand.strides[0] != 1) bias = bias.contiguous_copy();
    return FloatBias(bias.data(), dtype_from_name(operand.dtype), static_cast<std::int64_t>(w.n));
  }
};

Tensor linear_torch(Tensor x, const Tensor& packed, Tensor bias, Tensor residual, std::int64_t out_features,
                    std::int64_t activation) {
  const PackedView w = read_packed("packed", packed);
  check_out_features(w.header, out_features);
  TorchCall call(w.header, std::move(x), activation);
  refuse_gradient("x", call.x);
  const FloatBias floats = call.floats("bias", w.header, bias);
  call.args.bias = floats.data();
  if (residual) {
    const Operand operand = residual.operand();
    check_residual(w.header, call.given, operand);
    refuse_gradient("residual", residual);
    call.args.residual_stride = as_rows(residual, operand).stride;
    call.args.residual = residual.data();
  }
  call.prepare();
  linear(w, call.args);
  return std::move(call.y);
}

Tensor gated_torch(Tensor x, const Tensor& gate_packed, const Tensor& up_packed, Tensor gate_bias,
                   Tensor up_bias, std::int64_t out_features, std::int64_t activation) {
  const PackedView gate = read_packed("gate", gate_packed), up = read_packed("up", up_packed);
  check_out_features(gate.header, out_features);
  check_gated(gate.header, up.header);
  TorchCall call(gate.header, std::move(x), activation);
  refuse_gradient("x", call.x);
  const FloatBias first = call.floats("gate_bias", gate.header, gate_bias),
                  second = call.floats("up_bias", up.header, up_bias);
  call.args.bias = first.data();
  call.prepare();
  gated(gate, up, second.data(), call.args);
  return std::move(call.y);
}

// Only standard exceptions have a meaning in libtorch: ours becomes Python's ValueError there.
template <typename F>
void answer(StableIValue* stack, F f) {
  try {
    stack[0] = reinterpret_cast<StableIValue>(f().release());
  } catch (const FormatError& e) {
    throw ValueError(e.what());
  }
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
  answer(stack, [&] {
    return linear_torch(std::move(x), packed, std::move(bias), Tensor(), out_features, activation);
  });
}

void linear_add_kernel(StableIValue* stack, std::uint64_t, std::uint64_t) {
  Tensor x = take(stack[0]), packed = take(stack[1]), bias = take_optional(stack[2]),
         residual = take(stack[3]);
  const auto out_features = static_cast<std::int64_t>(stack[4]),
             activation = static_cast<std::int64_t>(stack[5]);
  answer(stack, [&] {
    return linear_torch(std::move(x), packed, std::move(bias), std::move(residual), out_features, activation);
  });
}

void gated_kernel(StableIValue* stack, std::uint64_t, std::uint64_t) {
  Tensor x = take(stack[0]), gate = take(stack[1]), up = take(stack[2]), gate_bias = take_optional(stack[3]),
         up_bias = take_optional(stack[4]);
  const auto out_features = static_cast<std::int64_t>(stack[5]),
             activation = static_cast<std::int64_t>(stack[6]);
  answer(stack, [&] {
    return gated_torch(std::move(x), gate, up, std::move(gate_bias), std::move(up_bias), out_features,
                       activation);
  });
}

}  // namespace prunus::bindings
