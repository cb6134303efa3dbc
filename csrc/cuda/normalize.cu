// Unit L2 norm of every line, with the bits of the CPU (pruning/normalize.cpp): squares are added in float64
// in the order of its loops (kernels/score/scale.inl.h).
#include <type_traits>

#include "cuda/keys.h"
#include "cuda/selection.h"

namespace prunus::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLanes = 8;             // sums of a row, of every eighth entry
constexpr long long kBand = 256;      // rows whose squares are added up in one go, of columns
constexpr long long kScaledRows = 8;  // of the tile of a block that writes

// A line is multiplied by scale and then by inverse; scale is 1 but for float64 lines that need it.
struct Factor {
  double scale, inverse;
};

__device__ bool trusted(double sum) { return sum > 0x1p-900 && sum < 0x1p1000; }

// Of float64 lines whose squares leave the range, one thread: the power of two that brings the largest entry
// near 1, then the sum again.
__device__ Factor careful_factor(const double* p, long long step, long long n) {
  double largest = 0, sum = 0;
  for (long long i = 0; i < n; ++i) {
    const double v = fabs(p[i * step]);
    if (v != v) return {1, v};
    largest = v > largest ? v : largest;
  }
  const auto exponent =
      static_cast<long long>(same_bits<std::uint64_t>(largest) >> 52) - 1023;  // -1023: subnormal
  if (largest == 0 || exponent == 1024) return {1, 0};
  long long shift = -exponent;
  if (shift < -1022) shift = -1022;
  const double scale = same_bits<double>(static_cast<std::uint64_t>(shift + 1023) << 52);
  for (long long i = 0; i < n; ++i) {
    const double v = fabs(p[i * step]) * scale;
    sum += v * v;
  }
  return {scale, 1 / sqrt(sum)};
}

template <typename T>
__device__ Factor factor_of(double sum, const T* p, long long step, long long n) {
  if (trusted(sum)) return {1, 1 / sqrt(sum)};
  if constexpr (std::is_same_v<T, double>) {
    return careful_factor(p, step, n);
  } else {
    return {1, sum != sum ? sum : 0.0};  // of narrower types only zero, infinity and NaN are left
  }
}

template <typename T>
__device__ __forceinline__ double square_at(const T* p, long long i) {
  const double v = Widened<double, T>::value(p[i]);
  return v * v;
}

// Eight threads for each row.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    row_factors(const T* __restrict__ w, long long rows, long long cols, long long row_stride,
                Factor* factors) {
  const long long row = (static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x) / kLanes;
  const int lane = threadIdx.x % kLanes;
  const bool here = row < rows;
  const T* p = w + (here ? row * row_stride : 0);
  const long long whole = here ? cols / kLanes * kLanes : 0;
  double sum = 0;
#pragma unroll 16
  for (long long i = lane; i < whole; i += kLanes) sum += square_at(p, i);
  if (here && lane == 0)
    for (long long i = whole; i < cols; ++i) sum += square_at(p, i);
  for (int by = kLanes / 2; by > 0; by /= 2) sum += __shfl_xor_sync(kAllLanes, sum, by);
  if (here && lane == 0) factors[row] = factor_of(sum, p, 1, cols);
}

