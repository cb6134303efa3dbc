#include "ops/attention.h"

#include <algorithm>

#include "core/denormals.h"
#include "core/parallel.h"
#include "kernels/kernels.h"
#include "ops/policy/policy.h"
#include "ops/work.h"
#include "ops/workspace.h"

namespace prunus {
namespace {

thread_local Workspace room_of_thread;

// Of what a mask is made; bytes are as long as int8.
Dtype dtype_of(AttentionMask kind) {
  switch (kind) {
    case AttentionMask::none:
    case AttentionMask::bytes:
      return Dtype::i8;
    case AttentionMask::f32:
      return Dtype::f32;
    case AttentionMask::bf16:
      return Dtype::bf16;
    case AttentionMask::f16:
      return Dtype::f16;
  }
  __builtin_unreachable();
}

// Queries that one thread takes at a time: whole steps of a kernel, and all of a head where there are heads
// enough, because keys and values are packed anew for each part.
constexpr std::int64_t kStep = 64;
std::int64_t parts_of_head(const Attention& c, std::int64_t threads) {
  const std::int64_t heads = c.texts * c.heads, most = (c.queries + kStep - 1) / kStep;
  return heads >= 4 * threads ? 1 : std::clamp<std::int64_t>(4 * threads / heads, 1, most);
}

// Queries [first, last) of a head, by one thread.
void attend(const Attention& c, std::int64_t text, std::int64_t head, std::int64_t first, std::int64_t last) {
  const std::int64_t kv = head / (c.heads / c.kv_heads);
  const auto at = [&](Dtype type, const void* p, const HeadStrides& s, std::int64_t h, std::int64_t token) {
    return offset(type, p, text * s.text + h * s.head + token * s.token);
  };
  AttentionArgs a{};
  a.q = at(c.dtype, c.q, c.q_strides, head, first), a.q_stride = c.q_strides.token;
  a.k = at(c.dtype, c.k, c.k_strides, kv, 0), a.k_stride = c.k_strides.token;
  a.v = at(c.dtype, c.v, c.v_strides, kv, 0), a.v_stride = c.v_strides.token;
  a.queries = static_cast<int>(last - first);
  a.keys = static_cast<int>(c.keys), a.dim = static_cast<int>(c.dim);
  a.scale = c.scale;
  a.mask_kind = c.mask_kind;
  if (c.mask) a.mask = at(dtype_of(c.mask_kind), c.mask, c.mask_strides, head, first);
  a.mask_stride = c.mask_strides.token;
  a.seen = c.causal ? first + 1 : c.keys;
  a.y_stride = c.heads * c.dim;
  a.y = const_cast<void*>(offset(c.dtype, c.y, ((text * c.queries + first) * c.heads + head) * c.dim));
  a.room = room_of_thread.bytes(static_cast<std::size_t>(attention_room(c.keys, c.dim)));
  const TokenKernels& kernels = active_kernels().tokens(c.dtype);
  if (!kernels.attention(a)) kernels.plain_attention(a);
}

}  // namespace

void attention(const Attention& c) {
  const double work = static_cast<double>(c.texts * c.heads) * static_cast<double>(c.queries) *
                      static_cast<double>(c.keys) * static_cast<double>(c.dim);
  const std::int64_t threads = threads_for(work), parts = parts_of_head(c, threads);
  const std::int64_t count = c.texts * c.heads * parts, step = (c.queries + parts - 1) / parts;
  const std::int64_t whole = (step + kStep - 1) / kStep * kStep;
  parallel_for(threads, [&](std::int64_t i) {
    FlushDenormals flush;
    const Workspace::Trim trim{room_of_thread};
    for (std::int64_t item = count * i / threads; item < count * (i + 1) / threads; ++item) {
      const std::int64_t head = item / parts % c.heads, text = item / parts / c.heads;
      const std::int64_t first = item % parts * whole, last = std::min(first + whole, c.queries);
      if (first < last) attend(c, text, head, first, last);
    }
  });
}

bool has_fast_attention() {
  const TokenKernels& kernels = active_kernels().tokens(Dtype::bf16);
  return kernels.attention != kernels.plain_attention;
}

}  // namespace prunus
