// What a kernel of attention is called with.
#pragma once
#include <cstdint>

namespace prunus {

// What is known of the keys that a query may look at: nothing, bytes that are zero where it may not, or
// floats that are added to its scores.
enum class AttentionMask : std::uint8_t { none, bytes, f32, bf16, f16 };

// One head, or some queries of it: y (queries, dim) = softmax(q . k^T * scale + mask) . v, of rows with
// distances in elements. A query that may look at no key gets zeros.
struct AttentionArgs {
  const void *q, *k, *v;  // (queries, dim), (keys, dim), (keys, dim)
  std::int64_t q_stride, k_stride, v_stride;
  int queries, keys, dim;  // one at least
  float scale;             // > 0
  AttentionMask mask_kind;
  const void* mask;  // (queries, keys)
  std::int64_t mask_stride;
  std::int64_t seen;  // keys that the first query may look at; each next one may look at one more
  void* y;
  std::int64_t y_stride;
  std::uint8_t* room;  // attention_room() bytes, 64-byte aligned

  std::int64_t keys_seen(int query) const { return seen + query < keys ? seen + query : keys; }
};

// For any kernel: keys, values, a step's queries, and two steps' scores, weights and sums in tiles of 1 KB.
constexpr std::int64_t attention_room(std::int64_t keys, std::int64_t dim) {
  const std::int64_t k = (keys + 31) / 32, d = (dim + 31) / 32;
  return 1024 * (4 * k * d + d + 2 * (3 * k + 2 * d));
}

// False: something that the kernel has no answer for (simd/pairs_avx512.h, is_wild); y is not written to the
// end.
using AttentionFn = bool (*)(const AttentionArgs&);

}  // namespace prunus
