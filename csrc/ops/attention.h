// softmax(q . k^T * scale + mask) . v for every head of every text, in bf16 where the isa multiplies that.
#pragma once
#include <cstdint>

#include "core/dtype.h"
#include "kernels/attention.h"

namespace prunus {

// Where rows of heads lie: elements from one text, head and token to the next. Dimensions lie side by side.
struct HeadStrides {
  std::int64_t text, head, token;
};

struct Attention {
  Dtype dtype;                          // f32, bf16 or f16
  std::int64_t texts, heads, kv_heads;  // heads: a multiple of kv_heads, which some of them share each
  std::int64_t queries, keys, dim;
  const void *q, *k, *v;
  HeadStrides q_strides, k_strides, v_strides;
  AttentionMask mask_kind;
  const void* mask;          // keys lie side by side
  HeadStrides mask_strides;  // 0 where it is one for all
  bool causal;
  float scale;
  void* y;  // [texts][queries][heads][dim]
};

// The same bits for any thread count.
void attention(const Attention& call);

// Whether the active isa has more than the plain kernel.
bool has_fast_attention();

}  // namespace prunus
