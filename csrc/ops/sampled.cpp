#include "ops/sampled.h"

#include <algorithm>

#include "core/denormals.h"
#include "core/parallel.h"
#include "formats/value_index.h"
#include "kernels/kernels.h"
#include "ops/policy/policy.h"
#include "ops/policy/thresholds.h"
#include "ops/work.h"
#include "ops/workspace.h"

namespace prunus {
namespace {

thread_local Workspace columns_of_caller, rows_of_thread;

// How the product is cut: passes of the tokens that the kernel takes, column tiles of w, row chunks whose
// panel stays in L2 while the column tiles, each of which fits L1, go by.
struct Cut {
  const SampledProduct& of;
  const Kernels& kernels;
  std::int64_t width, tiles, piece;  // tokens of a pass; floats of the panel of a column tile
  explicit Cut(const SampledProduct& product)
      : of(product),
        kernels(active_kernels()),
        width(kernels.sampled->width),
        tiles(index_tiles(product.k)),
        piece((kIndexCols + 1) * width) {}

  std::int64_t passes() const { return (of.m + width - 1) / width; }
  int tokens_of(std::int64_t pass) const { return static_cast<int>(std::min(width, of.m - pass * width)); }
  // Passes whose panels of x are held together.
  std::int64_t passes_at_once() const {
    return std::max<std::int64_t>(1, threshold::kSampledFloats / (tiles * piece));
  }
  std::int64_t rows_at_once() const { return std::max<std::int64_t>(16, threshold::kSampledRows / width); }

  // Work before row r, in entries: a row itself has to be packed.
  std::int64_t cost_before(std::int64_t r) const {
    return of.first[r * tiles] + threshold::kSampledRowCost * r;
  }
  std::int64_t begin_of(std::int64_t i, std::int64_t threads) const {
    const std::int64_t target = cost_before(of.n) * i / threads;
    std::int64_t lo = 0, hi = of.n;
    while (lo < hi) {
      const std::int64_t mid = (lo + hi) / 2;
      cost_before(mid) < target ? lo = mid + 1 : hi = mid;
    }
    return i == threads ? of.n : lo;
  }

  void pack(const void* from, std::int64_t stride, std::int64_t pass, std::int64_t first, std::int64_t count,
            float* to) const {
    kernels.tokens(of.dtype).pack_strip(offset(of.dtype, from, pass * width * stride + first), stride,
                                        tokens_of(pass), static_cast<int>(count), static_cast<int>(width),
                                        to);
  }
};

// The passes from `first` on, whose panels of x are in `columns`, for some rows.
void add_rows(const Cut& cut, std::int64_t first, std::int64_t passes, const float* columns,
              std::int64_t begin, std::int64_t end) {
  const SampledProduct& p = cut.of;
  const std::int64_t most = std::min(cut.rows_at_once(), end - begin);
  auto* const rows = reinterpret_cast<float*>(
      rows_of_thread.bytes(static_cast<std::size_t>((most + 1) * cut.width) * sizeof(float)));
  for (std::int64_t pass = 0; pass < passes; ++pass)
    for (std::int64_t r = begin; r < end; r += most) {
      const std::int64_t count = std::min(most, end - r);
      cut.pack(p.grad, p.grad_stride, first + pass, r, count, rows);
      for (std::int64_t t = 0; t < cut.tiles; ++t)
        cut.kernels.sampled->fn.sampled({rows, columns + (pass * cut.tiles + t) * cut.piece,
                                         p.first + r * cut.tiles + t, cut.tiles, p.column,
                                         static_cast<int>(count), p.out});
    }
}

// Panels of x for the passes from `first` on, made by all threads.
void pack_columns(const Cut& cut, std::int64_t first, std::int64_t passes, std::int64_t threads,
                  float* columns) {
  const std::int64_t pieces = passes * cut.tiles;
  parallel_for(threads, [&](std::int64_t i) {
    for (std::int64_t j = pieces * i / threads; j < pieces * (i + 1) / threads; ++j) {
      const std::int64_t column = j % cut.tiles * kIndexCols;
      cut.pack(cut.of.x, cut.of.x_stride, first + j / cut.tiles, column,
               std::min<std::int64_t>(kIndexCols, cut.of.k - column), columns + j * cut.piece);
    }
  });
}

}  // namespace

void sampled_product(const SampledProduct& p) {
  const Cut cut(p);
  const std::int64_t entries = p.n == 0 ? 0 : p.first[p.n * cut.tiles];
  if (entries == 0) return;
  std::fill_n(p.out, entries, 0.0f);
  const Workspace::Trim trim{columns_of_caller};
  const std::int64_t at_once = std::min(cut.passes(), cut.passes_at_once());
  // Room behind the last for every column that a byte can name.
  auto* const columns = reinterpret_cast<float*>(columns_of_caller.bytes(
      static_cast<std::size_t>(at_once * cut.tiles * cut.piece + 256 * cut.width) * sizeof(float)));
  const std::int64_t threads = threads_for(static_cast<double>(entries) * static_cast<double>(p.m));
  for (std::int64_t first = 0; first < cut.passes(); first += at_once) {
    const std::int64_t passes = std::min(at_once, cut.passes() - first);
    pack_columns(cut, first, passes, threads, columns);
    parallel_for(threads, [&](std::int64_t i) {
      FlushDenormals flush;
      const Workspace::Trim trim_own{rows_of_thread};
      const std::int64_t begin = cut.begin_of(i, threads), end = cut.begin_of(i + 1, threads);
      if (begin < end) add_rows(cut, first, passes, columns, begin, end);
    });
  }
}

}  // namespace prunus
