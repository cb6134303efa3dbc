#include "cuda/products.h"
#include "cuda/store.h"
#include "cuda/warp_tile.h"

namespace prunus::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;

template <typename Stored, typename X>
__device__ __forceinline__ void put_tile(const Packed& w, const Header& header, std::int64_t index, int lane,
                                         typename X::Bits* out) {
  const Tile tile = find_tile<Step<Stored>::bytes>(w, index, lane);
  const int lanes = kWarp / header.rows;
  const std::int64_t row = index * header.rows + lane / lanes;
  if (row >= w.n) return;
  if (!tile.valid) {
    for (std::int64_t c = lane % lanes; c < w.k; c += lanes) out[row * w.k + c] = X::from_float(kNaN);
    return;
  }
  const float scale = scale_of(w, header, row);
  std::int64_t at = tile.start;
  for (int s = 0; s < tile.steps; ++s) {
    Step<Stored> step;
    step.load(tile.steps_at + static_cast<std::int64_t>(s) * Step<Stored>::bytes, lane);
    float values[8];
    step.values.get(values);
#pragma unroll
    for (int i = 0; i < 8; ++i, ++at) {
      at += step.gaps >> (4 * i) & 15;
      if (values[i] != 0 && at < w.k) out[row * w.k + at] = X::from_float(values[i] * scale);
    }
  }
}

template <typename X>
__global__ void __launch_bounds__(kThreads) expand_kernel(const Packed w, typename X::Bits* out) {
  const Header header = read_header(w);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp,
                     warps = static_cast<std::int64_t>(gridDim.x) * kWarps;
  if (header.rows == 0) {
    for (std::int64_t i = first * kWarp + lane; i < w.n * w.k; i += warps * kWarp)
      out[i] = X::from_float(kNaN);
    return;
  }
  for (std::int64_t index = first; index * header.rows < w.n; index += warps) {
    if (header.dtype == Dtype::bf16) put_tile<Bf16, X>(w, header, index, lane, out);
    if (header.dtype == Dtype::f16) put_tile<F16, X>(w, header, index, lane, out);
    if (header.dtype == Dtype::i8) put_tile<I8, X>(w, header, index, lane, out);
    if (header.dtype == Dtype::f32) put_tile<F32, X>(w, header, index, lane, out);
  }
}

template <typename X>
int expand_to(const Packed& w, void* out, void* stream) {
  using Bits = typename X::Bits;
  const std::size_t bytes = static_cast<std::size_t>(w.n * w.k) * sizeof(Bits);
  if (const cudaError_t error = cudaMemsetAsync(out, 0, bytes, static_cast<cudaStream_t>(stream)))
    return static_cast<int>(error);
  const auto blocks = static_cast<unsigned>((most_tiles(w.n) + kWarps - 1) / kWarps);
  return launch(expand_kernel<X>, dim3(blocks), dim3(kThreads), 0, stream, w, static_cast<Bits*>(out));
}

template <typename X>
__global__ void __launch_bounds__(kThreads) finish_kernel(const Linear call, const typename X::Bits* sums) {
  const std::int64_t all = call.m * call.w.n, threads = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < all; i += threads)
    store<X>(call, i / call.w.n, i % call.w.n, X::to_float(sums[i]));
}

template <typename X>
int finish_of(const Linear& call, const void* sums, void* stream) {
  constexpr std::int64_t most_blocks = 4096;
  const std::int64_t blocks = (call.m * call.w.n + kThreads - 1) / kThreads;
  return launch(finish_kernel<X>, dim3(static_cast<unsigned>(blocks < most_blocks ? blocks : most_blocks)),
                dim3(kThreads), 0, stream, call, static_cast<const typename X::Bits*>(sums));
}

}  // namespace

int expand(const Packed& w, int dtype, void* out, void* stream) {
  if (w.n == 0 || w.k == 0) return 0;
  return with_type(dtype, [&](auto type) { return expand_to<decltype(type)>(w, out, stream); });
}

int finish(const Linear& call, const void* sums, void* stream) {
  if (call.m == 0 || call.w.n == 0) return 0;
  return with_type(call.dtype, [&](auto type) { return finish_of<decltype(type)>(call, sums, stream); });
}

}  // namespace prunus::cuda
