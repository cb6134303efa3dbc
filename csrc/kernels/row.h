// A kernel is one row: what it does, for which bytes, and what it needs. isa_<isa>.cpp lists the rows that an
// isa adds; dispatch.cpp lays them over those of the isas below it.
#pragma once
#include <cstdint>

#include "core/activation.h"
#include "core/dtype.h"
#include "core/isa.h"
#include "formats/packed.h"
#include "kernels/attention.h"

namespace prunus {

inline constexpr int kMaxStrip = 64;  // tokens
inline constexpr int kMaxRowTokens = 8;
inline constexpr int kFewPanel = 272, kFewRows = 256;  // floats of a token, panel "few"
inline constexpr int kLaneRowTokens = 16;              // tokens that panel "lane_rows" has room for

// How a tile kernel wants x and leaves its sums (ops/panels has a file for each).
//   strip  tokens are the SIMD lanes: panel float [cols + 1][width], whose last column is zero; sums float
//          [rows][width], rows up to whole groups
//   rows   columns are the lanes: panel float [width][64]; sums float [rows][width][lanes], not yet times the
//          scales
//   few    rows are the lanes: panel float [width][kFewPanel]; sums float [width][kFewRows]
// dot has two of its own, whose lanes are 32 bits along k: four 8-bit integers or two bf16. Sums are int32 or
// float, [rows][width] in the order that the tile says (formats/layout/dot.inl.h).
//   lanes      tokens are the SIMD lanes: panel [lanes of w, up to 16][width][4 bytes]
//   lane_rows  lanes of w are: panel [width][lanes of w, up to 16][4 bytes]; sums [rows][kLaneRowTokens]
// Integers are followed by float scale[] and int32 zero[] of the tokens: x = (q - zero) * scale.
// block needs as many zero columns behind the last as a block is wide; nm may read (not use) 16 floats past
// its last group.
enum class Panel : std::uint8_t { none, strip, rows, few, lanes, lane_rows };

// What a kernel asks of x, least first: nothing; no NaN or infinity if stored slots may be zeros of w (the
// header's `holes`), which it multiplies; no NaN or infinity.
enum class Needs : std::uint8_t { any, finite_for_holes, finite };

// Work for the vector units while a kernel multiplies without them: it asks for some now and then.
struct Meanwhile {
  void (*some)(Meanwhile& self);
};

// One tile of a packed weight, to be added to the sums of some tokens.
struct TileArgs {
  const std::uint8_t* tile;    // its bytes (formats/<format>.cpp)
  const std::uint8_t* scales;  // floats at any alignment, one per row, or nullptr
  int rows, cols;
  Unit unit;
  const void* panel;     // the tokens' activations of the tile's columns
  void* sums;            // the tokens' sums of the tile's rows
  Meanwhile* meanwhile;  // for rows that say so; or nullptr
};

// What the sums of a dot tile mean, row by row (scales and weights at any alignment, for integers only) and
// token by token (for integers only).
struct RowMeaning {
  const std::uint8_t* place;    // u8: where a row's sums are
  const std::uint8_t* scales;   // float
  const std::uint8_t* weights;  // i32: the sum of its weights, by row of the tile
  const float* bias;            // or nullptr
};
struct TokenMeaning {
  const float* scale;
  const std::int32_t* zero;
};

// Products of two panels at some places only: what a weight's values get as gradient. Entries are those of w
// in row-major order, whose columns lie in one column tile.
struct SampledArgs {
  const float* rows;          // [row_count][tokens]
  const float* columns;       // [256][tokens]
  const std::int32_t* first;  // row r has the entries first[r * stride] .. first[r * stride + 1]
  std::int64_t stride;
  const std::uint8_t* column;  // of each entry, in the tile
  int row_count;
  float* sums;  // of each entry: the product of its row and its column is added
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

// What a row does, and the signature for it. x and y are of the row's token type, strides in elements.
enum class Op : std::uint8_t {
  tile,        // TileFn: one tile of w times the panel of some tokens
  pack_strip,  // PackStripFn: x (tokens, cols) -> panel of strip; missing tokens and the last column are zero
  pack_rows,   // PackRowsFn: x (tokens, cols) -> panel of rows, zero past cols; false: NaN or infinity
  finite,      // FiniteFn: no NaN or infinity in x (tokens, cols)
  store,       // StoreFn: y[token][row] = finish(sums[row][token]), rounded once
  start,       // StartFn: sums [rows_padded][width] = bias[row], zero where bias is nullptr or row >= rows
  reduce,      // ReduceFn: sums [rows][tokens][lanes] * scale + bias -> [rows_padded][1 token ? 1 : 8]
  gate,        // GateFn: sums = act(sums) * up, count floats, a multiple of 8
  sampled,     // SampledFn: over `width` tokens
  attention,   // AttentionFn (kernels/attention.h)
  // Panels lanes and lane_rows, of integers (quads) and of bf16 (pairs):
  pack_quads,   // PackLanesFn: x (tokens, cols) -> panel of lanes for `width` tokens
  pack_pairs,   // PackLanesFn
  flat_quads,   // PackLanesFn: -> panel of lane_rows
  flat_pairs,   // PackLanesFn
  store_quads,  // StoreLanesFn: y[token][row] = finish of what the sums mean, rounded once
  store_pairs,  // StoreLanesFn
};
using TileFn = void (*)(const TileArgs&);
using PackStripFn = void (*)(const void* x, std::int64_t x_stride, int tokens, int cols, int width,
                             float* panel);
using PackRowsFn = bool (*)(const void* x, std::int64_t x_stride, int tokens, int cols, float* panel);
using FiniteFn = bool (*)(const void* x, std::int64_t x_stride, std::int64_t tokens, std::int64_t cols);
using StoreFn = void (*)(const float* sums, int width, int rows, int tokens, const Finish& finish, void* y,
                         std::int64_t y_stride);
using StartFn = void (*)(const float* bias, int rows, int rows_padded, int width, float* sums);
using ReduceFn = void (*)(const float* sums, const std::uint8_t* scales, const float* bias, int rows,
                          int tokens, float* out);
using PackLanesFn = void (*)(const void* x, std::int64_t x_stride, int tokens, int cols, int width,
                             std::uint8_t* panel);
using StoreLanesFn = void (*)(const void* sums, int width, int rows, int tokens, const RowMeaning& row,
                              const TokenMeaning& token, const Finish& finish, void* y,
                              std::int64_t y_stride);
using GateFn = void (*)(float* sums, const float* up, std::int64_t count, Activation act);
using SampledFn = void (*)(const SampledArgs&);

union Fn {
  TileFn tile;
  PackStripFn pack_strip;
  PackRowsFn pack_rows;
  FiniteFn finite;
  StoreFn store;
  StartFn start;
  ReduceFn reduce;
  GateFn gate;
  PackLanesFn pack_lanes;
  StoreLanesFn store_lanes;
  SampledFn sampled;
  AttentionFn attention;
  constexpr Fn(TileFn f) : tile(f) {}
  constexpr Fn(PackStripFn f) : pack_strip(f) {}
  constexpr Fn(PackRowsFn f) : pack_rows(f) {}
  constexpr Fn(FiniteFn f) : finite(f) {}
  constexpr Fn(StoreFn f) : store(f) {}
  constexpr Fn(StartFn f) : start(f) {}
  constexpr Fn(ReduceFn f) : reduce(f) {}
  constexpr Fn(GateFn f) : gate(f) {}
  constexpr Fn(PackLanesFn f) : pack_lanes(f) {}
  constexpr Fn(StoreLanesFn f) : store_lanes(f) {}
  constexpr Fn(SampledFn f) : sampled(f) {}
  constexpr Fn(AttentionFn f) : attention(f) {}
};

struct Row {
  const char* name;  // of the function, its value or token type and its tokens: "bitmap_rows_f32_4"
  Op op;
  Format format;  // tile
  Dtype type;     // of the stored values (tile) or of x and y
  Panel panel;
  Needs needs;
  std::int16_t width;       // tokens
  std::int16_t lanes;       // sums of a row and token (panel rows)
  std::int32_t most_cols;   // of a tile
  std::int16_t least_rows;  // of a block
  bool meanwhile;           // the vector units are idle (TileArgs)
  Fn fn;
};

struct ScoreTable;

// What one isa adds. scores: nullptr where those of the isa below serve.
struct IsaRows {
  Isa isa;
  const Row* rows;
  int count;
  const ScoreTable* scores;
};

}  // namespace prunus
