#include "ops/linear.h"

#include <algorithm>
#include <cstring>

#include "core/denormals.h"
#include "core/parallel.h"
#include "ops/plan.h"
#include "ops/workspace.h"

namespace prunus {
namespace {

// Storing a row of a strip costs about as much as this many bytes of weight.
constexpr double kStoreCost = 40.0;

// nm reads (and does not use) up to 16 floats behind the last group.
constexpr std::size_t kPanelSlack = 16;

const void* offset(Dtype dtype, const void* data, std::int64_t elements) {
  return static_cast<const std::uint8_t*>(data) + elements * static_cast<std::int64_t>(dtype_size(dtype));
}

thread_local Workspace panels_of_caller, acc_of_worker;

// One chunk of tokens: its activations as panels, then every (strip, row tile) of the output once.
struct Chunk {
  const PackedView& w;
  const Plan& plan;
  LinearArgs args;  // of this chunk alone
  Geometry geo;
  std::int64_t strips;
  float* panels;  // [strip][column tile][panel_floats]
  const TokenKernels& io;

  const void* x_at(std::int64_t token, std::int64_t col) const {
    return offset(args.dtype, args.x, token * args.x_stride + col);
  }
  void* y_at(std::int64_t token, std::int64_t row) const {
    return const_cast<void*>(offset(args.dtype, args.y, token * args.y_stride + row));
  }

  // Zero columns behind the last one of w, for what points outside of it.
  std::int64_t zeros() const { return std::max<std::int64_t>(1, w.header.unit.cols); }
  std::int64_t panel_floats() const {
    if (plan.layout == PanelLayout::rows) return plan.tokens * 64;
    return plan.layout == PanelLayout::few && plan.tokens > 1 ? plan.tokens * kFewPanel
                                                              : (geo.tile_cols + zeros()) * plan.tokens;
  }
  float* panel(std::int64_t s, std::int64_t b) const {
    return panels + (s * geo.col_tiles() + b) * panel_floats();
  }
  int tokens_of(std::int64_t s) const {
    return static_cast<int>(std::min<std::int64_t>(plan.tokens, args.m - s * plan.tokens));
  }

  void pack_strip(const void* x, int tokens, int cols, int width, float* to) const {
    io.pack_strip(x, args.x_stride, tokens, cols, width, to);
    const std::int64_t first = cols + 1, behind = round_up(cols, static_cast<int>(zeros())) + zeros();
    if (behind > first)
      std::memset(to + first * width, 0, static_cast<std::size_t>((behind - first) * width) * sizeof(float));
  }

  bool pack(std::int64_t s, std::int64_t b) const {
    const void* x = x_at(s * plan.tokens, b * geo.tile_cols);
    const int tokens = tokens_of(s), cols = geo.cols_of(b);
    if (plan.layout == PanelLayout::few) {
      if (tokens < plan.tokens)
        std::memset(panel(s, b), 0, static_cast<std::size_t>(panel_floats()) * sizeof(float));
      for (int t = 0; t < tokens; ++t)
        pack_strip(x_at(t, b * geo.tile_cols), 1, cols, 1, panel(s, b) + t * kFewPanel);
      return true;
    }
    if (plan.layout == PanelLayout::strip) {
      pack_strip(x, tokens, cols, plan.tokens, panel(s, b));
      return true;
    }
    // A rows kernel reads every token of its panel; those past the last are zero.
    std::memset(panel(s, b), 0, static_cast<std::size_t>(panel_floats()) * sizeof(float));
    return io.pack_rows(x, args.x_stride, tokens, cols, panel(s, b));
  }

  // False when x holds NaN or infinity and the kernel must not see them.
  bool pack_all() const {
    const std::int64_t pieces = strips * geo.col_tiles();
    if (plan.threads == 1 || plan.layout != PanelLayout::strip ||
        plan.tokens == 1) {  // a few rows are not worth a region
      bool finite = true;
      for (std::int64_t p = 0; p < pieces; ++p)
        finite = pack(p / geo.col_tiles(), p % geo.col_tiles()) && finite;
      return finite;
    }
    parallel_for(plan.threads, [&](std::int64_t i) {
      for (std::int64_t p = pieces * i / plan.threads; p < pieces * (i + 1) / plan.threads; ++p)
        pack(p / geo.col_tiles(), p % geo.col_tiles());
    });
    return true;
  }

  // The store at the end of a tile writes lines that were never read: fetch a share of them during each
  // column tile.
  void prefetch_output(std::int64_t s, std::int64_t row, int rows, std::int64_t b) const {
    const std::int64_t tokens = tokens_of(s), tiles = geo.col_tiles();
    for (std::int64_t i = tokens * b / tiles; i < tokens * (b + 1) / tiles; ++i)
      for (std::int64_t r = 0; r < rows; r += 16) __builtin_prefetch(y_at(s * plan.tokens + i, row + r), 1);
  }

  void multiply(std::int64_t t, std::int64_t s, float* acc) const {
    const std::uint8_t* scales = row_scales(w, t * geo.tile_rows);
    for (std::int64_t b = 0; b < geo.col_tiles(); ++b) {
      prefetch_output(s, t * geo.tile_rows, geo.rows_of(t), b);
      plan.kernel(tile_bytes(w, t * geo.col_tiles() + b), scales, geo.rows_of(t), geo.cols_of(b), geo.unit,
                  panel(s, b), acc);
    }
  }

