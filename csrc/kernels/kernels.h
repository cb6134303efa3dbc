// The functions that an isa must provide, as one table of raw-pointer, single-thread kernels.
#pragma once
#include <cstdint>

#include "core/activation.h"
#include "core/dtype.h"
#include "core/isa.h"
#include "formats/packed.h"
#include "kernels/kernel_list.h"
#include "kernels/score_kernels.h"

namespace prunus {

inline constexpr int kMaxStrip = 64;  // tokens
inline constexpr int kMaxRowTokens = 8;
inline constexpr int kFewPanel = 272, kFewRows = 256;  // floats of a token, layout "few"

// Adds one tile of a packed weight to the accumulators of some tokens.
//   tile   its bytes (formats/<format>.cpp); scales: floats at any alignment, one per row, or nullptr
//   panel  the tokens' activations of the tile's columns
//   acc    the tokens' sums of the tile's rows
// Layout "strip" (tokens are the SIMD lanes): panel [cols + 1][width] whose last column is zero, acc
// [rows][width], rows up to a multiple of 8. Layout "rows" (columns are the lanes): panel [tokens][64], acc
// [rows][tokens][row_lanes], not yet times the scales. Layout "few" (rows are the lanes): panel
// [tokens][kFewPanel], acc [tokens][kFewRows]. The block formats need as many zero columns behind the last as
// a block is wide, and nm may read (not use) 16 floats past its last group.
using TileFn = void (*)(const std::uint8_t* tile, const std::uint8_t* scales, int rows, int cols, Unit unit,
                        const float* panel, float* acc);

struct ValueKernels {
  TileFn col8_few[2];                // by PRUNUS_COL8_TOKENS; 8 rows are the lanes
  TileFn col8[8];                    // by PRUNUS_STRIP_WIDTHS
  TileFn bitmap[8];                  // by PRUNUS_STRIP_WIDTHS
  TileFn bitmap_rows[8];             // by PRUNUS_ROW_TOKENS; multiplies zeros too, so x must be finite
  TileFn nm[8];                      // by PRUNUS_STRIP_WIDTHS; these four multiply holes (formats/packed.h)
  TileFn nm_few[3];                  // by PRUNUS_FEW_TOKENS
  TileFn block[8];                   // by PRUNUS_STRIP_WIDTHS
  TileFn block_few[3];               // by PRUNUS_FEW_TOKENS
  TileFn nm_careful, block_careful;  // strips of 8 tokens; skip holes
};

// What happens to the sums of a tile on their way to y: y = act(sum), then + other or * other. `other` has
// the dtype of y and may be y itself.
enum class Combine { none, add, multiply };
struct Finish {
  Activation activation;
  Combine combine;
  const void* other;
  std::int64_t other_stride;
};

// What reads x and writes y, of one dtype; strides in elements. Everything between is float.
struct TokenKernels {
  // x (tokens, cols) with row stride -> strip panel; missing tokens and the last column are zero.
  void (*pack_strip)(const void* x, std::int64_t x_stride, int tokens, int cols, int width, float* panel);
  // x (tokens, cols) -> rows panel, zero past cols. False when x holds NaN or infinity.
  bool (*pack_rows)(const void* x, std::int64_t x_stride, int tokens, int cols, float* panel);
  bool (*all_finite)(const void* x, std::int64_t x_stride, std::int64_t tokens, std::int64_t cols);
  // y[token][row] = finish(acc[row][token]) for the first rows and tokens, rounded once.
  void (*store_tile)(const float* acc, int width, int rows, int tokens, const Finish& finish, void* y,
                     std::int64_t y_stride);
};

struct KernelTable {
  Isa isa;
  ValueKernels values[4];   // by PRUNUS_VALUES
  int accumulators, lanes;  // vectors of sums that a strip kernel should have, and floats in one
  int row_lanes;            // sums that a rows kernel keeps of a row and token
  int expand_always;        // tokens up to which a bitmap is expanded however few bits are set
  int look_up_most;         // tokens up to which col8_few may be faster than a strip

  TokenKernels tokens[3];  // by PRUNUS_TOKEN_TYPES

  // acc [rows_padded][width] = bias[row], or zero where bias is nullptr or row >= rows.
  void (*init_strip)(const float* bias, int rows, int rows_padded, int width, float* acc);
  // out [rows_padded][width] = scale * sums of acc [rows][tokens][row_lanes] + bias; width is 1 for one
  // token, else 8; scales as in TileFn.
  void (*reduce_rows)(const float* acc, const std::uint8_t* scales, const float* bias, int rows, int tokens,
                      float* out);
  // acc = act(acc) * up, count floats, a multiple of 8.
  void (*gate)(float* acc, const float* up, std::int64_t count, Activation act);

  ScoreTable scores;
};

// The table of the active isa (core/isa.h).
const KernelTable& active_kernels();

const ValueKernels& value_kernels(const KernelTable& table, Dtype dtype);
const TokenKernels& token_kernels(const KernelTable& table, Dtype dtype);

}  // namespace prunus
