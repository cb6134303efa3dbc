// Few tokens times a weight of format warp: one warp a tile, a lane walks its run of kept weights and fetches
// what each meets from shared memory. Bound by the bytes of the weight (csrc/decisions/0046).
#include "cuda/products.h"
#include "cuda/store.h"
#include "cuda/tokens.h"
#include "cuda/warp_tile.h"

namespace prunus::cuda {
namespace {

constexpr int kWarps = 8;                         // of a block, which share the tokens' inputs
constexpr int kSlack = 16 * 8;                    // columns behind k that a step of damaged gaps may reach
constexpr std::size_t kUnaskedShared = 48 << 10;  // bytes of a block that need no asking
constexpr std::size_t kSharedAtMost = 160 << 10;  // what sm_80 has; sm_90 has more

// sum += what the lane's eight weights meet; `at`: the column before which their gaps begin.
template <typename Stored, typename X, int T>
__device__ __forceinline__ void add_step(const Step<Stored>& step, int last_column, int& at,
                                         const Column<X, T>* columns, float (&sum)[T]) {
  at = at < last_column ? at : last_column;  // whatever the gaps say, the loads stay in the slack
  float values[8];
  step.values.get(values);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    at += static_cast<int>(step.gaps >> (4 * i) & 15);
    float x[T];
    columns[at + i].get(x);
#pragma unroll
    for (int t = 0; t < T; ++t) sum[t] = fmaf(values[i], x[t], sum[t]);
  }
  at += 8;
}

// Blocks of a multiprocessor: the registers of a thread have to be few enough. With eight tokens they are
// not.
template <typename X, int T>
constexpr int blocks_of = sizeof(Column<X, T>) < 16 ? 3 : 2;

// Steps of a tile that are loaded before they are used. Of float32 values fewer: the registers of more would
// leave room for half as many warps.
template <typename Stored>
struct Ahead {
  static constexpr int count = Eight<Stored>::size == 4 ? 2 : 4;
  Step<Stored> steps[count];
  __device__ __forceinline__ void load(const Tile& tile, int first, int lane) {
#pragma unroll
    for (int i = 0; i < count; ++i) {
      if (first + i < tile.steps) {
        steps[i].load(tile.steps_at + static_cast<std::int64_t>(first + i) * Step<Stored>::bytes, lane);
      } else {
        steps[i].clear();
      }
    }
  }
};

template <typename Stored, typename X, int T>
__device__ __forceinline__ void walk(const Tile& tile, Ahead<Stored>& now, int lane, int last_column,
                                     const Column<X, T>* columns, float (&sum)[T]) {
  int at = tile.start;
#pragma unroll
  for (int t = 0; t < T; ++t) sum[t] = 0;
  for (int s = 0; s < tile.steps; s += Ahead<Stored>::count) {
    Ahead<Stored> next;
    next.load(tile, s + Ahead<Stored>::count, lane);
#pragma unroll
    for (int i = 0; i < Ahead<Stored>::count; ++i)  // behind the last step there are zeros
      add_step<Stored, X, T>(now.steps[i], last_column, at, columns, sum);
    now = next;
  }
}

// The sums of the lanes of a row, in each of them.
template <int T>
__device__ __forceinline__ void reduce(int lanes, float (&sum)[T]) {
#pragma unroll 1
  for (int other = lanes / 2; other > 0; other /= 2)
#pragma unroll
    for (int t = 0; t < T; ++t) sum[t] += __shfl_xor_sync(kAllLanes, sum[t], other);
}

// As `walk`, but that a weight of 0 is no weight; for the few rows that need it, in little code: what a small
// product mostly waits for is its instructions.
template <typename Stored, typename X, int T>
__device__ __forceinline__ void walk_carefully(const Tile& tile, int lane, int last_column,
                                               const Column<X, T>* columns, float (&sum)[T]) {
  int at = tile.start;
#pragma unroll
  for (int t = 0; t < T; ++t) sum[t] = 0;
#pragma unroll 1
  for (int slot = 0; slot < tile.steps * WarpLayout::eight; ++slot) {
    const std::uint8_t* const step =
        tile.steps_at + static_cast<std::int64_t>(slot / 8) * Step<Stored>::bytes;
    if (slot % 8 == 0) at = at < last_column ? at : last_column;
    at += static_cast<int>(load_u32(step + Step<Stored>::gaps_at + 4 * lane) >> (slot % 8 * 4) & 15);
    const float value = Eight<Stored>::one(step, lane * 8 + slot % 8);
    float x[T];
    columns[at].get(x);
    if (value != 0)
#pragma unroll
      for (int t = 0; t < T; ++t) sum[t] = fmaf(value, x[t], sum[t]);
    ++at;
  }
}

// The sums of the rows of a tile.
template <typename Stored, typename X, int T>
__device__ __forceinline__ void multiply(const Tile& tile, Ahead<Stored>& ahead, int lane, int lanes, int k,
                                         const Column<X, T>* columns, float (&sum)[T]) {
  walk<Stored, X, T>(tile, ahead, lane, k, columns, sum);
  reduce<T>(lanes, sum);
  bool nan = false;
#pragma unroll
  for (int t = 0; t < T; ++t) nan |= sum[t] != sum[t];
  if (__any_sync(kAllLanes, nan)) {
    // Zeros fill the steps: where they met an infinity the sum is wrong, and only there.
    walk_carefully<Stored, X, T>(tile, lane, k, columns, sum);
    reduce<T>(lanes, sum);
  }
}

// sum[t], of registers, which have no addresses.
template <int T>
__device__ __forceinline__ float pick(const float (&sum)[T], int t) {
  float picked = sum[0];
#pragma unroll
  for (int i = 1; i < T; ++i) picked = t == i ? sum[i] : picked;
  return picked;
}

template <typename Stored, typename X, int T>
__device__ __forceinline__ void run(const Linear& call, const Header& header) {
  PRUNUS_DYNAMIC_SHARED(unsigned char, shared);
  auto* const columns = reinterpret_cast<Column<X, T>*>(shared);
  constexpr int step_bytes = Step<Stored>::bytes;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, lanes = kWarp / header.rows,
            k = static_cast<int>(call.w.k);
  const std::int64_t first_token = static_cast<std::int64_t>(blockIdx.y) * T;
  const int tokens = call.m - first_token < T ? static_cast<int>(call.m - first_token) : T;
  std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;

  Tile tile = find_tile<step_bytes>(call.w, index, lane);
  Ahead<Stored> ahead;
  ahead.load(tile, 0, lane);  // before the block waits for its tokens
  const auto* const x = static_cast<const typename X::Bits*>(call.x) + first_token * call.x_stride;
  const bool in_pairs = reinterpret_cast<std::uintptr_t>(x) % (2 * sizeof(*x)) == 0 && k % 2 == 0 &&
                        (tokens == 1 || call.x_stride % 2 == 0);
  load_tokens<X, T>(x, call.x_stride, tokens, k, k + kSlack, in_pairs, columns);
  __syncthreads();

  while (index * header.rows < call.w.n) {
    float sum[T];
    multiply<Stored, X, T>(tile, ahead, lane, lanes, k, columns, sum);
    const std::int64_t row = index * header.rows + lane / lanes;
    if (row < call.w.n) {
      const float scale = scale_of(call.w, header, row);
#pragma unroll 1
      for (int t = lane % lanes; t < tokens; t += lanes)
        store<X>(call, first_token + t, row, tile.valid ? pick<T>(sum, t) * scale : kNaN);
    }
    index += static_cast<std::int64_t>(gridDim.x) * kWarps;
    if (index * header.rows >= call.w.n) return;
    tile = find_tile<step_bytes>(call.w, index, lane);
    ahead.load(tile, 0, lane);
  }
}

// The bytes are another weight's: no number is the right one.
template <typename X>
__device__ __forceinline__ void answer_nan(const Linear& call) {
  const std::int64_t all = call.m * call.w.n, threads = std::int64_t{gridDim.x} * gridDim.y * blockDim.x;
  for (std::int64_t i = (std::int64_t{blockIdx.y} * gridDim.x + blockIdx.x) * blockDim.x + threadIdx.x;
       i < all; i += threads)
    static_cast<typename X::Bits*>(call.y)[i] = X::from_float(kNaN);
}

template <typename X, int T>
__global__ void __launch_bounds__(kWarps* kWarp, blocks_of<X, T>) linear_kernel(const Linear call) {
  const Header header = read_header(call.w);
  if (header.rows == 0) return answer_nan<X>(call);
  switch (header.dtype) {
    case Dtype::bf16:
      return run<Bf16, X, T>(call, header);
    case Dtype::f16:
      return run<F16, X, T>(call, header);
    case Dtype::i8:
      return run<I8, X, T>(call, header);
    case Dtype::f32:
      return run<F32, X, T>(call, header);
    case Dtype::f64:
      break;
  }
  answer_nan<X>(call);
}

template <typename X, int T>
int start(const Linear& call, void* stream) {
  const std::size_t shared = static_cast<std::size_t>(call.w.k + kSlack) * sizeof(Column<X, T>);
  if (shared > kUnaskedShared)
    if (const cudaError_t error = cudaFuncSetAttribute(
            linear_kernel<X, T>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)))
      return static_cast<int>(error);
  const auto blocks = static_cast<unsigned>((most_tiles(call.w.n) + kWarps - 1) / kWarps);
  return launch(linear_kernel<X, T>, dim3(blocks, static_cast<unsigned>((call.m + T - 1) / T)),
                dim3(kWarps * kWarp), shared, stream, call);
}

template <typename X>
int start_of(const Linear& call, void* stream) {
  // As many tokens together as there is room for: another pass is another look at the whole weight.
  const auto fits = [&](std::size_t column) {
    return static_cast<std::size_t>(call.w.k + kSlack) * column <= kSharedAtMost;
  };
  if constexpr (sizeof(typename X::Bits) == 2)
    if (call.m >= 5 && fits(sizeof(Column<X, 8>))) return start<X, 8>(call, stream);
  if (call.m >= 3 && fits(sizeof(Column<X, 4>))) return start<X, 4>(call, stream);
  if (call.m >= 2 && fits(sizeof(Column<X, 2>))) return start<X, 2>(call, stream);
  return start<X, 1>(call, stream);
}

}  // namespace

int linear(const Linear& call, void* stream) {
  if (call.m == 0 || call.w.n == 0) return 0;
  return with_type(call.dtype, [&](auto type) { return start_of<decltype(type)>(call, stream); });
}

}  // namespace prunus::cuda
