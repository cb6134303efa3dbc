#include "pruning/one_pass.h"

#include <algorithm>
#include <cstring>

#include "pruning/ties.h"

namespace prunus {
template <class Key>
OnePass<Key>::OnePass(const Parts<Key>& parts, const Chunks<Key>& chunks, Bracket<Key> bracket)
    : parts_(parts),
      chunks_(chunks),
      bracket_(bracket),
      capacity_(chunks.entries() / 16),
      keys_(new Key[static_cast<std::size_t>(capacity_)]),  // pages that are not reached cost nothing
      positions_(new std::uint16_t[static_cast<std::size_t>(capacity_)]),
      spans_(static_cast<std::size_t>(chunks.count())),
      ends_(bracket.ends ? spans_.size() : 0) {
  const int workers = num_threads();
  std::vector<Tally> tallies(static_cast<std::size_t>(workers));
  sweep(chunks.count(), workers,
        [&](std::int64_t task, int worker) { run(task, tallies[static_cast<std::size_t>(worker)]); });
  if (!ordered_) throw NoOrder{};
  for (const Tally& t : tallies) {
    total_.from_low += t.from_low;
    total_.over_low += t.over_low;
    total_.from_high += t.from_high;
    total_.over_high += t.over_high;
  }
}

template <class Key>
void OnePass<Key>::run(std::int64_t task, Tally& tally) {
  Key keys[kChunk];
  std::uint16_t positions[kChunk];
  const Chunk chunk = chunks_.at(task);
  Split<Key> s{bracket_.low, bracket_.high, bracket_.ends, 0, 0, 0, 0, keys, positions, 0};
  if (!parts_[chunk.part]->split(chunk.begin, chunk.count, s))
    ordered_.store(false, std::memory_order_relaxed);
  if (!bracket_.ends) s.from_low = s.over_low, s.over_high = s.from_high;
  tally.from_low += s.from_low;
  tally.over_low += s.over_low;
  tally.from_high += s.from_high;
  tally.over_high += s.over_high;
  if (bracket_.ends)
    ends_[static_cast<std::size_t>(task)] = {static_cast<std::int32_t>(s.from_low - s.over_low),
                                             static_cast<std::int32_t>(s.from_high - s.over_high),
                                             static_cast<std::int32_t>(s.inside)};
  const std::int64_t begin = used_.fetch_add(s.inside, std::memory_order_relaxed);
  if (begin + s.inside > capacity_) return;
  spans_[static_cast<std::size_t>(task)] = {begin, s.inside};
  std::copy(keys, keys + s.inside, &keys_[static_cast<std::size_t>(begin)]);
  std::copy(positions, positions + s.inside, &positions_[static_cast<std::size_t>(begin)]);
}

template <class Key>
std::optional<Cut<Key>> OnePass<Key>::cut(std::int64_t rank) const {
  const std::int64_t n = chunks_.entries(), below_low = n - total_.from_low, to_low = n - total_.over_low,
                     below_high = n - total_.from_high, to_high = n - total_.over_high;
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
bool OnePass<Key>::has_counted(const Cut<Key>& cut) const {
  // Ties in the order of columns are shared out otherwise.
  return bracket_.ends && (cut.value == bracket_.low || cut.value == bracket_.high) &&
         std::none_of(parts_.begin(), parts_.end(), [](const auto* part) { return part->by_column; });
}

template <class Key>
void OnePass<Key>::settle_end(const Cut<Key>& cut, std::int64_t prune) const {
  const bool low = cut.value == bracket_.low;
  std::int64_t left = prune - cut.below;  // ties to drop, from the end
  std::vector<TieDrop> wrong;
  for (std::int64_t t = chunks_.count(); t-- > 0;) {
    const Ends ends = ends_[static_cast<std::size_t>(t)];
    const std::int64_t ties = low ? ends.low : ends.high, drop = std::min(left, ties);
    left -= drop;
    // So far ties of low are dropped, and with them what is inside; ties of high are kept.
    if (low ? drop < ties || ends.inside > 0 : drop > 0) wrong.push_back({t, drop});
  }
  sweep(static_cast<std::int64_t>(wrong.size()), num_threads(), [&](std::int64_t i, int) {
    const TieDrop drop = wrong[static_cast<std::size_t>(i)];
    const Chunk chunk = chunks_.at(drop.task);
    const Ends ends = ends_[static_cast<std::size_t>(drop.task)];
    const Span span = spans_[static_cast<std::size_t>(drop.task)];
    const bool all = drop.count == (low ? ends.low : ends.high);
    std::uint8_t keep[kChunk];
    if (low && all && span.count == ends.inside) {  // only what is inside has to be kept after all
      std::fill_n(keep, span.count, std::uint8_t{1});
      parts_[chunk.part]->mark(chunk.begin, &positions_[static_cast<std::size_t>(span.begin)], keep,
                               span.count);
      return;
    }
    Key keys[kChunk];
    parts_[chunk.part]->read(chunk.begin, chunk.count, keys);
    flag(keys, chunk.count, static_cast<Key>(cut.value + all), keep);
    if (!all) drop_last(keys, chunk.count, cut.value, drop.count, keep);
    parts_[chunk.part]->write(chunk.begin, chunk.count, keep);
  });
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
