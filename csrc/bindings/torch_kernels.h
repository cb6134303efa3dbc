// The boxed kernels that torch_register.cpp gives to torch's dispatcher.
#pragma once
#include <string>

#include "bindings/torch_shim.h"

namespace prunus::bindings {

// prunus::linear(Tensor x, Tensor packed, Tensor? bias, int out_features, int activation) -> Tensor
void linear_kernel(StableIValue* stack, std::uint64_t inputs, std::uint64_t outputs);
// prunus::linear_add(Tensor x, Tensor packed, Tensor? bias, Tensor residual, int out_features, int
// activation)
//     -> Tensor
void linear_add_kernel(StableIValue* stack, std::uint64_t inputs, std::uint64_t outputs);
// prunus::gated(Tensor x, Tensor gate, Tensor up, Tensor? gate_bias, Tensor? up_bias, int out_features,
//     int activation) -> Tensor
void gated_kernel(StableIValue* stack, std::uint64_t inputs, std::uint64_t outputs);

// prunus::linear_many(Tensor x, Tensor[] packed, Tensor?[] biases, int[] out_features) -> Tensor[]
void linear_many_kernel(StableIValue* stack, std::uint64_t inputs, std::uint64_t outputs);

// The same four for tensors on CUDA.
void linear_cuda_kernel(StableIValue* stack, std::uint64_t inputs, std::uint64_t outputs);
void linear_add_cuda_kernel(StableIValue* stack, std::uint64_t inputs, std::uint64_t outputs);
void gated_cuda_kernel(StableIValue* stack, std::uint64_t inputs, std::uint64_t outputs);
void linear_many_cuda_kernel(StableIValue* stack, std::uint64_t inputs, std::uint64_t outputs);

// prunus::with_values(Tensor packed, Tensor values, Tensor places) -> Tensor
void with_values_kernel(StableIValue* stack, std::uint64_t inputs, std::uint64_t outputs);
// prunus::values_gradient(Tensor grad, Tensor x, Tensor first, Tensor columns) -> Tensor
void values_gradient_kernel(StableIValue* stack, std::uint64_t inputs, std::uint64_t outputs);

std::string gradient_sentence(const char* argument);

}  // namespace prunus::bindings
