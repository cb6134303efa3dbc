#include "pruning/select.h"

#include <algorithm>
#include <limits>

#include "pruning/cut.h"
#include "pruning/floats.h"
#include "pruning/keys.h"
#include "pruning/lines.h"
#include "pruning/nm.h"

namespace prunus {
namespace {

struct NanCount {
  std::int64_t count = 0, first = std::numeric_limits<std::int64_t>::max();  // flat index, the caller's order
};

template <class T>
NanCount count_nan(const Plane& plane) {
  NanCount nan;
  typename KeyOf<T>::Key key;
  for (std::int64_t i = 0; i < plane.rows; ++i)
    for (std::int64_t j = 0; j < plane.cols; ++j) {
      if (keys_of<T>(plane.at(i, j), 1, &key)) continue;
      ++nan.count;
      nan.first = std::min(nan.first, plane.transposed ? j * plane.rows + i : i * plane.cols + j);
    }
  return nan;
}

// The sentence for NoOrder; the slow search happens only on the way to the error.
[[noreturn]] void refuse_nan(const std::vector<Selection>& all) {
  for (const Selection& s : all) {
    NanCount nan;
    with_float(s.scores.dtype, [&](auto t) { nan = count_nan<decltype(t)>(s.scores); });
    if (nan.count > 0)
      throw ValueError(
          expected_got(s.name.c_str(), "no NaN",
                       std::to_string(nan.count) + ", the first at flat index " + std::to_string(nan.first)));
  }
  throw ValueError(all.front().name + ": expected blocks with a sum, got one that holds both inf and -inf");
}

// The narrowest float that holds every value of every selection.
Dtype common_dtype(const std::vector<Selection>& all) {
  Dtype common = all.front().scores.dtype;
  for (const Selection& s : all) {
    const Dtype d = s.scores.dtype;
    if (d != common) common = d == Dtype::f64 || common == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  }
  return common;
}

template <class F>
void prune_together(const std::vector<Selection>& all, double sparsity) {
  using Key = typename KeyOf<F>::Key;
  std::vector<ScoredPtr<Key>> owned;
  Parts<Key> parts;
  std::int64_t entries = 0;
  for (const Selection& s : all) {
    owned.push_back(scored_elements<F>(s.scores, s.mask));
    parts.push_back(owned.back().get());
    entries += s.scores.size();
  }
  prune_lowest(parts, pruned_count(sparsity, entries));
}

// Blocks with their sums kept. Of large blocks they are small, and a sampled sum would touch every line of
// its block.
class KeptBlocks final : public Scored<std::int64_t> {
 public:
  explicit KeptBlocks(const Scored<std::int64_t>& blocks)
      : Scored(blocks.rows, blocks.cols, blocks.by_column),
        blocks_(blocks),
        keys_(read_all<std::int64_t>({&blocks})) {}
  bool read(std::int64_t begin, std::int64_t count, std::int64_t* keys) const override {
    std::copy_n(&keys_[static_cast<std::size_t>(begin)], count, keys);
    return true;
  }
  void write(std::int64_t begin, std::int64_t count, const std::uint8_t* keep) const override {
    blocks_.write(begin, count, keep);
  }

 private:
  const Scored<std::int64_t>& blocks_;
  const std::vector<std::int64_t> keys_;
};

}  // namespace

void select_global(const std::vector<Selection>& all, double sparsity) {
  if (all.empty()) return;
  try {
    with_float(common_dtype(all), [&](auto t) { prune_together<decltype(t)>(all, sparsity); });
  } catch (const NoOrder&) {
    refuse_nan(all);
  }
}

void select_unstructured(const Selection& s, double sparsity, Scope scope) {
  if (scope == Scope::tensor) return select_global({s}, sparsity);
  const Plane& p = s.scores;
  try {
    with_float(p.dtype, [&](auto t) {
      using T = decltype(t);
      if ((scope == Scope::column) != p.transposed) {
        prune_columns<T>(p, s.mask, pruned_count(sparsity, p.rows));
      } else {
        prune_groups(*scored_elements<T>(p, s.mask), p.cols, pruned_count(sparsity, p.cols));
      }
    });
  } catch (const NoOrder&) {
    refuse_nan({s});
  }
}

void select_nm(const Selection& s, std::int64_t n, std::int64_t m) {
  const Plane& p = s.scores;
  try {
    with_float(p.dtype, [&](auto t) {
      using T = decltype(t);
      const auto part = scored_elements<T>(p, s.mask);
      if (m <= kCountedGroup) return prune_nm(*part, n, m);
      if (!p.transposed) return prune_groups(*part, m, m - n);
      for (std::int64_t row = 0; row < p.rows; row += m)
        prune_columns<T>({p.at(row, 0), p.dtype, m, p.cols, p.row_stride, true},
                         {s.mask.at(row, 0), s.mask.row_stride}, m - n);
    });
  } catch (const NoOrder&) {
    refuse_nan({s});
  }
}

void select_blocks(const Selection& s, std::int64_t rows, std::int64_t cols, double sparsity) {
  if (rows == 1 && cols == 1) return select_global({s}, sparsity);
  const Plane& p = s.scores;
  if (p.size() == 0) return;
  const auto part =
      p.transposed ? scored_blocks(p, s.mask, cols, rows) : scored_blocks(p, s.mask, rows, cols);
  try {
    const std::int64_t prune = pruned_count(sparsity, part->size());
    // 8 bytes per sum and 10 for some 1/16 of them: within 1/8 of the scores.
    if (rows * cols * static_cast<std::int64_t>(dtype_size(p.dtype)) < 128)
      return prune_lowest<std::int64_t>({part.get()}, prune);
    const KeptBlocks kept(*part);
    prune_lowest<std::int64_t>({&kept}, prune);
  } catch (const NoOrder&) {
    refuse_nan({s});
  }
}

}  // namespace prunus
