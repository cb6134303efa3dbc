// Masks of large scores in one pass over them.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "pruning/bracket.h"
#include "pruning/chunks.h"
#include "pruning/flags.h"

namespace prunus {

// A sample brackets the cut. One pass then flags what lies outside the bracket and sets aside the few entries
// inside; a radix select among those finds the exact cut, and their flags are settled. What is found is exact
// and does not depend on the sample or the order of work; where the sample misled, nothing is found and other
// means are needed.
template <class Key>
class OnePass {
 public:
  // Reads every entry and writes every flag, those of the entries inside provisionally. Throws NoOrder.
  // Memory: a key and a position for at most 1/16 of the entries.
  OnePass(const Parts<Key>& parts, const Chunks<Key>& chunks, Bracket<Key> bracket);

  // The cut of the entry of this rank, if it lies in the bracket.
  std::optional<Cut<Key>> cut(std::int64_t rank) const;
  // Whether the cut lies inside the bracket, where every entry has been set aside, so that settle() can
  // finish.
  bool has_set_aside(const Cut<Key>& cut) const {
    return cut.value > bracket_.low && cut.value < bracket_.high;
  }
  void settle(const Floor<Key>& floor) const;
  // Whether the cut is an end of the bracket that was counted apart, so that settle_end() can finish.
  bool has_counted(const Cut<Key>& cut) const;
  // Reads again only the chunks whose provisional flags are wrong.
  void settle_end(const Cut<Key>& cut, std::int64_t prune) const;

 private:
  // How many entries lie from low, over low, from high and over high on. One per worker, a cache line each.
  struct alignas(64) Tally {
    std::int64_t from_low = 0, over_low = 0, from_high = 0, over_high = 0;
  };
  struct Span {
    std::int64_t begin = 0, count = 0;
  };
  struct Ends {
    std::int32_t low, high, inside;  // entries of a chunk that equal the ends, and between them
  };
  void run(std::int64_t task, Tally& tally);
  void drop_last_ties(const Floor<Key>& floor) const;

  const Parts<Key>& parts_;
  const Chunks<Key>& chunks_;
  const Bracket<Key> bracket_;
  const std::int64_t capacity_;
  std::unique_ptr<Key[]> keys_;                 // of entries inside, a span per chunk
  std::unique_ptr<std::uint16_t[]> positions_;  // in their chunk
  std::vector<Span> spans_;
  std::vector<Ends> ends_;  // where the bracket says so
  std::atomic<std::int64_t> used_{0};
  std::atomic<bool> ordered_{true};
  Tally total_;
};

// Around the rank, from quantiles of a sample that is the same in every run.
template <class Key>
Bracket<Key> sample_bracket(const Parts<Key>& parts, const Chunks<Key>& chunks, std::int64_t rank);

}  // namespace prunus
