// Where the cut lies. A sample brackets it, one pass over everything counts below the bracket and collects
// what lies inside, and a radix select among the few collected keys finds it exactly. The answer is a number,
// so the sample and the order of collecting cannot show in it.
#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <limits>
#include <optional>

#include "pruning/chunks.h"
#include "pruning/cut.h"

namespace prunus {
namespace {

constexpr std::int64_t kDirect = 1 << 18;  // so few entries are read into one buffer and selected there

std::uint64_t scramble(
    std::uint64_t x) {  // splitmix64 (Steele, Lea, Flood 2014): the same sample in every run
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

template <class Key>
struct Bracket {
  Key low, high;  // the cut is at low, at high or between them, unless the sample misled
};

// Quantiles of one entry drawn from each of `drawn` equal stretches, 4 standard deviations around the rank.
template <class Key>
Bracket<Key> bracket(const Chunks<Key>& chunks, std::int64_t rank) {
  const std::int64_t n = chunks.entries(), drawn = std::clamp<std::int64_t>(n / 64, 1 << 14, 1 << 17);
  std::vector<Key> sample(static_cast<std::size_t>(drawn));
  constexpr std::int64_t batch = 256;
  sweep(ceil_div(drawn, batch), num_threads(), [&](std::int64_t task, int) {
    for (std::int64_t i = task * batch; i < std::min(drawn, (task + 1) * batch); ++i) {
      const double jitter = static_cast<double>(scramble(static_cast<std::uint64_t>(i)) >> 11) * 0x1p-53;
      const double position = (static_cast<double>(i) + jitter) / static_cast<double>(drawn);
      sample[static_cast<std::size_t>(i)] =
          chunks.key(std::min(n - 1, static_cast<std::int64_t>(position * static_cast<double>(n))));
    }
  });
  const double p = static_cast<double>(rank) / static_cast<double>(n), s = static_cast<double>(drawn);
  const double centre = p * s, margin = 4.0 * std::sqrt(s * p * (1.0 - p)) + 4.0;
  const auto first = static_cast<std::int64_t>(centre - margin),
             last = static_cast<std::int64_t>(centre + margin);
  std::vector<Key> scratch(sample.size());
  return {first < 0 ? std::numeric_limits<Key>::min()
                    : nth_key(sample.data(), drawn, first, scratch.data()).value,
          last >= drawn ? std::numeric_limits<Key>::max()
                        : nth_key(sample.data(), drawn, last, scratch.data()).value};
}

struct alignas(64) Tally {  // one per worker, a cache line each
  std::int64_t below_low = 0, to_low = 0, below_high = 0, to_high = 0;
};

template <class Key>
void count_chunk(const Key* keys, std::int64_t n, Bracket<Key> b, Tally& tally) {
  Key below_low = 0, above_low = 0, below_high = 0, above_high = 0;  // at most kChunk: fits 16 bits
  for (std::int64_t i = 0; i < n; ++i) {
    below_low = static_cast<Key>(below_low + (keys[i] < b.low));
    above_low = static_cast<Key>(above_low + (keys[i] > b.low));
    below_high = static_cast<Key>(below_high + (keys[i] < b.high));
    above_high = static_cast<Key>(above_high + (keys[i] > b.high));
  }
  tally.below_low += below_low;
  tally.to_low += n - above_low;
  tally.below_high += below_high;
  tally.to_high += n - above_high;
}

// Keys strictly inside the bracket, in place.
template <class Key>
std::int64_t compact(Key* keys, std::int64_t n, Bracket<Key> b) {
  constexpr std::int64_t block = 32;
  std::int64_t kept = 0;
  for (std::int64_t i = 0; i < n; i += block) {
    const std::int64_t end = std::min(n, i + block);
    Key any = 0;
    for (std::int64_t j = i; j < end; ++j)
      any = static_cast<Key>(any | ((keys[j] > b.low) & (keys[j] < b.high)));
    if (!any) continue;
    for (std::int64_t j = i; j < end; ++j) {
      const Key key = keys[j];
      keys[kept] = key;
      kept += (key > b.low) & (key < b.high);
    }
  }
  return kept;
}

template <class Key>
std::optional<Cut<Key>> find_cut_by_sample(const Chunks<Key>& chunks, const Parts<Key>& parts,
                                           std::int64_t rank) {
  const Bracket<Key> b = bracket(chunks, rank);
  const std::int64_t capacity = chunks.entries() / 16;
  std::unique_ptr<Key[]> inside(
      new Key[static_cast<std::size_t>(capacity)]);  // pages it does not fill cost nothing
  std::atomic<std::int64_t> used{0};
  std::atomic<bool> ordered{true};
  const int workers = num_threads();
  std::vector<Tally> tallies(static_cast<std::size_t>(workers));
  sweep(chunks.count(), workers, [&](std::int64_t task, int worker) {
    Key keys[kChunk];
    const Chunk chunk = chunks.at(task);
    if (!parts[chunk.part]->read(chunk.begin, chunk.count, keys))
      ordered.store(false, std::memory_order_relaxed);
    count_chunk(keys, chunk.count, b, tallies[static_cast<std::size_t>(worker)]);
    const std::int64_t kept = compact(keys, chunk.count, b);
    const std::int64_t at = used.fetch_add(kept, std::memory_order_relaxed);
    if (at + kept <= capacity) std::copy(keys, keys + kept, inside.get() + at);
  });
  if (!ordered) throw NoOrder{};
  Tally sum;
  for (const Tally& t : tallies) {
    sum.below_low += t.below_low;
    sum.to_low += t.to_low;
    sum.below_high += t.below_high;
    sum.to_high += t.to_high;
  }
  if (rank < sum.below_low || rank >= sum.to_high) return std::nullopt;
  if (rank < sum.to_low) return Cut<Key>{b.low, sum.below_low, sum.to_low - sum.below_low};
  if (rank >= sum.below_high) return Cut<Key>{b.high, sum.below_high, sum.to_high - sum.below_high};
  if (used > capacity) return std::nullopt;
  Cut<Key> cut = nth_key(inside.get(), used.load(), rank - sum.to_low, inside.get());
  cut.below += sum.to_low;
  return cut;
}

}  // namespace

template <class Key>
Cut<Key> find_cut(const Parts<Key>& parts, std::int64_t rank) {
  const Chunks<Key> chunks(parts);
  if (chunks.entries() > kDirect) {
    if (const auto cut = find_cut_by_sample(chunks, parts, rank)) return *cut;
    return find_cut_by_histograms(parts, rank);
  }
  std::vector<Key> keys(static_cast<std::size_t>(chunks.entries()));
  bool ordered = true;
  Key* out = keys.data();
  for (const auto* part : parts) {
    ordered &= part->read(0, part->size(), out);
    out += part->size();
  }
  if (!ordered) throw NoOrder{};
  return nth_key(keys.data(), chunks.entries(), rank, keys.data());
}

template <class Key>
Cut<Key> find_cut_by_histograms(const Parts<Key>& parts, std::int64_t rank) {
  using Histogram = std::array<std::int64_t, kBuckets + 1>;  // the last counts keys outside [low, high]
  const Chunks<Key> chunks(parts);
  const int workers = num_threads();
  std::vector<Histogram> histograms(static_cast<std::size_t>(workers));
  Key low = std::numeric_limits<Key>::min(), high = std::numeric_limits<Key>::max();
  for (std::int64_t below = 0;;) {
    const int shift = std::max(0, bit_width(distance(low, high)) - kRadixBits);
    const Distance<Key> last = distance(low, high) >> shift;
    for (Histogram& h : histograms) h.fill(0);
    std::atomic<bool> ordered{true};
    sweep(chunks.count(), workers, [&](std::int64_t task, int worker) {
      Key keys[kChunk];
      Histogram& h = histograms[static_cast<std::size_t>(worker)];
      const Chunk chunk = chunks.at(task);
      if (!parts[chunk.part]->read(chunk.begin, chunk.count, keys))
        ordered.store(false, std::memory_order_relaxed);
      for (std::int64_t i = 0; i < chunk.count; ++i) {
        const Distance<Key> bucket = distance(low, keys[i]) >> shift;
        ++h[bucket <= last ? bucket : kBuckets];
      }
    });
    if (!ordered) throw NoOrder{};
    std::int64_t before = 0, equal = 0, bucket = -1;
    do {
      before += equal;
      ++bucket;
      equal = 0;
      for (const Histogram& h : histograms) equal += h[static_cast<std::size_t>(bucket)];
    } while (before + equal <= rank);
    below += before;
    rank -= before;
    low = advance(low, static_cast<Distance<Key>>(bucket) << shift);
    if (shift == 0) return {low, below, equal};
    const Distance<Key> width = (Distance<Key>{1} << shift) - 1;
    high = advance(low, std::min(width, distance(low, high)));
  }
}

#define PRUNUS_KEY(Key)                                        \
  template Cut<Key> find_cut(const Parts<Key>&, std::int64_t); \
  template Cut<Key> find_cut_by_histograms(const Parts<Key>&, std::int64_t);
PRUNUS_KEY(std::int16_t)
PRUNUS_KEY(std::int32_t)
PRUNUS_KEY(std::int64_t)
#undef PRUNUS_KEY

}  // namespace prunus
