// A head of attention by tile products of bf16: 16 queries a step, all their scores at once. Scores are kept
// without the scale, which the softmax applies. What one stage leaves in memory the next reads a step later,
// because a tile of AMX cannot be loaded from what was just stored without a long wait, nor a vector from a
// tile. What a tile is: simd/amx.h or simd/tiles_avx512.h; where things lie: attention_room.inl.h.

// Scores of 16 queries and the first keys, two tiles of them at a time.
template <int First>
inline void score_two(const AttentionRoom& room, const std::uint8_t* keys, std::uint8_t* scores) {
  const int steps = room.dim / 32;
  Tiles tiles;
  tiles.zero<First>();
  tiles.zero<First + 1>();
  for (int s = 0; s < steps; ++s) {
    tiles.load<4>(room.query_tiles + s * AttentionRoom::tile, 64);
    tiles.load<5>(keys + s * AttentionRoom::tile, 64);
    tiles.dot<First, 4, 5>(Bf16{});
    tiles.load<6>(keys + (steps + s) * AttentionRoom::tile, 64);
    tiles.dot<First + 1, 4, 6>(Bf16{});
  }
  tiles.store<First>(scores, 64);
  tiles.store<First + 1>(scores + AttentionRoom::tile, 64);
}
inline void attention_scores(const AttentionRoom& room, const AttentionStep& at) {
  const std::int64_t step = std::int64_t{2} * room.dim / 32 * AttentionRoom::tile;
  const std::uint8_t* keys = room.key_tiles;
  std::uint8_t* scores = at.scores;
  for (int i = 0; i < at.pairs; ++i, keys += step, scores += 2 * AttentionRoom::tile)
    i % 2 ? score_two<2>(room, keys, scores) : score_two<0>(room, keys, scores);
}

// Scores of keys that a query may not look at become -infinity.
inline void hide_keys(const AttentionArgs& a, const AttentionStep& at) {
  auto* scores = reinterpret_cast<float*>(at.scores);
  for (int r = 0; r < 16; ++r) {
    const auto seen = static_cast<int>(a.keys_seen(at.first + r));
    for (int t = seen / 16; t < 2 * at.pairs; ++t) {
      float* of = scores + t * 256 + r * 16;
      first_lanes(seen - t * 16, Zmm::load(of), Zmm::set(-__builtin_inff())).store(of);
    }
  }
}

// The scores of 16 keys with their mask: bytes, zero where the score is not wanted, or floats to be added. A
// NaN gives infinity, which attention_weights refuses.
inline Zmm with_mask(MaskBytes, const std::uint8_t* mask, Zmm scores, float) {
  return kept_lanes(mask, scores, Zmm::set(-__builtin_inff()));
}
template <typename M>
inline Zmm with_mask(M, const std::uint8_t* mask, Zmm scores, float unscale) {
  return nan_to(fma(Zmm{load16(M{}, mask)}, Zmm::set(unscale), scores), __builtin_inff());
}
template <typename M>
void mask_scores(M type, const AttentionArgs& a, const AttentionStep& at) {
  auto* scores = reinterpret_cast<float*>(at.scores);
  for (int r = 0; r < at.rows; ++r) {
    const auto* mask = static_cast<const std::uint8_t*>(a.mask) + (at.first + r) * a.mask_stride * M::size;
    for (int key = 0; key < 32 * at.pairs && key < a.keys; key += 16) {
      const std::uint8_t* from = mask + key * M::size;
      std::uint8_t rest[16 * M::size] = {};
      if (a.keys - key < 16) {
        __builtin_memcpy(rest, from, static_cast<std::size_t>(a.keys - key) * M::size);
        from = rest;
      }
      float* of = scores + key * 16 + r * 16;
      with_mask(type, from, Zmm::load(of), 1.0f / a.scale).store(of);
    }
  }
}
inline void mask_attention(const AttentionArgs& a, const AttentionStep& at) {
  with_mask_type(a.mask_kind, [&](auto type) { mask_scores(type, a, at); });
  hide_keys(a, at);
}