  void compute(std::int64_t t, std::int64_t s) const {
    if (plan.layout == PanelLayout::few) return compute_few(t);
    const int rows = geo.rows_of(t), padded = round_up(rows, group_rows(w.header)), tokens = plan.tokens;
    const bool by_rows = plan.layout == PanelLayout::rows;
    const std::int64_t row = t * geo.tile_rows;
    const float* bias = args.bias ? args.bias + row : nullptr;
    const std::size_t sums =
        static_cast<std::size_t>(padded) * static_cast<std::size_t>(tokens) * (by_rows ? 8 : 1);
    float* acc = acc_of_worker.floats(sums + static_cast<std::size_t>(padded) * 8);
    int width = tokens;
    if (by_rows) {
      std::memset(acc, 0, sums * sizeof(float));
      multiply(t, s, acc);
      plan.kernels->reduce_rows(acc, bias, rows, tokens, acc + sums);
      acc += sums;
      width = tokens == 1 ? 1 : 8;
    } else {
      plan.kernels->init_strip(bias, rows, padded, width, acc);
      multiply(t, s, acc);
    }
    io.store_tile(acc, width, rows, tokens_of(s), args.activation, y_at(s * tokens, row), args.y_stride);
  }

  // All tokens in one strip. The kernel may take more than there are: what it adds for those is not stored.
  void compute_few(std::int64_t t) const {
    const int rows = geo.rows_of(t), padded = round_up(rows, group_rows(w.header));
    const std::int64_t row = t * geo.tile_rows;
    float* acc = acc_of_worker.floats(static_cast<std::size_t>(plan.tokens * kFewRows));
    for (int i = 0; i < plan.tokens; ++i)
      plan.kernels->init_strip(args.bias ? args.bias + row : nullptr, rows, padded, 1, acc + i * kFewRows);
    multiply(t, 0, acc);
    for (int i = 0; i < args.m; ++i)
      io.store_tile(acc + i * kFewRows, 1, rows, 1, args.activation, y_at(i, row), args.y_stride);
  }

  // Items are (strip, row tile), strips outermost: a strip's panels stay in L2 while the weight streams past.
  // Cost of the items before one: bytes of weight, and the store of each tile.
  double cost_before(std::int64_t item) const {
    const std::int64_t rows = geo.row_tiles();
    const auto at = [&](std::int64_t t) {
      return static_cast<double>(tile_offset(w, t * geo.col_tiles())) +
             kStoreCost * static_cast<double>(t * geo.tile_rows);
    };
    return static_cast<double>(item / rows) * (at(rows) - at(0)) + at(item % rows) - at(0);
  }
  // First item of share `i` of `shares`: equal cost, not equal count, since global pruning leaves rows
  // uneven.
  std::int64_t share_begin(std::int64_t i, std::int64_t shares) const {
    const std::int64_t items = geo.row_tiles() * strips;
    const double target = cost_before(items) * static_cast<double>(i) / static_cast<double>(shares);
    std::int64_t lo = 0, hi = items;
    while (lo < hi) {
      const std::int64_t mid = (lo + hi) / 2;
      cost_before(mid) < target ? lo = mid + 1 : hi = mid;
    }
    return lo;
  }

  bool run() const {
    if (!pack_all()) return false;
    parallel_for(plan.threads, [&](std::int64_t i) {
      FlushDenormals flush;
      const std::int64_t end = share_begin(i + 1, plan.threads);
      for (std::int64_t item = share_begin(i, plan.threads); item < end; ++item)
        compute(item % geo.row_tiles(), item / geo.row_tiles());
    });
    return true;
  }
};

bool run_chunk(const PackedView& w, const Plan& plan, const LinearArgs& args) {
  Chunk chunk{w,
              plan,
              args,
              geometry(w.header),
              (args.m + plan.tokens - 1) / plan.tokens,
              nullptr,
              token_kernels(*plan.kernels, args.dtype)};
  const std::int64_t floats = chunk.strips * chunk.geo.col_tiles() * chunk.panel_floats();
  chunk.panels = panels_of_caller.floats(static_cast<std::size_t>(floats) + kPanelSlack);
  return chunk.run();
}

}  // namespace

void linear(const PackedView& w, const LinearArgs& args) {
  if (args.m == 0 || w.header.n == 0) return;
  const bool finite = !needs_finite(w.header) ||
                      token_kernels(active_kernels(), args.dtype)
                          .all_finite(args.x, args.x_stride, args.m, static_cast<std::int64_t>(w.header.k));
  const Plan plan = make_plan(w, args.m, finite);
  for (std::int64_t begin = 0; begin < args.m; begin += plan.chunk) {
    LinearArgs part = args;
    part.m = std::min(plan.chunk, args.m - begin);
    part.x = offset(args.dtype, args.x, begin * args.x_stride);
    part.y = const_cast<void*>(offset(args.dtype, args.y, begin * args.y_stride));
    if (!run_chunk(w, plan, part)) run_chunk(w, make_plan(w, part.m, false), part);
  }
}

}  // namespace prunus
