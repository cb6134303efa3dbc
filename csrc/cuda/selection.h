// Functions of the pruning kernels, one per file, which pruning.cu puts into the table (pruning.h has their
// contracts).
#pragma once
#include "cuda/pruning.h"

namespace prunus::cuda {

std::int64_t select_bytes(const ScoreArray* all, int count);
int select(const ScoreArray* all, int count, int compared, std::int64_t prune, void* workspace, void* stream);
int select_lines(const ScoreArray& all, std::int64_t length, std::int64_t prune, void* workspace,
                 void* stream);
int select_nm(const ScoreArray& all, std::int64_t n, std::int64_t m, void* stream);
int block_sums(const Matrix& scores, std::int64_t height, std::int64_t width, double* sums, void* stream);
int expand_blocks(const std::uint8_t* keep, std::int64_t rows, std::int64_t cols, std::int64_t height,
                  std::int64_t width, std::uint8_t* mask, void* stream);
std::int64_t normalize_bytes(std::int64_t rows, std::int64_t cols, bool by_row);
int normalize(const Matrix& w, bool by_row, void* out, void* workspace, void* stream);
int apply_mask(const Matrix& w, const std::uint8_t* mask, std::int64_t row_stride, std::int64_t col_stride,
               void* stream);

}  // namespace prunus::cuda