// The softmax of 16 queries, not yet divided by its sums. False: a score is not finite.
inline bool attention_weights(float scale, AttentionStep& at) {
  const auto* scores = reinterpret_cast<const float*>(at.scores);
  Zmm top[2][8];
#pragma GCC unroll 16
  for (int r = 0; r < 16; ++r) top[r / 8][r % 8] = Zmm::load(scores + r * 16);
  for (int t = 1; t < 2 * at.pairs; ++t)
#pragma GCC unroll 16
    for (int r = 0; r < 16; ++r) {
      Zmm& most = top[r / 8][r % 8];
      most = at_least(most, Zmm::load(scores + t * 256 + r * 16));
    }
  const float by = scale * 1.44269504088896341f;
  alignas(64) float start[16];
  maxima_of(top[0]).store(start);
  maxima_of(top[1]).store(start + 8);
  for (int r = 0; r < 16; ++r) {
    if (start[r] > 3.0e38f) return false;
    start[r] = start[r] < -3.0e38f ? 0.0f : start[r] * -by;
  }
  Zmm sum[2][8];
  for (int r = 0; r < 16; ++r) {
    const Zmm factor = Zmm::set(by), from = Zmm::set(start[r]);
    Zmm all = Zmm::set(0.0f);
    std::uint8_t* to = at.weights + r * 64;
    const float* of = scores + r * 16;
    for (int i = 0; i < at.pairs; ++i, of += 512, to += AttentionRoom::tile) {
      const Zmm low = exp2_of(fma(Zmm::load(of), factor, from)),
                high = exp2_of(fma(Zmm::load(of + 256), factor, from));
      all = all + (low + high);
      pairs_of_floats(low.v, high.v).store(reinterpret_cast<float*>(to));
    }
    sum[r / 8][r % 8] = all;
  }
  sums_of(sum[0]).store(at.inverse);
  sums_of(sum[1]).store(at.inverse + 8);
  for (float& of : at.inverse) of = of > 0.0f ? 1.0f / of : 0.0f;
  return true;
}

// Answers of 16 queries in 32 dimensions, or 64.
template <int Halves>
inline void sum_values(const AttentionRoom& room, const AttentionStep& at, int column) {
  Tiles tiles;
  tiles.zero<0>();
  tiles.zero<1>();
  if constexpr (Halves == 2) {
    tiles.zero<2>();
    tiles.zero<3>();
  }
  const std::uint8_t *weights = at.weights, *values = room.value_tiles + column / 16 * AttentionRoom::tile;
  const std::int64_t step = std::int64_t{room.dim} / 16 * AttentionRoom::tile;
  for (int i = 0; i < at.pairs; ++i, weights += AttentionRoom::tile, values += step) {
    tiles.load<4>(weights, 64);
    tiles.load<5>(values, 64);
    tiles.dot<0, 4, 5>(Bf16{});
    tiles.load<6>(values + AttentionRoom::tile, 64);
    tiles.dot<1, 4, 6>(Bf16{});
    if constexpr (Halves == 2) {
      tiles.load<7>(values + 2 * AttentionRoom::tile, 64);
      tiles.dot<2, 4, 7>(Bf16{});
      tiles.load<5>(values + 3 * AttentionRoom::tile, 64);
      tiles.dot<3, 4, 5>(Bf16{});
    }
  }
  std::uint8_t* sums = at.sums + column / 16 * AttentionRoom::tile;
  tiles.store<0>(sums, 64);
  tiles.store<1>(sums + AttentionRoom::tile, 64);
  if constexpr (Halves == 2) {
    tiles.store<2>(sums + 2 * AttentionRoom::tile, 64);
    tiles.store<3>(sums + 3 * AttentionRoom::tile, 64);
  }
}

inline void attention_sums(const AttentionRoom& room, const AttentionStep& at) {
  int column = 0;
  for (; column + 64 <= room.dim; column += 64) sum_values<2>(room, at, column);
  if (column < room.dim) sum_values<1>(room, at, column);
}

template <typename X>
void store_attention(const AttentionArgs& a, const AttentionStep& at) {
  for (int r = 0; r < at.rows; ++r) {
    auto* y = static_cast<std::uint8_t*>(a.y) + (at.first + r) * a.y_stride * X::size;
    const float* sums = reinterpret_cast<const float*>(at.sums) + r * 16;
    for (int column = 0; column < a.dim; column += 16, sums += 256) {
      const Zmm v = Zmm::load(sums) * Zmm::set(at.inverse[r]);
      if (a.dim - column >= 16) {
        store_lanes(X{}, v, y + column * X::size);
      } else {
        std::uint8_t rest[16 * X::size];
        store_lanes(X{}, v, rest);
        __builtin_memcpy(y + column * X::size, rest, static_cast<std::size_t>(a.dim - column) * X::size);
      }
    }
  }
}

template <typename X>
bool attention_tiles(const AttentionArgs& a) {
  const AttentionRoom room(a);
  if (!pack_attention_keys<X>(a, room) || !pack_attention_values<X>(a, room)) return false;
  start_tiles();
  bool tame = true;
  AttentionStep steps[4];
  const int count = (a.queries + 15) / 16;
  for (int i = 0; tame && i < count + 3; ++i) {
    if (i < count) {
      AttentionStep& at = steps[i % 4];
      at.begin(a, room, i);
      tame = pack_attention_queries<X>(a, room, at.first);
      attention_scores(room, at);
    }
    if (i >= 1 && i < count + 1) {
      AttentionStep& at = steps[(i - 1) % 4];
      mask_attention(a, at);
      tame = tame && attention_weights(a.scale, at);
    }
    if (i >= 2 && i < count + 2) attention_sums(room, steps[(i - 2) % 4]);
    if (i >= 3) store_attention<X>(a, steps[(i - 3) % 4]);
  }
  end_tiles();
  return tame;
}
