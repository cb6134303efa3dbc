// The operators for torch tensors on CUDA. Nothing here waits for the device, and memory is torch's, so that
// a graph may hold the calls.
#include <string>
#include <vector>

#include "bindings/cuda_library.h"
#include "bindings/torch_arguments.h"

namespace prunus::bindings {
namespace {

using torch_shim::Device;

// Up to here the kernel for few tokens is used; more are multiplied with the expanded weight, which costs a
// dense one of memory for the call (csrc/decisions/0046).
constexpr std::int64_t kFewTokens = 16;

// The device of a call is the current one while it is queued.
class OnDevice {
 public:
  explicit OnDevice(std::int32_t index) {
    const auto& torch = torch_shim::cuda_functions();
    torch_shim::check_torch(torch.aoti_torch_create_cuda_guard(index, &guard_), "create_cuda_guard");
    torch_shim::check_torch(torch.aoti_torch_get_current_cuda_stream(index, &stream_),
                            "get_current_cuda_stream");
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice() { torch_shim::cuda_functions().aoti_torch_delete_cuda_guard(guard_); }
  void* stream() const { return stream_; }

 private:
  torch_shim::CUDAGuardHandle guard_ = nullptr;
  void* stream_ = nullptr;
};

void check_device(const char* name, const Tensor& tensor, Device x) {
  if (tensor && tensor.device() != x)
    throw ValueError(expected_got(name, "a tensor on " + torch_shim::device_text(x) + " like x",
                                  torch_shim::device_text(tensor.device())));
}

cuda::Packed read_bytes(const char* name, const Tensor& packed, Device device, std::int64_t n,
                        std::int64_t k) {
  check_device(name, packed, device);
  const Operand p = read_list(name, packed, "uint8");
  check_value(p.sizes[0] >= static_cast<std::int64_t>(sizeof(PackedHeader)),
              expected_got(name, "a packed weight", std::to_string(p.sizes[0]) + " bytes"));
  const void* const data = packed.data();
  check_value(reinterpret_cast<std::uintptr_t>(data) % 16 == 0,
              expected_got(name, "memory aligned to 16 bytes", "another alignment"));
  return {static_cast<const std::uint8_t*>(data), static_cast<std::uint64_t>(p.sizes[0]), n, k};
}

// What the operators share, as in torch_linear.cpp: x as rows, y to be filled.
struct CudaCall {
  Tensor x;
  Operand given;
  Device device;
  cuda::Linear args{};

  CudaCall(Tensor tensor, std::int64_t activation)
      : x(std::move(tensor)), given(x.operand("x")), device(x.device()) {
    check_value(device.type == torch_shim::functions.aoti_torch_device_type_cuda(),
                expected_got("x", "a tensor on CUDA like packed", torch_shim::device_text(device)));
    cuda_api();  // or the reason why there is none
    PackedHeader any{};
    any.k = static_cast<std::uint64_t>(given.dims > 0 ? given.sizes[given.dims - 1] : 0);
    args.dtype = static_cast<int>(check_input(any, given, activation));
    args.activation = static_cast<int>(activation);
    args.w.k = static_cast<std::int64_t>(any.k);
    check_value(
        args.w.k <= most_tile_cols(Format::warp),
        expected_got("x", "at most " + std::to_string(most_tile_cols(Format::warp)) + " inputs on CUDA",
                     std::to_string(args.w.k)));
    refuse_gradient("x", x);
  }

  PackedHeader shape(std::int64_t n) const {
    PackedHeader h{};
    h.n = static_cast<std::uint64_t>(n), h.k = static_cast<std::uint64_t>(args.w.k);
    return h;
  }

  Tensor empty(std::int64_t out_features) const {
    check_value(out_features >= 0,
                expected_got("out_features", "a number of rows", std::to_string(out_features)));
    std::vector<std::int64_t> sizes(given.sizes, given.sizes + given.dims);
    sizes.back() = out_features;
    return Tensor::empty(given.dims, sizes.data(), x.dtype(), device);
  }

  // After the checks of everything else that comes with x.
  void prepare() {
    const Rows rows = as_rows(x, given);
    args.m = rows.count;
    args.x = x.data();
    args.x_stride = rows.stride;
  }

  void set_bias(const char* name, std::int64_t n, Tensor& bias) {
    args.bias = nullptr;
    if (!bias) return;
    check_device(name, bias, device);
    const Operand operand = bias.operand(name);
    check_bias(name, shape(n), given, operand);
    refuse_gradient(name, bias);
    if (operand.sizes[0] > 1 && operand.strides[0] != 1) bias = bias.contiguous_copy();
    args.bias = bias.data();
    args.bias_dtype = static_cast<int>(dtype_from_name(operand.dtype));
  }

