// The products of the table (api.h): a few tokens, or any number, times a packed weight of format warp.
// Everything is queued on `stream`.
#pragma once
#include <cstdint>

namespace prunus::cuda {

// A packed weight of format warp, aligned to 16 bytes. What of the bytes does not fit n and k, which only the
// device can see, gives NaN.
struct Packed {
  const std::uint8_t* data;
  std::uint64_t bytes;
  std::int64_t n, k;
};

// y (m, n) = activation(x (m, k) . w^T + bias) + residual. Dtypes are numbers of core/dtypes.def.
struct Linear {
  Packed w;
  std::int64_t m;
  int dtype;  // of x, residual and y: float32, float16 or bfloat16
  const void* x;
  std::int64_t x_stride;  // of a token, in elements
  const void* bias;       // (n), or nullptr
  int bias_dtype;
  const void* residual;  // or nullptr
  std::int64_t residual_stride;
  int activation;  // core/activation.h
  int times_y;     // 1: what y holds is multiplied in, for gated
  void* y;         // (m, n)
};

struct ProductApi {
  // For few tokens: the weight is read once for every four.
  int (*linear)(const Linear& call, void* stream);
  // For many, which somebody else multiplies: the weight as an ordinary one, out (n, k) of `dtype`.
  int (*expand)(const Packed& w, int dtype, void* out, void* stream);
  // What `linear` does with its sums, for those of somebody else, (m, n); of `call` w.data and x are not
  // read.
  int (*finish)(const Linear& call, const void* sums, void* stream);
};

extern const ProductApi kProducts;

// The entries of the table, each in a file of its name or of expand.
int linear(const Linear& call, void* stream);
int expand(const Packed& w, int dtype, void* out, void* stream);
int finish(const Linear& call, const void* sums, void* stream);

}  // namespace prunus::cuda
