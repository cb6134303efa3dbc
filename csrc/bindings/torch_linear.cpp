// The operators for torch: boxed CPU kernels. They run without the GIL and must not touch Python.
#include <string>
#include <vector>

#include "bindings/torch_arguments.h"
#include "ops/linear.h"

namespace prunus::bindings {
namespace {

// The schema has it for the fake kernel, which cannot read the bytes.
void check_out_features(const PackedHeader& w, std::int64_t out_features) {
  if (static_cast<std::int64_t>(w.n) != out_features)
    throw ValueError(expected_got("out_features", std::to_string(w.n), std::to_string(out_features)));
}

// What the operators share: x as rows, y to be filled, and the arguments that say so.
struct TorchCall {
  Tensor x, y;
  Operand given;  // x as it came
  LinearArgs args{};

  TorchCall(const PackedHeader& w, Tensor tensor, std::int64_t activation)
      : x(std::move(tensor)), given(x.operand("x")) {
    args.dtype = check_input(w, given, activation);
    args.activation = static_cast<Activation>(activation);
    args.y_stride = static_cast<std::int64_t>(w.n);
  }

  Tensor empty(std::int64_t out_features) const {
    std::vector<std::int64_t> sizes(given.sizes, given.sizes + given.dims);
    sizes.back() = out_features;
    return Tensor::empty(given.dims, sizes.data(), x.dtype());
  }

  // After all checks.
  void prepare() {
    y = empty(args.y_stride);
    const Rows rows = as_rows(x, given);
    args.x = x.data();
    args.m = rows.count;
    args.x_stride = rows.stride;
    args.y = y.mutable_data();
  }

  FloatBias floats(const char* name, const PackedHeader& w, Tensor& bias) const {
    if (!bias) return {};
    const Operand operand = bias.operand(name);
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
    const Operand operand = residual.operand("residual");
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

std::vector<Tensor> linear_many_torch(Tensor x, const std::vector<Tensor>& packed, std::vector<Tensor> biases,
                                      const std::vector<StableIValue>& out_features) {
  const std::size_t count = packed.size();
  check_value(count > 0, expected_got("packed", "at least one weight", "none"));
  check_count("biases", biases.size(), count);
  check_count("out_features", out_features.size(), count);
  std::vector<Product> products(count);
  for (std::size_t i = 0; i < count; ++i) {
    products[i].w = read_packed(entry("packed", i).c_str(), packed[i]);
    check_out_features(products[i].w.header, static_cast<std::int64_t>(out_features[i]));
  }
  TorchCall call(products[0].w.header, std::move(x), 0);
  refuse_gradient("x", call.x);
  std::vector<FloatBias> floats(count);
  for (std::size_t i = 0; i < count; ++i) {
    check_input(products[i].w.header, call.given, 0);
    floats[i] = call.floats(entry("biases", i).c_str(), products[i].w.header, biases[i]);
    products[i].bias = floats[i].data();
  }
  call.prepare();
  std::vector<Tensor> y;
  for (std::size_t i = 0; i < count; ++i) {
    y.push_back(i == 0 ? std::move(call.y) : call.empty(static_cast<std::int64_t>(out_features[i])));
    products[i].y = y[i].mutable_data();
  }
  linear_many(products.data(), static_cast<int>(count), call.args);
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

const Operators kCpuOperators = {boxed_linear<linear_torch>, boxed_linear_add<linear_torch>,
                                 boxed_gated<gated_torch>, boxed_linear_many<linear_many_torch>};

}  // namespace prunus::bindings