  void set_residual(std::int64_t n, Tensor& residual) {
    check_device("residual", residual, device);
    const Operand operand = residual.operand("residual");
    check_residual(shape(n), given, operand);
    refuse_gradient("residual", residual);
    args.residual_stride = as_rows(residual, operand).stride;
    args.residual = residual.data();
  }

  // x . w^T by torch, with the weight expanded.
  Tensor dense_product(void* stream) const {
    const std::int64_t sizes[2] = {args.w.n, args.w.k};
    Tensor w = Tensor::empty(2, sizes, x.dtype(), device);
    check_cuda(cuda_api().products->expand(args.w, args.dtype, w.mutable_data(), stream), "expand");
    AtenTensorHandle input = nullptr;
    torch_shim::check_torch(torch_shim::functions.aoti_torch_new_tensor_handle(x.get(), &input),
                            "new_tensor_handle");
    StableIValue stack[3] = {reinterpret_cast<StableIValue>(input),
                             reinterpret_cast<StableIValue>(w.release()), 0};
    torch_shim::check_torch(
        torch_shim::functions.torch_call_dispatcher("aten::linear", "", stack, torch_shim::kAbiVersion),
        "linear");
    return Tensor(reinterpret_cast<AtenTensorHandle>(stack[0]));
  }

  void run(const cuda::Packed& w, Tensor& y, void* stream) {
    args.w = w;
    args.y = y.mutable_data();
    if (args.m <= kFewTokens || args.m * args.w.n == 0)
      return check_cuda(cuda_api().products->linear(args, stream), "linear");
    const Tensor sums = dense_product(stream);
    check_cuda(cuda_api().products->finish(args, sums.data(), stream), "finish");
  }
};

Tensor linear_cuda(Tensor x, const Tensor& packed, Tensor bias, Tensor residual, std::int64_t out_features,
                   std::int64_t activation) {
  CudaCall call(std::move(x), activation);
  const cuda::Packed w = read_bytes("packed", packed, call.device, out_features, call.args.w.k);
  call.set_bias("bias", out_features, bias);
  if (residual) call.set_residual(out_features, residual);
  const OnDevice on(call.device.index);
  Tensor y = call.empty(out_features);
  call.prepare();
  call.run(w, y, on.stream());
  return y;
}

Tensor gated_cuda(Tensor x, const Tensor& gate_packed, const Tensor& up_packed, Tensor gate_bias,
                  Tensor up_bias, std::int64_t out_features, std::int64_t activation) {
  CudaCall call(std::move(x), activation);
  const std::int64_t k = call.args.w.k;
  const cuda::Packed gate = read_bytes("gate", gate_packed, call.device, out_features, k),
                     up = read_bytes("up", up_packed, call.device, out_features, k);
  call.set_bias("up_bias", out_features, up_bias);  // checked before anything runs
  call.set_bias("gate_bias", out_features, gate_bias);
  const OnDevice on(call.device.index);
  Tensor y = call.empty(out_features);
  call.prepare();
  call.run(gate, y, on.stream());
  call.set_bias("up_bias", out_features, up_bias);
  call.args.activation = 0;
  call.args.times_y = 1;
  call.run(up, y, on.stream());
  return y;
}

std::vector<Tensor> linear_many_cuda(Tensor x, const std::vector<Tensor>& packed, std::vector<Tensor> biases,
                                     const std::vector<StableIValue>& out_features) {
  const std::size_t count = packed.size();
  check_value(count > 0, expected_got("packed", "at least one weight", "none"));
  check_count("biases", biases.size(), count);
  check_count("out_features", out_features.size(), count);
  CudaCall call(std::move(x), 0);
  std::vector<cuda::Packed> weights;
  for (std::size_t i = 0; i < count; ++i) {
    const auto n = static_cast<std::int64_t>(out_features[i]);
    weights.push_back(read_bytes(entry("packed", i).c_str(), packed[i], call.device, n, call.args.w.k));
    call.set_bias(entry("biases", i).c_str(), n, biases[i]);
  }
  const OnDevice on(call.device.index);
  call.prepare();
  std::vector<Tensor> all;
  for (std::size_t i = 0; i < count; ++i) {
    Tensor y = call.empty(weights[i].n);
    call.set_bias(entry("biases", i).c_str(), weights[i].n, biases[i]);
    call.run(weights[i], y, on.stream());
    all.push_back(std::move(y));
  }
  return all;
}

}  // namespace

const Operators kCudaOperators = {boxed_linear<linear_cuda>, boxed_linear_add<linear_cuda>,
                                  boxed_gated<gated_cuda>, boxed_linear_many<linear_many_cuda>};

}  // namespace prunus::bindings