// A thread for each column of a band of rows.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    column_sums(const T* __restrict__ w, long long rows, long long cols, long long row_stride,
                long long panels, double* sums) {
  const long long band = blockIdx.x / panels, col = blockIdx.x % panels * kThreads + threadIdx.x;
  if (col >= cols) return;
  const long long first = band * kBand, n = rows - first < kBand ? rows - first : kBand;
  const T* p = w + first * row_stride + col;
  const auto square = [&](long long row) { return square_at(p, row * row_stride); };
  double sum = 0;
  long long row = 0;
#pragma unroll 4
  for (; row + 4 <= n; row += 4) sum += (square(row) + square(row + 1)) + (square(row + 2) + square(row + 3));
  for (; row < n; ++row) sum += square(row);
  sums[band * cols + col] = sum;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    column_factors(const T* w, long long rows, long long cols, long long row_stride, const double* sums,
                   Factor* factors) {
  const long long col = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x;
  if (col >= cols) return;
  double sum = sums[col];
  for (long long band = 1; band * kBand < rows; ++band) sum += sums[band * cols + col];
  factors[col] = factor_of(sum, w + col, row_stride, rows);
}

template <typename T>
struct Narrowed;
template <>
struct Narrowed<float> {
  static __device__ __forceinline__ float value(double v) { return static_cast<float>(v); }
};
template <>
struct Narrowed<double> {
  static __device__ __forceinline__ double value(double v) { return v; }
};
template <>
struct Narrowed<f16_t> {
  static __device__ __forceinline__ f16_t value(double v) { return {F16::from_float(static_cast<float>(v))}; }
};
template <>
struct Narrowed<bf16_t> {
  static __device__ __forceinline__ bf16_t value(double v) {
    return {Bf16::from_float(static_cast<float>(v))};
  }
};

template <typename T>
__global__ void __launch_bounds__(kThreads)
    scale_lines(const T* __restrict__ w, long long rows, long long cols, long long row_stride, bool by_row,
                const Factor* __restrict__ factors, long long panels, T* __restrict__ out) {
  const long long first = blockIdx.x / panels * kScaledRows;
  const long long col = blockIdx.x % panels * kThreads + threadIdx.x;
  if (col >= cols) return;
  const auto write = [&](long long row, T v) {
    const Factor f = factors[by_row ? row : col];
    out[row * cols + col] = Narrowed<T>::value(Widened<double, T>::value(v) * f.scale * f.inverse);
  };
  if (first + kScaledRows <= rows) {
    T v[kScaledRows];
#pragma unroll
    for (int i = 0; i < kScaledRows; ++i) v[i] = w[(first + i) * row_stride + col];
#pragma unroll
    for (int i = 0; i < kScaledRows; ++i) write(first + i, v[i]);
  } else {
    for (long long row = first; row < rows; ++row) write(row, w[row * row_stride + col]);
  }
}

unsigned ceil_of(long long a, long long b) { return static_cast<unsigned>((a + b - 1) / b); }

template <typename T>
int launch_normalize(const Matrix& m, bool by_row, T* out, void* workspace, void* stream) {
  const auto* w = static_cast<const T*>(m.data);
  const long long rows = m.rows, cols = m.cols, stride = m.row_stride, panels = ceil_of(cols, kThreads);
  auto* factors = static_cast<Factor*>(workspace);
  if (by_row) {
    if (const int e = launch(row_factors<T>, dim3(ceil_of(rows * kLanes, kThreads)), dim3(kThreads), 0,
                             stream, w, rows, cols, stride, factors))
      return e;
  } else {
    auto* sums = reinterpret_cast<double*>(factors + cols);
    const auto bands = static_cast<unsigned>(panels) * ceil_of(rows, kBand);
    if (const int e = launch(column_sums<T>, dim3(bands), dim3(kThreads), 0, stream, w, rows, cols, stride,
                             panels, sums))
      return e;
    if (const int e = launch(column_factors<T>, dim3(static_cast<unsigned>(panels)), dim3(kThreads), 0,
                             stream, w, rows, cols, stride, static_cast<const double*>(sums), factors))
      return e;
  }
  return launch(scale_lines<T>, dim3(static_cast<unsigned>(panels) * ceil_of(rows, kScaledRows)),
                dim3(kThreads), 0, stream, w, rows, cols, stride, by_row, static_cast<const Factor*>(factors),
                panels, out);
}

}  // namespace

std::int64_t normalize_bytes(std::int64_t rows, std::int64_t cols, bool by_row) {
  const auto lines = by_row ? rows : cols;
  const std::int64_t sums = by_row ? 0 : cols * ceil_of(rows, kBand);
  return lines * static_cast<std::int64_t>(sizeof(Factor)) + sums * static_cast<std::int64_t>(sizeof(double));
}

int normalize(const Matrix& w, bool by_row, void* out, void* workspace, void* stream) {
  int error = static_cast<int>(cudaErrorInvalidValue);
  with_element(w.dtype, [&](auto t) {
    error = launch_normalize(w, by_row, static_cast<decltype(t)*>(out), workspace, stream);
  });
  return error;
}

}  // namespace prunus::cuda
