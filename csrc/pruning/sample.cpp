#include <algorithm>
#include <cmath>
#include <limits>

#include "pruning/one_pass.h"

namespace prunus {
namespace {

std::uint64_t scramble(std::uint64_t x) {  // splitmix64 (Steele, Lea, Flood 2014)
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// `drawn` entries, spread evenly over the chunks and within each, a scrambled step off the even places. By
// chunk, so that the cache misses of one chunk's entries overlap: singly they were measured to cost 100 ns
// each.
template <class Key>
std::vector<Key> draw(const Parts<Key>& parts, const Chunks<Key>& chunks, std::int64_t drawn) {
  std::vector<Key> sample(static_cast<std::size_t>(drawn));
  const double rate = static_cast<double>(drawn) / static_cast<double>(chunks.entries());
  const auto share = [&](std::int64_t entries) {
    return static_cast<std::int64_t>(static_cast<double>(entries) * rate);
  };
  sweep(chunks.count(), num_threads(), [&](std::int64_t task, int) {
    const Chunk chunk = chunks.at(task);
    const std::int64_t before = chunks.entries_before(chunk), first = share(before),
                       count = share(before + chunk.count) - first;
    std::uint16_t positions[kChunk];
    for (std::int64_t i = 0; i < count; ++i) {
      const double jitter =
          static_cast<double>(scramble(static_cast<std::uint64_t>(first + i)) >> 11) * 0x1p-53;
      positions[i] = static_cast<std::uint16_t>(
          (static_cast<double>(i) + jitter) / static_cast<double>(count) * static_cast<double>(chunk.count));
    }
    parts[chunk.part]->pick(chunk.begin, positions, count, &sample[static_cast<std::size_t>(first)]);
  });
  sample.resize(static_cast<std::size_t>(share(chunks.entries())));
  return sample;
}

}  // namespace

template <class Key>
Bracket<Key> sample_bracket(const Parts<Key>& parts, const Chunks<Key>& chunks, std::int64_t rank) {
  const std::int64_t n = chunks.entries();
  std::vector<Key> sample = draw(parts, chunks, std::clamp<std::int64_t>(n / 64, 1 << 14, 1 << 16));
  std::vector<Key> scratch(sample.size());
  const auto drawn = static_cast<std::int64_t>(sample.size());
  // Four standard deviations around the rank: some 0.5 % of the entries on either side.
  const double p = static_cast<double>(rank) / static_cast<double>(n), s = static_cast<double>(drawn);
  const double margin = 4.0 * std::sqrt(s * p * (1.0 - p)) + 4.0;
  const auto first = static_cast<std::int64_t>(std::floor(p * s - margin)),
             last = static_cast<std::int64_t>(p * s + margin);
  Bracket<Key> b{std::numeric_limits<Key>::min(), std::numeric_limits<Key>::max(), true};
  if (first >= 0) b.low = nth_key(sample.data(), drawn, first, scratch.data()).value;
  if (last < drawn) b.high = nth_key(sample.data(), drawn, last, scratch.data()).value;
  // Only entries strictly inside are set aside, so a cut at an end costs another pass: the ends move
  // outwards, unless so many entries equal an end (an already pruned tensor, a constant) that they would not
  // fit.
  Bracket<Key> wide{b.low, b.high, false};
  if (first >= 0) --wide.low;
  if (last < drawn) ++wide.high;
  std::int64_t below[2];
  key_kernels<Key>().count_below(sample.data(), drawn, {static_cast<Key>(wide.low + 1), wide.high}, below);
  if (below[1] - below[0] <= drawn / 24) return wide;
  if (b.low == b.high) ++b.high;
  return b;
}

template Bracket<std::int16_t> sample_bracket(const Parts<std::int16_t>&, const Chunks<std::int16_t>&,
                                              std::int64_t);
template Bracket<std::int32_t> sample_bracket(const Parts<std::int32_t>&, const Chunks<std::int32_t>&,
                                              std::int64_t);
template Bracket<std::int64_t> sample_bracket(const Parts<std::int64_t>&, const Chunks<std::int64_t>&,
                                              std::int64_t);

}  // namespace prunus
