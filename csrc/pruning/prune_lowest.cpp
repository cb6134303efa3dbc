#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <limits>

#include "pruning/chunks.h"
#include "pruning/cut.h"
#include "pruning/flags.h"
#include "pruning/one_pass.h"
#include "pruning/ties.h"

namespace prunus {
namespace {

constexpr std::int64_t kFew =
    1 << 18;  // so few keys are read into one buffer (2 MB at most) and selected there

template <class Key>
Cut<Key> cut_of_few(const Parts<Key>& parts, const Chunks<Key>& chunks, std::int64_t rank) {
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

// Radix select over everything: a read per 11 bits of key, constant memory.
template <class Key>
Cut<Key> cut_by_histograms(const Parts<Key>& parts, const Chunks<Key>& chunks, std::int64_t rank) {
  using Histogram = std::array<std::int64_t, kBuckets + 1>;  // the last counts keys outside [low, high]
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

// Writes every flag, then drops the last ties where not all of them go or stay. Throws NoOrder.
template <class Key>
void write_flags(const Parts<Key>& parts, const Chunks<Key>& chunks, const Floor<Key>& floor) {
  std::vector<std::int32_t> ties(static_cast<std::size_t>(chunks.count()));
  std::atomic<bool> ordered{true};
  sweep(chunks.count(), num_threads(), [&](std::int64_t task, int) {
    Key keys[kChunk];
    std::uint8_t keep[kChunk];
    const Chunk chunk = chunks.at(task);
    if (!parts[chunk.part]->read(chunk.begin, chunk.count, keys))
      ordered.store(false, std::memory_order_relaxed);
    ties[static_cast<std::size_t>(task)] =
        static_cast<std::int32_t>(flag(keys, chunk.count, floor.value, floor.tie, keep));
    parts[chunk.part]->write(chunk.begin, chunk.count, keep);
  });
  if (!ordered) throw NoOrder{};
  if (floor.drop == 0) return;
  const std::vector<TieDrop> drops = share_ties(parts, chunks, ties, floor);
  sweep(static_cast<std::int64_t>(drops.size()), num_threads(), [&](std::int64_t i, int) {
    Key keys[kChunk];
    std::uint8_t keep[kChunk];
    const TieDrop drop = drops[static_cast<std::size_t>(i)];
    const Chunk chunk = chunks.at(drop.task);
    parts[chunk.part]->read(chunk.begin, chunk.count, keys);
    flag(keys, chunk.count, floor.value, floor.tie, keep);
    drop_last(keys, chunk.count, floor.tie, drop.count, keep);
    parts[chunk.part]->write(chunk.begin, chunk.count, keep);
  });
}

}  // namespace

std::int64_t pruned_count(double sparsity, std::int64_t n) {
  const double count = std::floor(sparsity * static_cast<double>(n) + 0.5);
  return std::min(n, static_cast<std::int64_t>(count));
}

template <class Key>
void prune_lowest(const Parts<Key>& parts, std::int64_t prune) {
  const Chunks<Key> chunks(parts);
  const std::int64_t rank = prune - 1;
  if (chunks.entries() == 0) return;
  // All kept: a floor below every key; the pass looks for NaN all the same.
  if (prune == 0) return write_flags(parts, chunks, Floor<Key>{std::numeric_limits<Key>::min(), 0, 0});
  if (chunks.entries() <= kFew)
    return write_flags(parts, chunks, floor_of(cut_of_few(parts, chunks, rank), prune));
  const OnePass<Key> pass(parts, chunks, sample_bracket(parts, chunks, rank));
  const std::optional<Cut<Key>> cut = pass.cut(rank);
  if (cut && pass.has_set_aside(*cut)) return pass.settle(floor_of(*cut, prune));
  write_flags(parts, chunks, floor_of(cut ? *cut : cut_by_histograms(parts, chunks, rank), prune));
}

template void prune_lowest(const Parts<std::int16_t>&, std::int64_t);
template void prune_lowest(const Parts<std::int32_t>&, std::int64_t);
template void prune_lowest(const Parts<std::int64_t>&, std::int64_t);

}  // namespace prunus
