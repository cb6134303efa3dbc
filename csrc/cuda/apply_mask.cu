// +0.0 where a mask says so; what is kept keeps its bits.
#include "cuda/runs.h"
#include "cuda/selection.h"

namespace prunus::cuda {
namespace {

constexpr int kThreads = 256;

struct Strides {
  long long row, col;
};

// Any strides: an entry at a time, in tiles.
constexpr long long kRows = 8, kCols = 1024;

template <typename T>
__global__ void __launch_bounds__(kThreads)
    clear_entries(WordOf<T>* __restrict__ w, long long rows, long long cols, long long row_stride,
                  const unsigned char* __restrict__ mask, Strides at, long long panels) {
  const long long row_begin = blockIdx.x / panels * kRows, col_begin = blockIdx.x % panels * kCols;
  const long long row_end = rows - row_begin < kRows ? rows : row_begin + kRows;
  const long long col_end = cols - col_begin < kCols ? cols : col_begin + kCols;
  for (long long row = row_begin; row < row_end; ++row)
#pragma unroll 4
    for (long long col = col_begin + threadIdx.x; col < col_end; col += kThreads)
      if (mask[row * at.row + col * at.col] == 0) w[row * row_stride + col] = 0;
}

// Rows of whole aligned runs: 16 bytes at a time. Zeros alone are not fewer bytes: memory writes 32 of them,
// and reads them first where some stay. (An entry at a time took 1.3 times as long as torch's masked_fill_ on
// an H200.)
constexpr int kTurns = 4;

template <typename T>
__global__ void __launch_bounds__(kThreads)
    clear_runs(WordOf<T>* __restrict__ w, long long runs, long long row_stride,
               const unsigned char* __restrict__ mask, long long mask_stride, long long panels) {
  using Flags = typename Unsigned<kRun<T>>::type;
  const long long row = blockIdx.x / panels;
  const long long first = blockIdx.x % panels * (kThreads * kTurns) + threadIdx.x;
  auto* const out = reinterpret_cast<uint4*>(w + row * row_stride);
  const auto* const flags = reinterpret_cast<const Flags*>(mask + row * mask_stride);
  unsigned char keep[kTurns][kRun<T>];
  uint4 values[kTurns];
  bool some[kTurns];
#pragma unroll
  for (int t = 0; t < kTurns; ++t) {
    const long long run = first + t * kThreads;
    const Flags all = run < runs ? flags[run] : 0;
    std::memcpy(keep[t], &all, sizeof all);
    some[t] = false;
#pragma unroll
    for (int v = 0; v < kRun<T>; ++v) some[t] |= keep[t][v] == 0;
    some[t] &= run < runs;
  }
#pragma unroll
  for (int t = 0; t < kTurns; ++t)
    if (some[t]) values[t] = out[first + t * kThreads];
#pragma unroll
  for (int t = 0; t < kTurns; ++t) {
    if (!some[t]) continue;
    WordOf<T> words[kRun<T>];
    std::memcpy(words, &values[t], sizeof words);
#pragma unroll
    for (int v = 0; v < kRun<T>; ++v) words[v] = keep[t][v] == 0 ? 0 : words[v];
    std::memcpy(&values[t], words, sizeof words);
    out[first + t * kThreads] = values[t];
  }
}

long long ceil_of(long long a, long long b) { return (a + b - 1) / b; }

template <typename T>
int launch_clear(const Matrix& m, const std::uint8_t* mask, Strides at, void* stream) {
  auto* const w = static_cast<WordOf<T>*>(m.data);
  const auto* const flags = static_cast<const unsigned char*>(mask);
  const long long rows = m.rows, cols = m.cols, row_stride = m.row_stride;
  const bool one = rows == 1, whole = cols % kRun<T> == 0 && (one || row_stride % kRun<T> == 0);
  if (whole && at.col == 1 && (one || at.row % kRun<T> == 0) && is_aligned(w, 16) &&
      is_aligned(flags, kRun<T>)) {
    const long long runs = cols / kRun<T>, panels = ceil_of(runs, kThreads * kTurns);
    return launch(clear_runs<T>, dim3(static_cast<unsigned>(rows * panels)), dim3(kThreads), 0, stream, w,
                  runs, row_stride, flags, at.row, panels);
  }
  const long long panels = ceil_of(cols, kCols);
  return launch(clear_entries<T>, dim3(static_cast<unsigned>(ceil_of(rows, kRows) * panels)), dim3(kThreads),
                0, stream, w, rows, cols, row_stride, flags, at, panels);
}

}  // namespace

int apply_mask(const Matrix& w, const std::uint8_t* mask, std::int64_t row_stride, std::int64_t col_stride,
               void* stream) {
  int error = static_cast<int>(cudaErrorInvalidValue);
  with_element(w.dtype,
               [&](auto t) { error = launch_clear<decltype(t)>(w, mask, {row_stride, col_stride}, stream); });
  return error;
}

}  // namespace prunus::cuda
