// y = act(x . w^T + b) + residual for a packed weight: threads and choice; the arithmetic is in kernels/.
#pragma once
#include <cstdint>
#include <string>

#include "core/activation.h"
#include "formats/packed.h"

namespace prunus {

struct LinearArgs {
  Dtype dtype;    // of x and y: f32, bf16 or f16; sums are float
  const void* x;  // (m, k), last dimension contiguous
  std::int64_t m;
  std::int64_t x_stride;  // elements between rows
  const float* bias;      // (n) or nullptr
  void* y;                // (m, n), last dimension contiguous; must not overlap x
  std::int64_t y_stride;
  Activation activation;
  const void* residual;  // (m, n) of dtype, last dimension contiguous, added to act(...); or nullptr
  std::int64_t residual_stride;
};

// Never throws after read_header()/validate_packed() accepted w. The same bits for any thread count, and
// (few tokens of bitmap and block, and up to two of col8 on avx512icl, excepted) for a token whatever tokens
// share its batch. Zeros of w are skipped, so they do not spread NaN or infinity of x.
void linear(const PackedView& w, const LinearArgs& args);

// y = act(x . gate^T + b) * (x . up^T + up_bias) for two weights of one shape, args without residual. One
// pass over x when both have the same tiling and get the same kind of kernel; else up goes to y first.
void gated(const PackedView& gate, const PackedView& up, const float* up_bias, const LinearArgs& args);

// One weight of several that read the same x.
struct Product {
  PackedView w;
  const float* bias;
  void* y;  // (m, n) of args.dtype, contiguous
};

// `count` products of the x of args (whose bias, y, activation and residual do not count): packed once and in
// one parallel region where the weights have one tiling of k and get the same kind of kernel; else one by
// one.
void linear_many(const Product* products, int count, const LinearArgs& args);

}  // namespace prunus
