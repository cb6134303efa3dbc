// The boxed kernels that torch_register.cpp gives to torch's dispatcher.
#pragma once
#include <string>

#include "bindings/torch_shim.h"

namespace prunus::bindings {

// The operators of one kind of device.
struct Operators {
  // prunus::linear(Tensor x, Tensor packed, Tensor? bias, int out_features, int activation) -> Tensor
  torch_shim::Kernel linear;
  // prunus::linear_add(Tensor x, Tensor packed, Tensor? bias, Tensor residual, int out_features, int
  // activation)
  //     -> Tensor
  torch_shim::Kernel linear_add;
  // prunus::gated(Tensor x, Tensor gate, Tensor up, Tensor? gate_bias, Tensor? up_bias, int out_features,
  //     int activation) -> Tensor
  torch_shim::Kernel gated;
  // prunus::linear_many(Tensor x, Tensor[] packed, Tensor?[] biases, int[] out_features) -> Tensor[]
  torch_shim::Kernel linear_many;
};
extern const Operators kCpuOperators, kCudaOperators;

// prunus::with_values(Tensor packed, Tensor values, Tensor places) -> Tensor
void with_values_kernel(StableIValue* stack, std::uint64_t inputs, std::uint64_t outputs);
// prunus::values_gradient(Tensor grad, Tensor x, Tensor first, Tensor columns) -> Tensor
void values_gradient_kernel(StableIValue* stack, std::uint64_t inputs, std::uint64_t outputs);

// prunus::attention(Tensor query, Tensor key, Tensor value, Tensor? mask, float scale, bool causal) -> Tensor
void attention_kernel(StableIValue* stack, std::uint64_t inputs, std::uint64_t outputs);

std::string gradient_sentence(const char* argument);

}  // namespace prunus::bindings
