// A head of attention in fp32, a query at a time. What there is to say about NaN and infinity it says as
// torch does. In `room`: the scores of a query, then its sums.

// What a mask makes of a score.
inline float masked_score(MaskBytes, const std::uint8_t* mask, float score) {
  return *mask ? score : -__builtin_inff();
}
template <typename M>
inline float masked_score(M, const std::uint8_t* mask, float score) {
  return score + load1(M{}, mask);
}
// The softmax of the scores, not yet divided by its sum, which is returned. Eight at a time.
inline float exponentials(float* scores, int count) {
  float top = -__builtin_inff();
  for (int key = 0; key < count; ++key)
    if (!(scores[key] <= top)) top = scores[key];  // NaN too, which then stays
  if (top == -__builtin_inff()) top = 0.0f;
  float sum = 0.0f;
  for (int key = 0; key < count; key += 8) {
    float e[8] = {};
    const int some = count - key < 8 ? count - key : 8;
    for (int i = 0; i < some; ++i) e[i] = scores[key + i] - top;
    exp_of(Vec8::load(e)).store(e);
    for (int i = 0; i < some; ++i) {
      scores[key + i] = scores[key + i] == -__builtin_inff() ? 0.0f : e[i];
      sum += scores[key + i];
    }
  }
  return sum;
}

inline void store1(F32, float f, std::uint8_t* to) { __builtin_memcpy(to, &f, sizeof f); }
template <typename X>
inline void store1(X x, float f, std::uint8_t* to) {
  const std::uint16_t half = narrow1(x, f);
  __builtin_memcpy(to, &half, sizeof half);
}

template <typename X>
bool attention(const AttentionArgs& a) {
  auto* scores = reinterpret_cast<float*>(a.room);
  float* sums = scores + a.keys;
  const auto row = [](const void* p, std::int64_t stride, int i) {
    return static_cast<const std::uint8_t*>(p) + i * stride * X::size;
  };
  for (int query = 0; query < a.queries; ++query) {
    const auto seen = static_cast<int>(a.keys_seen(query));
    const std::uint8_t* q = row(a.q, a.q_stride, query);
    for (int key = 0; key < seen; ++key) {
      const std::uint8_t* k = row(a.k, a.k_stride, key);
      float score = 0.0f;
      for (int d = 0; d < a.dim; ++d) score += load1(X{}, q + d * X::size) * load1(X{}, k + d * X::size);
      scores[key] = score * a.scale;
    }
    with_mask_type(a.mask_kind, [&](auto type) {
      constexpr int size = decltype(type)::size;
      const auto* mask = static_cast<const std::uint8_t*>(a.mask) + query * a.mask_stride * size;
      for (int key = 0; key < seen; ++key) scores[key] = masked_score(type, mask + key * size, scores[key]);
    });
    const float sum = exponentials(scores, seen);
    for (int d = 0; d < a.dim; ++d) sums[d] = 0.0f;
    for (int key = 0; key < seen; ++key) {
      if (scores[key] == 0.0f) continue;
      const std::uint8_t* v = row(a.v, a.v_stride, key);
      for (int d = 0; d < a.dim; ++d) sums[d] += scores[key] * load1(X{}, v + d * X::size);
    }
    auto* y = static_cast<std::uint8_t*>(a.y) + query * a.y_stride * X::size;
    for (int d = 0; d < a.dim; ++d) store1(X{}, sum == 0.0f ? 0.0f : sums[d] / sum, y + d * X::size);
  }
  return true;
}
