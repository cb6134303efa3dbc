#include "ops/linear.h"

#include <algorithm>

#include "core/denormals.h"
#include "core/parallel.h"
#include "ops/plan.h"
#include "ops/workspace.h"

namespace prunus {
namespace {

// Storing a row of a strip costs about as much as this many bytes of weight.
constexpr double kStoreCost = 40.0;

thread_local Workspace panels_of_caller, acc_of_worker;

// One chunk of tokens: its activations as panels, then every (row tile, strip) of the output once.
struct Chunk {
  const PackedView& w;
  const Plan& plan;
  LinearArgs args;  // of this chunk alone
  col8::Geometry geo;
  std::int64_t strips;
  float* panels;  // [strip][column tile][cols + 1][width]

  std::int64_t strip_floats() const { return (geo.k + geo.col_tiles()) * plan.width; }
  int tokens_of(std::int64_t s) const {
    return static_cast<int>(std::min<std::int64_t>(plan.width, args.m - s * plan.width));
  }
  float* panel(std::int64_t s, std::int64_t b) const {
    return panels + s * strip_floats() + b * (geo.tile_cols + 1) * plan.width;
  }

  void pack(std::int64_t s, std::int64_t b) const {
    const float* x = args.x + s * plan.width * args.x_stride + b * geo.tile_cols;
    plan.kernels->pack_panel(x, args.x_stride, tokens_of(s), static_cast<int>(geo.cols_of(b)), plan.width,
                             panel(s, b));
  }

  // The store at the end of a tile writes lines that were never read: fetch a share of them during each
  // column tile.
  void prefetch_output(std::int64_t s, std::int64_t row, int rows, std::int64_t b) const {
    const std::int64_t tokens = tokens_of(s), tiles = geo.col_tiles();
    for (std::int64_t i = tokens * b / tiles; i < tokens * (b + 1) / tiles; ++i)
      for (std::int64_t r = 0; r < rows; r += 16)
        __builtin_prefetch(args.y + (s * plan.width + i) * args.y_stride + row + r, 1);
  }

  void compute(std::int64_t t, std::int64_t s) const {
    const int rows = static_cast<int>(geo.rows_of(t)), padded = (rows + 7) / 8 * 8;
    float* acc = acc_of_worker.floats(static_cast<std::size_t>(padded) * plan.width);
    const std::int64_t row = t * geo.tile_rows;
    plan.kernels->init_acc(args.bias ? args.bias + row : nullptr, rows, padded, plan.width, acc);
    for (std::int64_t b = 0; b < geo.col_tiles(); ++b) {
      prefetch_output(s, row, rows, b);
      const col8::Slice tile = col8::slice(w, t, b);
      plan.kernel(tile.order, tile.steps, tile.groups, tile.group_count, panel(s, b), acc);
    }
    plan.kernels->store_tile(acc, plan.width, rows, tokens_of(s), args.activation,
                             args.y + s * plan.width * args.y_stride + row, args.y_stride);
  }

  // Items are (strip, row tile), strips outermost: a strip's panels stay in L2 while the weight streams past.
  // Cost of the items before one: bytes of weight, and the store of each tile.
  double cost_before(std::int64_t item) const {
    const std::int64_t rows = geo.row_tiles();
    const auto at = [&](std::int64_t t) {
      return static_cast<double>(col8::tile_offset(w, t * geo.col_tiles())) +
             kStoreCost * static_cast<double>(t * geo.tile_rows);
    };
    const double first = at(0);
    return static_cast<double>(item / rows) * (at(rows) - first) + at(item % rows) - first;
  }
  // First item of share `i` of `shares`: equal cost, not equal count, since global pruning leaves rows
  // uneven.
  std::int64_t share_begin(std::int64_t i, std::int64_t shares) const {
    const std::int64_t items = geo.row_tiles() * strips;
    const double first = cost_before(0), target = first + (cost_before(items) - first) *
                                                              static_cast<double>(i) /
                                                              static_cast<double>(shares);
    std::int64_t lo = 0, hi = items;
    while (lo < hi) {
      const std::int64_t mid = (lo + hi) / 2;
      cost_before(mid) < target ? lo = mid + 1 : hi = mid;
    }
    return lo;
  }

  void run() const {
    const std::int64_t threads = plan.threads, pieces = strips * geo.col_tiles();
    if (threads == 1 || plan.width == 1) {  // one token: 16 KB at most, not worth a region
      for (std::int64_t i = 0; i < pieces; ++i) pack(i / geo.col_tiles(), i % geo.col_tiles());
    } else {
      parallel_for(threads, [&](std::int64_t i) {
        for (std::int64_t p = pieces * i / threads; p < pieces * (i + 1) / threads; ++p)
          pack(p / geo.col_tiles(), p % geo.col_tiles());
      });
    }
    parallel_for(threads, [&](std::int64_t i) {
      FlushDenormals flush;
      const std::int64_t end = share_begin(i + 1, threads);
      for (std::int64_t item = share_begin(i, threads); item < end; ++item)
        compute(item / strips, item % strips);
    });
  }
};

}  // namespace

void linear(const PackedView& w, const LinearArgs& args) {
  if (args.m == 0 || w.header.n == 0) return;
  const Plan plan = make_plan(w, args.m);
  const col8::Geometry geo = col8::geometry(w.header);
  for (std::int64_t begin = 0; begin < args.m; begin += plan.chunk) {
    LinearArgs part = args;
    part.m = std::min(plan.chunk, args.m - begin);
    part.x += begin * args.x_stride;
    part.y += begin * args.y_stride;
    Chunk chunk{w, plan, part, geo, (part.m + plan.width - 1) / plan.width, nullptr};
    chunk.panels = panels_of_caller.floats(static_cast<std::size_t>(chunk.strips * chunk.strip_floats()));
    chunk.run();
  }
}

}  // namespace prunus
