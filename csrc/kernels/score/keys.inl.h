// Scores to keys, keys to flags, and the counting that finds a cut. One text for every isa.

template <typename T>
bool keys(const std::uint8_t* p, std::int64_t n, typename KeyOf<T>::Key* out) {
  constexpr std::int64_t size = sizeof(*out);
  NanFinder<T> nan;
  std::int64_t i = 0;
  for (; i + 32 <= n; i += 32) KeyBlock<T>::load(p + i * size, nan).store(out + i);
  for (; i < n; ++i) out[i] = key_at(T{}, p, i, nan.seen);
  return !nan.found();
}

template <typename T, bool ends>
bool split_by(const std::uint8_t* p, std::int64_t n, std::int64_t first, std::uint8_t* keep,
              Split<typename KeyOf<T>::Key>* s) {
  using Key = typename KeyOf<T>::Key;
  constexpr std::int64_t size = sizeof(Key);
  const Key low = s->low, high = s->high;
  NanFinder<T> nan;
  std::int64_t i = 0, inside = s->inside, below_low = 0, over_low = 0, below_high = 0, over_high = 0;
  const auto list = [&](std::int64_t at) {
    s->positions[inside] = static_cast<std::uint16_t>(first + at);
    s->keys[inside++] = key_at(T{}, p, at, nan.seen);
  };
  for (; i + 32 <= n; i += 32) {
    const auto block = KeyBlock<T>::load(p + i * size, nan);
    const KeyBytes dropped = less(block, high);
    const std::uint32_t under = bits(dropped), over = bits(greater(block, low));
    store_unset(dropped, keep + i);
    below_high += __builtin_popcount(under);
    over_low += __builtin_popcount(over);
    if (ends) {
      below_low += __builtin_popcount(bits(less(block, low)));
      over_high += __builtin_popcount(bits(greater(block, high)));
    }
    for (std::uint32_t in = under & over; in != 0; in &= in - 1) list(i + __builtin_ctz(in));
  }
  for (; i < n; ++i) {
    const Key key = key_at(T{}, p, i, nan.seen);
    keep[i] = key >= high;
    below_low += key < low;
    over_low += key > low;
    below_high += key < high;
    over_high += key > high;
    if (key > low && key < high) list(i);
  }
  s->inside = inside;
  s->over_low += over_low;
  s->from_high += n - below_high;
  if (ends) {
    s->from_low += n - below_low;
    s->over_high += over_high;
  }
  return !nan.found();
}

template <typename T>
bool split(const std::uint8_t* p, std::int64_t n, std::int64_t first, std::uint8_t* keep,
           Split<typename KeyOf<T>::Key>* s) {
  return s->ends ? split_by<T, true>(p, n, first, keep, s) : split_by<T, false>(p, n, first, keep, s);
}

template <typename Key>
void split_keys(const std::uint8_t* keys, std::int64_t n, std::int64_t first, std::uint8_t* keep,
                Split<Key>* s) {
  split<RawKeys<Key>>(keys, n, first, keep, s);
}

template <typename Key>
inline KeyBlock<RawKeys<Key>> block_of(const Key* keys) {
  NanFinder<RawKeys<Key>> none;
  return KeyBlock<RawKeys<Key>>::load(reinterpret_cast<const std::uint8_t*>(keys), none);
}

template <typename Key>
void flag(const Key* keys, std::int64_t n, Key floor, std::uint8_t* keep) {
  std::int64_t i = 0;
  for (; i + 32 <= n; i += 32) store_unset(less(block_of(keys + i), floor), keep + i);
  for (; i < n; ++i) keep[i] = keys[i] >= floor;
}

template <typename Key>
void count_below(const Key* keys, std::int64_t n, const Key (&bounds)[2], std::int64_t (&below)[2]) {
  constexpr std::int64_t run = 8192;  // counted in lanes of the keys' width: fits 16 bits
  const Key a = bounds[0], b = bounds[1];
  below[0] = below[1] = 0;
  for (std::int64_t begin = 0; begin < n; begin += run) {
    const std::int64_t end = n - begin < run ? n : begin + run;
    Key under_a = 0, under_b = 0;
    for (std::int64_t i = begin; i < end; ++i) {
      under_a = static_cast<Key>(under_a + (keys[i] < a));
      under_b = static_cast<Key>(under_b + (keys[i] < b));
    }
    below[0] += under_a;
    below[1] += under_b;
  }
}

template <typename Key>
std::int64_t copy_within(const Key* keys, std::int64_t n, Key low, Key high, Key* out) {
  std::int64_t kept = 0, i = 0;
  for (; i + 32 <= n; i += 32) {
    const auto block = block_of(keys + i);
    for (std::uint32_t in = ~(bits(less(block, low)) | bits(greater(block, high))); in != 0; in &= in - 1)
      out[kept++] = keys[i + __builtin_ctz(in)];
  }
  for (; i < n; ++i) {
    const Key key = keys[i];
    out[kept] = key;
    kept += (key >= low) & (key <= high);
  }
  return kept;
}

// Every key's number of smaller ones; the key of a rank is the largest that has no more than that.
template <typename Key>
void quantiles(const Key (&sample)[kSampleKeys], const int (&ranks)[2], Key (&quantiles)[2]) {
  Key smaller[kSampleKeys] = {};
  for (int j = 0; j < kSampleKeys; ++j)
    for (int i = 0; i < kSampleKeys; ++i) smaller[i] = static_cast<Key>(smaller[i] + (sample[j] < sample[i]));
  for (int q = 0; q < 2; ++q) {
    Key best = static_cast<Key>(static_cast<Key>(1) << (8 * sizeof(Key) - 1));
    for (int i = 0; i < kSampleKeys; ++i)
      best = smaller[i] <= ranks[q] && sample[i] > best ? sample[i] : best;
    quantiles[q] = best;
  }
}
