// Scores of whole blocks: their sums in float64, added in the order of the CPU (pruning/scored_blocks.cpp),
// so that they have its bits; and the flags of blocks as flags of entries.
#include "cuda/keys.h"
#include "cuda/selection.h"

namespace prunus::cuda {
namespace {

constexpr int kThreads = 256;

// The sum of one row of a block. Widths 4 and 8 begin in pairs on the CPU.
template <typename T>
__device__ double sum_of_row(const T* p, long long width, bool in_pairs) {
  const auto at = [p](long long i) { return Widened<double, T>::value(p[i]); };
  double sum = in_pairs ? (at(0) + at(1)) + (at(2) + at(3)) : at(0);
  for (long long j = in_pairs ? 4 : 1; j < width; ++j) sum += at(j);
  return sum;
}

struct BlockGrid {
  long long rows, cols, row_stride;  // of the scores
  long long height, width;           // of a whole block
  long long across;                  // blocks side by side
  long long panels;                  // thread blocks side by side
  double down_scale, across_scale;   // of blocks that the lower and the right edge cut off
};

// Thread x takes a block, thread y every blockDim.y-th of its rows; thread (x, 0) adds the rows in order.
template <typename T>
__global__ void __launch_bounds__(kThreads) sum_blocks(const T* scores, BlockGrid g, double* sums) {
  __shared__ double room[kThreads];
  const long long down = blockIdx.x / g.panels;
  const long long block = blockIdx.x % g.panels * blockDim.x + threadIdx.x;
  const long long first = down * g.height, col = block * g.width;
  const long long height = g.rows - first < g.height ? g.rows - first : g.height;
  const long long width = g.cols - col < g.width ? g.cols - col : g.width;
  const bool here = block < g.across, in_pairs = width == g.width && (width == 4 || width == 8);
  double sum = 0;
  for (long long row = 0; row < height; row += blockDim.y) {
    const long long mine = row + threadIdx.y;
    if (here && mine < height)
      room[threadIdx.y * blockDim.x + threadIdx.x] =
          sum_of_row(scores + (first + mine) * g.row_stride + col, width, in_pairs);
    __syncthreads();
    if (here && threadIdx.y == 0)
      for (long long y = 0; y < blockDim.y && row + y < height; ++y)
        sum += room[y * blockDim.x + threadIdx.x];
    __syncthreads();
  }
  if (!here || threadIdx.y > 0) return;
  if (height < g.height) sum *= g.down_scale;
  if (width < g.width) sum *= g.across_scale;
  sums[down * g.across + block] = sum;
}

constexpr int kNeighbours = 16;  // flags that one thread writes

__global__ void __launch_bounds__(kThreads)
    expand_flags(const unsigned char* keep, long long rows, long long cols, long long height, long long width,
                 unsigned char* mask) {
  const long long begin = (static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x) * kNeighbours;
  const long long size = rows * cols, across = (cols + width - 1) / width;
  if (begin >= size) return;
  long long row = begin / cols, col = begin % cols;
  const unsigned char* flags = keep + row / height * across;
  long long block = col / width, left = width - col % width;
  alignas(16) unsigned char out[kNeighbours];
  const int count = size - begin < kNeighbours ? static_cast<int>(size - begin) : kNeighbours;
#pragma unroll
  for (int i = 0; i < kNeighbours; ++i) {
    if (i < count) out[i] = flags[block];
    if (++col == cols) {
      ++row, col = 0, block = 0, left = width;
      if (i + 1 < count) flags = keep + row / height * across;
    } else if (--left == 0) {
      ++block, left = width;
    }
  }
  if (count == kNeighbours) {
    uint4 all;
    std::memcpy(&all, out, sizeof all);
    *reinterpret_cast<uint4*>(mask + begin) = all;
  } else {
#pragma unroll
    for (int i = 0; i < kNeighbours; ++i)
      if (i < count) mask[begin + i] = out[i];
  }
}

long long ceil_of(long long a, long long b) { return (a + b - 1) / b; }

}  // namespace

int block_sums(const Matrix& scores, std::int64_t height, std::int64_t width, double* sums, void* stream) {
  unsigned deep = 1;
  while (deep < 8 && deep < height) deep *= 2;
  const unsigned wide = kThreads / deep;
  const long long across = ceil_of(scores.cols, width), panels = ceil_of(across, wide);
  const auto scale = [](std::int64_t whole, std::int64_t rest) {
    return static_cast<double>(whole) / static_cast<double>(rest);
  };
  const BlockGrid g{scores.rows,
                    scores.cols,
                    scores.row_stride,
                    height,
                    width,
                    across,
                    panels,
                    scale(height, scores.rows % height),
                    scale(width, scores.cols % width)};
  int error = static_cast<int>(cudaErrorInvalidValue);
  with_element(scores.dtype, [&](auto t) {
    using T = decltype(t);
    error = launch(sum_blocks<T>, dim3(static_cast<unsigned>(ceil_of(scores.rows, height) * panels)),
                   dim3(wide, deep), 0, stream, static_cast<const T*>(scores.data), g, sums);
  });
  return error;
}

int expand_blocks(const std::uint8_t* keep, std::int64_t rows, std::int64_t cols, std::int64_t height,
                  std::int64_t width, std::uint8_t* mask, void* stream) {
  const auto grid = static_cast<unsigned>(ceil_of(rows * cols, kThreads * kNeighbours));
  return launch(expand_flags, dim3(grid), dim3(kThreads), 0, stream, static_cast<const unsigned char*>(keep),
                static_cast<long long>(rows), static_cast<long long>(cols), static_cast<long long>(height),
                static_cast<long long>(width), static_cast<unsigned char*>(mask));
}

}  // namespace prunus::cuda
