// The pruning part of the table (api.h): scores in, masks out, as csrc/pruning decides them, bit for bit.
// Everything is queued on `stream`. Arrays are contiguous unless strides are given, in elements; dtypes are
// the numbers of prunus::Dtype; a mask has a byte per entry, 1 = keep. `nan` is an int that was 0 and becomes
// 1 where a score has no order; the mask is not to be used then.
#pragma once
#include <cstdint>

namespace prunus::cuda {

struct ScoreArray {
  const void* scores;
  std::uint8_t* mask;
  int* nan;
  std::int64_t size;
  int dtype;
};

// rows x cols elements, neighbours of a row side by side.
struct Matrix {
  void* data;
  std::int64_t rows, cols, row_stride;
  int dtype;
};

struct PruningApi {
  // One budget over all arrays: the `prune` lowest go, among equals the last of the last array first. They
  // are compared as `compared`, the narrowest dtype that holds all of them.
  std::int64_t (*select_bytes)(const ScoreArray* all, int count);
  int (*select)(const ScoreArray* all, int count, int compared, std::int64_t prune, void* workspace,
                void* stream);
  // The same for each line of `length` neighbours, `prune` of each. Workspace: select_bytes of one line.
  int (*select_lines)(const ScoreArray& all, std::int64_t length, std::int64_t prune, void* workspace,
                      void* stream);
  // n kept of every m <= kLargestGroup neighbours.
  int (*select_nm)(const ScoreArray& all, std::int64_t n, std::int64_t m, void* stream);
  // sums: one double per block of height x width, ceil(rows / height) x ceil(cols / width) of them; those at
  // the edge scaled up to a whole block's number of entries.
  int (*block_sums)(const Matrix& scores, std::int64_t height, std::int64_t width, double* sums,
                    void* stream);
  // A flag per block into a flag per entry, mask: rows x cols.
  int (*expand_blocks)(const std::uint8_t* keep, std::int64_t rows, std::int64_t cols, std::int64_t height,
                       std::int64_t width, std::uint8_t* mask, void* stream);
  // out: rows x cols, every row or column divided by its L2 norm.
  std::int64_t (*normalize_bytes)(std::int64_t rows, std::int64_t cols, bool by_row);
  int (*normalize)(const Matrix& w, bool by_row, void* out, void* workspace, void* stream);
  // +0.0 into w where the mask, of any strides, is 0.
  int (*apply_mask)(const Matrix& w, const std::uint8_t* mask, std::int64_t row_stride,
                    std::int64_t col_stride, void* stream);
};

extern const PruningApi kPruning;

constexpr std::int64_t kLargestGroup = 128;

}  // namespace prunus::cuda
