#include "pruning/one_pass.h"

#include <algorithm>
#include <cstring>

#include "pruning/ties.h"

namespace prunus {
namespace {

// keep = at_high or above; collects the positions of what lies inside.
std::int64_t flag_classes(const std::uint8_t* classes, std::int64_t n, std::uint8_t* keep,
                          std::uint16_t* positions) {
  constexpr std::uint64_t ones = 0x0101010101010101u;
  std::int64_t found = 0, i = 0;
  for (; i + 8 <= n; i += 8) {
    std::uint64_t c;
    std::memcpy(&c, classes + i, 8);
    const std::uint64_t kept =
        ((c >> 2) | ((c >> 1) & c)) & ones;  // 4 is the only class with bit 2, 3 with 1 and 0
    std::memcpy(keep + i, &kept, 8);
    for (std::uint64_t in = (c >> 1) & ~c & ones; in != 0; in &= in - 1)
      positions[found++] = static_cast<std::uint16_t>(i + __builtin_ctzll(in) / 8);
  }
  for (; i < n; ++i) {
    keep[i] = classes[i] >= Class::at_high;
    if (classes[i] == Class::inside) positions[found++] = static_cast<std::uint16_t>(i);
  }
  return found;
}

}  // namespace

template <class Key>
OnePass<Key>::OnePass(const Parts<Key>& parts, const Chunks<Key>& chunks, Bracket<Key> bracket)
    : parts_(parts),
      chunks_(chunks),
      bracket_(bracket),
      capacity_(chunks.entries() / 16),
      keys_(new Key[static_cast<std::size_t>(capacity_)]),  // pages that are not reached cost nothing
      positions_(new std::uint16_t[static_cast<std::size_t>(capacity_)]),
      spans_(static_cast<std::size_t>(chunks.count())) {
  const int workers = num_threads();
  std::vector<Tally> tallies(static_cast<std::size_t>(workers));
  sweep(chunks.count(), workers,
        [&](std::int64_t task, int worker) { run(task, tallies[static_cast<std::size_t>(worker)]); });
  if (!ordered_) throw NoOrder{};
  for (const Tally& t : tallies)
    for (std::size_t i = 0; i < t.holds.size(); ++i) total_.holds[i] += t.holds[i];
}

template <class Key>
void OnePass<Key>::run(std::int64_t task, Tally& tally) {
  std::uint8_t classes[kChunk], keep[kChunk];
  std::uint16_t positions[kChunk];
  const Chunk chunk = chunks_.at(task);
  const Scored<Key>& part = *parts_[chunk.part];
  if (!part.classify(chunk.begin, chunk.count, bracket_, tally, classes))
    ordered_.store(false, std::memory_order_relaxed);
  const std::int64_t found = flag_classes(classes, chunk.count, keep, positions);
  part.write(chunk.begin, chunk.count, keep);
  const std::int64_t begin = used_.fetch_add(found, std::memory_order_relaxed);
  if (begin + found > capacity_) return;
  spans_[static_cast<std::size_t>(task)] = {begin, found};
  part.pick(chunk.begin, positions, found, &keys_[static_cast<std::size_t>(begin)]);
  std::copy(positions, positions + found, &positions_[static_cast<std::size_t>(begin)]);
}

template <class Key>
std::optional<Cut<Key>> OnePass<Key>::cut(std::int64_t rank) const {
  const auto fewer = [&](std::size_t i) { return chunks_.entries() - total_.holds[i]; };
  const std::int64_t below_low = fewer(0), to_low = fewer(1), below_high = fewer(2), to_high = fewer(3);
  if (rank < below_low || rank >= to_high) return std::nullopt;
  if (rank < to_low) return Cut<Key>{bracket_.low, below_low, to_low - below_low};
  if (rank >= below_high) return Cut<Key>{bracket_.high, below_high, to_high - below_high};
  if (used_ > capacity_) return std::nullopt;
  std::vector<Key> scratch(static_cast<std::size_t>(used_));
  Cut<Key> cut = nth_key(keys_.get(), used_.load(), rank - to_low, scratch.data());
  cut.below += to_low;
  return cut;
}

template <class Key>
void OnePass<Key>::settle(const Floor<Key>& floor) const {
  sweep(chunks_.count(), num_threads(), [&](std::int64_t task, int) {
    const Chunk chunk = chunks_.at(task);
    const Span span = spans_[static_cast<std::size_t>(task)];
    std::uint8_t keep[kChunk];
    const Key* keys = &keys_[static_cast<std::size_t>(span.begin)];
    for (std::int64_t i = 0; i < span.count; ++i) keep[i] = keys[i] >= floor.value;
    parts_[chunk.part]->mark(chunk.begin, &positions_[static_cast<std::size_t>(span.begin)], keep,
                             span.count);
  });
  if (floor.drop > 0) drop_last_ties(floor);
}

template <class Key>
void OnePass<Key>::drop_last_ties(const Floor<Key>& floor) const {
  std::vector<std::int32_t> ties(spans_.size());
  sweep(chunks_.count(), num_threads(), [&](std::int64_t task, int) {
    const Span span = spans_[static_cast<std::size_t>(task)];
    const Key* keys = &keys_[static_cast<std::size_t>(span.begin)];
    ties[static_cast<std::size_t>(task)] =
        static_cast<std::int32_t>(std::count(keys, keys + span.count, floor.tie));
  });
  const std::vector<TieDrop> drops = share_ties(parts_, chunks_, ties, floor);
  sweep(static_cast<std::int64_t>(drops.size()), num_threads(), [&](std::int64_t i, int) {
    const TieDrop drop = drops[static_cast<std::size_t>(i)];
    const Chunk chunk = chunks_.at(drop.task);
    const Span span = spans_[static_cast<std::size_t>(drop.task)];
    std::uint8_t keep[kChunk];
    const Key* keys = &keys_[static_cast<std::size_t>(span.begin)];
    for (std::int64_t i = 0; i < span.count; ++i) keep[i] = keys[i] >= floor.value;
    drop_last(keys, span.count, floor.tie, drop.count, keep);
    parts_[chunk.part]->mark(chunk.begin, &positions_[static_cast<std::size_t>(span.begin)], keep,
                             span.count);
  });
}

template class OnePass<std::int16_t>;
template class OnePass<std::int32_t>;
template class OnePass<std::int64_t>;

}  // namespace prunus
