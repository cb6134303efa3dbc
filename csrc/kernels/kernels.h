// The functions that an isa must provide, as one table of raw-pointer, single-thread kernels.
#pragma once
#include <cstdint>

#include "core/activation.h"
#include "core/isa.h"
#include "kernels/kernel_list.h"

namespace prunus {

inline constexpr int kMaxStrip = 64;

// Adds one col8 tile to the accumulators of one strip of `width` tokens.
//   order[groups * 8], steps[groups], groups: the tile (formats/col8.h)
//   panel [cols + 1][width]: the strip's activations of the tile's columns; the last column is zero
//   acc   [rows up to a multiple of 8][width]
using Col8Fn = void (*)(const std::uint8_t* order, const std::uint8_t* steps, const std::uint8_t* groups,
                        int group_count, const float* panel, float* acc);

struct KernelTable {
  Isa isa;

#define PRUNUS_FIELD(width) Col8Fn col8_f32_##width;
  PRUNUS_STRIP_WIDTHS(PRUNUS_FIELD)
#undef PRUNUS_FIELD

  // x (tokens, cols) with row stride -> panel [cols + 1][width]; missing tokens and the last column are zero.
  void (*pack_panel)(const float* x, std::int64_t x_stride, int tokens, int cols, int width, float* panel);

  // acc [rows][width] = bias[row], or zero where bias is nullptr or row >= rows; rows_padded is a multiple
  // of 8.
  void (*init_acc)(const float* bias, int rows, int rows_padded, int width, float* acc);

  // y[token][row] = act(acc[row][token]) for the first rows and tokens.
  void (*store_tile)(const float* acc, int width, int rows, int tokens, Activation act, float* y,
                     std::int64_t y_stride);
};

// The table of the active isa (core/isa.h).
const KernelTable& active_kernels();

// width must be in PRUNUS_STRIP_WIDTHS.
Col8Fn col8_kernel(const KernelTable& table, int width);

}  // namespace prunus
