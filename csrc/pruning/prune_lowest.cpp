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

constexpr std::int64_t kFew = 1 << 18;  // so few keys (2 MB at most) are kept, so that nothing is read twice

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

// Writes every flag, then drops the last ties where not all of them go or stay. keys_of(chunk, buffer) gives
// the chunk's keys, in the buffer or elsewhere.
template <class Key, class KeysOf>
void write_flags(const Parts<Key>& parts, const Chunks<Key>& chunks, const Floor<Key>& floor,
                 KeysOf&& keys_of) {
  std::vector<std::int32_t> ties(static_cast<std::size_t>(chunks.count()));
  sweep(chunks.count(), num_threads(), [&](std::int64_t task, int) {
    Key buffer[kChunk];
    std::uint8_t keep[kChunk];
    const Chunk chunk = chunks.at(task);
    const Key* keys = keys_of(chunk, buffer);
    flag(keys, chunk.count, floor.value, keep);
    if (floor.drop > 0)
      ties[static_cast<std::size_t>(task)] =
          static_cast<std::int32_t>(count_ties(keys, chunk.count, floor.tie));
    parts[chunk.part]->write(chunk.begin, chunk.count, keep);
  });
  if (floor.drop == 0) return;
  const std::vector<TieDrop> drops = share_ties(parts, chunks, ties, floor);
  sweep(static_cast<std::int64_t>(drops.size()), num_threads(), [&](std::int64_t i, int) {
    Key buffer[kChunk];
    std::uint8_t keep[kChunk];
    const TieDrop drop = drops[static_cast<std::size_t>(i)];
    const Chunk chunk = chunks.at(drop.task);
    const Key* keys = keys_of(chunk, buffer);
    flag(keys, chunk.count, floor.value, keep);
    drop_last(keys, chunk.count, floor.tie, drop.count, keep);
    parts[chunk.part]->write(chunk.begin, chunk.count, keep);
  });
}

template <class Key>
void prune_few(const Parts<Key>& parts, const Chunks<Key>& chunks, std::int64_t prune) {
  const std::vector<Key> keys = read_all(parts);
  std::vector<Key> scratch(keys.size());
  const auto n = static_cast<std::int64_t>(keys.size());
  const auto floor = floor_of(nth_key(keys.data(), n, prune - 1, scratch.data()), prune);
  write_flags(parts, chunks, floor, [&](const Chunk& chunk, Key*) {
    return &keys[static_cast<std::size_t>(chunks.entries_before(chunk))];
  });
}

// Reads everything again: for a cut that one pass could not use, or no cut at all. Throws NoOrder.
template <class Key>
void flag_again(const Parts<Key>& parts, const Chunks<Key>& chunks, const Floor<Key>& floor) {
  std::atomic<bool> ordered{true};
  write_flags(parts, chunks, floor, [&](const Chunk& chunk, Key* buffer) {
    if (!parts[chunk.part]->read(chunk.begin, chunk.count, buffer))
      ordered.store(false, std::memory_order_relaxed);
    return buffer;
  });
  if (!ordered) throw NoOrder{};
}

}  // namespace

std::int64_t pruned_count(double sparsity, std::int64_t n) {
  const double count = std::floor(sparsity * static_cast<double>(n) + 0.5);
  return std::min(n, static_cast<std::int64_t>(count));
}

template <class Key>
std::vector<Key> read_all(const Parts<Key>& parts) {
  const Chunks<Key> pieces(parts, 512);  // entries may be large blocks: short pieces keep every thread busy
  std::vector<Key> keys(static_cast<std::size_t>(pieces.entries()));
  std::atomic<bool> ordered{true};
  sweep(pieces.count(), num_threads(), [&](std::int64_t task, int) {
    const Chunk piece = pieces.at(task);
    Key* out = &keys[static_cast<std::size_t>(pieces.entries_before(piece))];
    if (!parts[piece.part]->read(piece.begin, piece.count, out))
      ordered.store(false, std::memory_order_relaxed);
  });
  if (!ordered) throw NoOrder{};
  return keys;
}

template <class Key>
void prune_lowest(const Parts<Key>& parts, std::int64_t prune) {
  const Chunks<Key> chunks(parts);
  const std::int64_t rank = prune - 1;
  if (chunks.entries() == 0) return;
  // All kept: a floor below every key; the pass looks for NaN all the same.
  if (prune == 0) return flag_again(parts, chunks, Floor<Key>{std::numeric_limits<Key>::min(), 0, 0});
  if (chunks.entries() <= kFew) return prune_few(parts, chunks, prune);
  const OnePass<Key> pass(parts, chunks, sample_bracket(parts, chunks, rank));
  const std::optional<Cut<Key>> cut = pass.cut(rank);
  if (cut && pass.has_set_aside(*cut)) return pass.settle(floor_of(*cut, prune));
  if (cut && pass.has_counted(*cut)) return pass.settle_end(*cut, prune);
  flag_again(parts, chunks, floor_of(cut ? *cut : cut_by_histograms(parts, chunks, rank), prune));
}

template void prune_lowest(const Parts<std::int16_t>&, std::int64_t);
template void prune_lowest(const Parts<std::int32_t>&, std::int64_t);
template void prune_lowest(const Parts<std::int64_t>&, std::int64_t);
template std::vector<std::int64_t> read_all(const Parts<std::int64_t>&);

}  // namespace prunus
