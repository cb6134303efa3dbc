// All entries of several parts as one list of chunks.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "pruning/cut.h"
#include "pruning/sweep.h"

namespace prunus {

struct Chunk {
  std::size_t part;
  std::int64_t begin, count;  // entries of that part
};

template <class Key>
class Chunks {
 public:
  explicit Chunks(const Parts<Key>& parts, std::int64_t length = kChunk) : parts_(parts), length_(length) {
    for (const auto* part : parts) {
      first_chunk_.push_back(chunks_);
      first_entry_.push_back(entries_);
      chunks_ += ceil_div(part->size(), length_);
      entries_ += part->size();
    }
  }

  std::int64_t count() const { return chunks_; }
  std::int64_t entries() const { return entries_; }
  std::int64_t first(std::size_t part) const { return first_chunk_[part]; }
  std::int64_t end(std::size_t part) const {
    return part + 1 < parts_.size() ? first_chunk_[part + 1] : chunks_;
  }

  Chunk at(std::int64_t chunk) const {
    const std::size_t part = part_of(first_chunk_, chunk);
    const std::int64_t begin = (chunk - first_chunk_[part]) * length_;
    return {part, begin, std::min(length_, parts_[part]->size() - begin)};
  }
  // Entries of all parts before this chunk.
  std::int64_t entries_before(const Chunk& chunk) const { return first_entry_[chunk.part] + chunk.begin; }

 private:
  // The last part that starts at or before: parts without entries start where the next one does.
  static std::size_t part_of(const std::vector<std::int64_t>& starts, std::int64_t position) {
    return static_cast<std::size_t>(std::upper_bound(starts.begin(), starts.end(), position) -
                                    starts.begin() - 1);
  }

  const Parts<Key>& parts_;
  const std::int64_t length_;
  std::vector<std::int64_t> first_chunk_, first_entry_;
  std::int64_t chunks_ = 0, entries_ = 0;
};

}  // namespace prunus
