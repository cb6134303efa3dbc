// +0.0 where a mask says so; nothing else is written.
#include "cuda/keys.h"
#include "cuda/selection.h"

namespace prunus::cuda {
namespace {

constexpr int kThreads = 256;
constexpr long long kRows = 8, kCols = 1024;  // of the tile of a block

struct Strides {
  long long row, col;
};

template <typename Word>
__global__ void __launch_bounds__(kThreads)
    clear(Word* __restrict__ w, long long rows, long long cols, long long row_stride,
          const unsigned char* __restrict__ mask, Strides at, long long panels) {
  const long long row_begin = blockIdx.x / panels * kRows, col_begin = blockIdx.x % panels * kCols;
  const long long row_end = rows - row_begin < kRows ? rows : row_begin + kRows;
  const long long col_end = cols - col_begin < kCols ? cols : col_begin + kCols;
  for (long long row = row_begin; row < row_end; ++row)
#pragma unroll 4
    for (long long col = col_begin + threadIdx.x; col < col_end; col += kThreads)
      if (mask[row * at.row + col * at.col] == 0) w[row * row_stride + col] = 0;
}

template <typename Word>
int launch_clear(const Matrix& w, const std::uint8_t* mask, Strides at, void* stream) {
  const long long panels = (w.cols + kCols - 1) / kCols, bands = (w.rows + kRows - 1) / kRows;
  return launch(clear<Word>, dim3(static_cast<unsigned>(bands * panels)), dim3(kThreads), 0, stream,
                static_cast<Word*>(w.data), static_cast<long long>(w.rows), static_cast<long long>(w.cols),
                static_cast<long long>(w.row_stride), static_cast<const unsigned char*>(mask), at, panels);
}

}  // namespace

int apply_mask(const Matrix& w, const std::uint8_t* mask, std::int64_t row_stride, std::int64_t col_stride,
               void* stream) {
  int error = static_cast<int>(cudaErrorInvalidValue);
  with_element(w.dtype, [&](auto t) {
    error = launch_clear<WordOf<decltype(t)>>(w, mask, {row_stride, col_stride}, stream);
  });
  return error;
}

}  // namespace prunus::cuda
