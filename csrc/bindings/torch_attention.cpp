// The operator of attention for torch: a boxed CPU kernel.
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "bindings/torch_arguments.h"
#include "ops/attention.h"

namespace prunus::bindings {
namespace {

constexpr int kDims = 4;

void check_sizes(const char* name, const Operand& given, const std::string& expected, bool right) {
  if (given.dims != kDims || !right)
    throw ValueError(expected_got(name, expected, shape_text(given.sizes, given.dims)));
}

// Dimensions side by side: of the tensor itself or of a contiguous copy that takes its place.
HeadStrides strides_of(Tensor& tensor, const Operand& given) {
  const std::int64_t* s = given.strides;
  if (given.sizes[3] <= 1 || s[3] == 1) return {s[0], s[1], s[2]};
  const std::int64_t token = given.sizes[3], head = token * given.sizes[2], text = head * given.sizes[1];
  tensor = tensor.contiguous_copy();  // and what `given` points to is gone
  return {text, head, token};
}

AttentionMask kind_of(const std::string& dtype, const std::string& of_query) {
  if (dtype == "bool") return AttentionMask::bytes;
  if (dtype == "float32") return AttentionMask::f32;
  if (dtype == of_query) return dtype == "bfloat16" ? AttentionMask::bf16 : AttentionMask::f16;
  throw ValueError(expected_got(
      "mask", of_query == "float32" ? "bool or float32" : "bool, float32 or " + of_query, dtype));
}

void read_mask(Attention& call, Tensor& mask, const std::string& of_query) {
  call.mask_kind = AttentionMask::none;
  if (!mask) return;
  const Operand given = mask.operand("mask");
  call.mask_kind = kind_of(given.dtype, of_query);
  refuse_gradient("mask", mask);
  const std::int64_t full[kDims] = {call.texts, call.heads, call.queries, call.keys};
  bool right = given.dims == kDims && given.sizes[3] == call.keys;
  for (int d = 0; right && d < 3; ++d) right = given.sizes[d] == full[d] || given.sizes[d] == 1;
  check_sizes("mask", given, shape_text(full, kDims) + ", of which the first three may be 1", right);
  const bool one_text = given.sizes[0] == 1, one_head = given.sizes[1] == 1, one_query = given.sizes[2] == 1;
  const HeadStrides strides = strides_of(mask, given);
  call.mask_strides = {one_text ? 0 : strides.text, one_head ? 0 : strides.head,
                       one_query ? 0 : strides.token};
  call.mask = mask.data();
}

// Key and value are of one shape, of the dtype, texts and dim of query.
void check_keys(const Operand& q, const Operand& k, const Operand& v) {
  const std::string texts = std::to_string(q.sizes[0]), dim = std::to_string(q.sizes[3]);
  for (const auto& [name, given] : {std::pair{"key", &k}, std::pair{"value", &v}}) {
    if (given->dtype != q.dtype) throw ValueError(expected_got(name, q.dtype + " as query", given->dtype));
    check_sizes(name, *given, "(" + texts + ", heads, keys, " + dim + ") as query",
                given->dims == kDims && given->sizes[0] == q.sizes[0] && given->sizes[3] == q.sizes[3]);
  }
  check_sizes("value", v, shape_text(k.sizes, k.dims) + " as key",
              v.sizes[1] == k.sizes[1] && v.sizes[2] == k.sizes[2]);
}

// What is asked, but for where it lies.
Attention read_call(const Operand& q, const Operand& k, const Operand& v, double scale, bool causal) {
  check_float("query", q);
  check_sizes("query", q, "(texts, heads, queries, dim)", true);
  check_keys(q, k, v);
  Attention call{};
  call.dtype = dtype_from_name(q.dtype);
  call.texts = q.sizes[0], call.heads = q.sizes[1], call.queries = q.sizes[2], call.dim = q.sizes[3];
  call.kv_heads = k.sizes[1], call.keys = k.sizes[2];
  call.scale = static_cast<float>(scale), call.causal = causal;
  if (call.kv_heads == 0 ? call.heads != 0 : call.heads % call.kv_heads != 0)
    throw ValueError(expected_got("query",
                                  "a multiple of the " + std::to_string(call.kv_heads) + " heads of key",
                                  std::to_string(call.heads)));
  // What is added to scores is divided by it.
  if (!(call.scale > 0.0f) || !std::isfinite(call.scale) || !std::isfinite(1.0f / call.scale))
    throw ValueError(expected_got("scale", "a positive finite number", std::to_string(scale)));
  constexpr std::int64_t most = 1 << 26, most_dim = 1 << 16;  // kernels count tiles in int
  if (call.keys > most || call.queries > most || call.dim > most_dim)
    throw ValueError(
        expected_got("query", "at most 2^26 tokens and 2^16 dimensions", shape_text(q.sizes, q.dims)));
  return call;
}

Tensor attention_torch(Tensor query, Tensor key, Tensor value, Tensor mask, double scale, bool causal) {
  const Operand q = query.operand("query"), k = key.operand("key"), v = value.operand("value");
  Attention call = read_call(q, k, v, scale, causal);
  refuse_gradient("query", query);
  refuse_gradient("key", key);
  refuse_gradient("value", value);
  read_mask(call, mask, q.dtype);
  const std::int64_t sizes[kDims] = {call.texts, call.queries, call.heads, call.dim};
  Tensor y = Tensor::empty(kDims, sizes, query.dtype());
  const std::int64_t count = sizes[0] * sizes[1] * sizes[2] * sizes[3];
  call.y = y.mutable_data();
  if (count > 0 && call.keys == 0)
    std::memset(call.y, 0, static_cast<std::size_t>(count) * dtype_size(call.dtype));
  if (count == 0 || call.keys == 0) return y;
  call.q_strides = strides_of(query, q);
  call.k_strides = strides_of(key, k);
  call.v_strides = strides_of(value, v);
  call.q = query.data(), call.k = key.data(), call.v = value.data();
  attention(call);
  return y;
}

}  // namespace

void attention_kernel(StableIValue* stack, std::uint64_t, std::uint64_t) {
  Tensor query = take(stack[0]), key = take(stack[1]), value = take(stack[2]), mask = take_optional(stack[3]);
  double scale = 0;
  std::memcpy(&scale, &stack[4], sizeof scale);
  const bool causal = (stack[5] & 255) != 0;
  answer(stack, [&] {
    return attention_torch(std::move(query), std::move(key), std::move(value), std::move(mask), scale,
                           causal);
  });
}

}  // namespace prunus::bindings
