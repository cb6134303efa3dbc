#include "ops/chunk.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/denormals.h"
#include "core/parallel.h"
#include "ops/workspace.h"

namespace prunus {
namespace {

// Storing a row of a strip costs about as much as this many bytes of weight.
constexpr double kStoreCost = 40.0;

// Walking a tile for a strip costs about what this many tokens more would.
constexpr double kStripCost = 12.0;

// nm reads (and does not use) up to 16 floats behind the last group.
constexpr std::size_t kPanelSlack = 16;

thread_local Workspace panels_of_caller, acc_of_worker;

// One chunk of tokens: its activations as panels, then every (strip, row tile) of the output once.
struct Chunk : Job {
  explicit Chunk(const Job& job)
      : Job(job),
        geo(geometry(w.header)),
        strips((args.m + plan.tokens - 1) / plan.tokens),
        io(token_kernels(*plan.kernels, args.dtype)) {}
  Geometry geo;
  std::int64_t strips;
  const TokenKernels& io;
  float* panels = nullptr;  // [strip][column tile][panel_floats]

  const void* x_at(std::int64_t token, std::int64_t col) const {
    return offset(args.dtype, args.x, token * args.x_stride + col);
  }
  void* y_at(std::int64_t token, std::int64_t row) const {
    return const_cast<void*>(offset(args.dtype, args.y, token * args.y_stride + row));
  }
  // How the sums of the rows from `row` on become y, those of `token` first.
  Finish finish(std::int64_t token, std::int64_t row) const {
    if (combine == Combine::none) return {up ? Activation::none : args.activation, combine, nullptr, 0};
    return {args.activation, combine, offset(args.dtype, args.residual, token * args.residual_stride + row),
            args.residual_stride};
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

  // Columns of a strip's panels and sums.
  int width_of(std::int64_t s) const {
    return plan.strips && s == strips - 1 ? strip_width(tokens_of(s)) : plan.tokens;
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
      pack_strip(x, tokens, cols, width_of(s), panel(s, b));
      return true;
    }
    // A rows kernel reads every token of its panel; those past the last are zero.
    std::memset(panel(s, b), 0, static_cast<std::size_t>(panel_floats()) * sizeof(float));
    return io.pack_rows(x, args.x_stride, tokens, cols, panel(s, b));
  }

  // False when x holds NaN or infinity and the kernel must not see them.
  bool pack_all(std::int32_t threads) const {
    const std::int64_t pieces = strips * geo.col_tiles();
    if (threads == 1 || plan.layout != PanelLayout::strip ||
        plan.tokens == 1) {  // a few rows are not worth a region
      bool finite = true;
      for (std::int64_t p = 0; p < pieces; ++p)
        finite = pack(p / geo.col_tiles(), p % geo.col_tiles()) && finite;
      return finite;
    }
    parallel_for(threads, [&](std::int64_t i) {
      for (std::int64_t p = pieces * i / threads; p < pieces * (i + 1) / threads; ++p)
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

  void multiply(const Factor& f, std::int64_t t, std::int64_t s, float* acc) const {
    const std::uint8_t* scales = row_scales(f.w, t * geo.tile_rows);
    const TileFn kernel = f.plan.strips ? f.plan.strips[width_of(s) / 8 - 1] : f.plan.kernel;
    for (std::int64_t b = 0; b < geo.col_tiles(); ++b) {
      prefetch_output(s, t * geo.tile_rows, geo.rows_of(t), b);
      kernel(tile_bytes(f.w, t * geo.col_tiles() + b), scales, geo.rows_of(t), geo.cols_of(b), geo.unit,
             panel(s, b), acc);
    }
  }

  // Floats of the sums of one tile, and of all that a tile's computation needs.
  std::size_t sums_of(int padded) const {
    if (plan.layout == PanelLayout::few) return static_cast<std::size_t>(plan.tokens) * kFewRows;
    const int of_row = plan.layout == PanelLayout::rows ? plan.kernels->row_lanes : 1;
    return static_cast<std::size_t>(padded) * static_cast<std::size_t>(plan.tokens * of_row);
  }
  std::size_t room_of(int padded) const { return sums_of(padded) + static_cast<std::size_t>(padded) * 8; }
  int padded_rows(std::int64_t t) const { return round_up(geo.rows_of(t), group_rows(w.header)); }

  // The sums of row tile t and strip s with bias, in `room`: [rows][sums_width(s)], layout few
  // [tokens][kFewRows].
  float* sums(const Factor& f, std::int64_t t, std::int64_t s, float* room) const {
    const int rows = geo.rows_of(t), padded = padded_rows(t);
    const float* bias = f.bias ? f.bias + t * geo.tile_rows : nullptr;
    const std::size_t count = sums_of(padded);
    if (plan.layout == PanelLayout::rows) {
      std::memset(room, 0, count * sizeof(float));
      multiply(f, t, s, room);
      plan.kernels->reduce_rows(room, row_scales(f.w, t * geo.tile_rows), bias, rows, plan.tokens,
                                room + count);
      return room + count;
    }
    if (plan.layout == PanelLayout::few)
      for (int i = 0; i < plan.tokens; ++i)
        plan.kernels->init_strip(bias, rows, padded, 1, room + i * kFewRows);
    else
      plan.kernels->init_strip(bias, rows, padded, width_of(s), room);
    multiply(f, t, s, room);
    return room;
  }
  int sums_width(std::int64_t s) const {
    return plan.layout == PanelLayout::rows && plan.tokens > 1 ? 8 : width_of(s);
  }

  void compute(std::int64_t t, std::int64_t s) const {
    const int rows = geo.rows_of(t), padded = padded_rows(t);
    const bool few = plan.layout == PanelLayout::few;
    float* room = acc_of_worker.floats(room_of(padded) * (up ? 2 : 1));
    float* acc = sums({w, plan, args.bias}, t, s, room);
    if (up) {
      const float* other = sums(*up, t, s, room + room_of(padded));
      plan.kernels->gate(acc, other, few ? plan.tokens * kFewRows : padded * sums_width(s), args.activation);
    }
    const std::int64_t row = t * geo.tile_rows, token = s * plan.tokens;
    if (!few)
      return io.store_tile(acc, sums_width(s), rows, tokens_of(s), finish(token, row), y_at(token, row),
                           args.y_stride);
    // All tokens are one strip. The kernel may take more than there are: what it adds for those is not
    // stored.
    for (int i = 0; i < args.m; ++i)
      io.store_tile(acc + i * kFewRows, 1, rows, 1, finish(i, row), y_at(i, row), args.y_stride);
  }

  // Items are (strip, row tile), strips outermost: a strip's panels stay in L2 while the weight streams past.
  // Cost of the items before one: bytes of weight, and the store of each tile.
  double cost_before(std::int64_t item) const {
    const std::int64_t rows = geo.row_tiles(), s = item / rows;
    const auto at = [&](std::int64_t t) {
      return static_cast<double>(tile_offset(w, t * geo.col_tiles())) +
             kStoreCost * static_cast<double>(t * geo.tile_rows);
    };
    // A narrow last strip costs less, though not in proportion.
    const double last = (kStripCost + width_of(strips - 1)) / (kStripCost + plan.tokens);
    const double whole = at(rows) - at(0), part = at(item % rows) - at(0);
    return s == strips ? whole * (static_cast<double>(strips - 1) + last)
                       : whole * static_cast<double>(s) + part * (s == strips - 1 ? last : 1.0);
  }
  std::int64_t items() const { return geo.row_tiles() * strips; }
  double cost() const { return cost_before(items()); }
  // First item that begins at this cost or later.
  std::int64_t item_at(double target) const {
    std::int64_t lo = 0, hi = items();
    while (lo < hi) {
      const std::int64_t mid = (lo + hi) / 2;
      cost_before(mid) < target ? lo = mid + 1 : hi = mid;
    }
    return lo;
  }
};

}  // namespace

// Shares are of equal cost, not equal count, since global pruning leaves rows uneven.
bool run(const Job* jobs, int count, std::int32_t threads) {
  std::vector<Chunk> chunks(jobs, jobs + count);
  const Chunk& first = chunks[0];
  const std::int64_t floats = first.strips * first.geo.col_tiles() * first.panel_floats();
  float* panels = panels_of_caller.floats(static_cast<std::size_t>(floats) + kPanelSlack);
  double whole = 0;
  for (Chunk& chunk : chunks) {
    chunk.panels = panels;
    whole += chunk.cost();
  }
  if (!first.pack_all(threads)) return false;
  parallel_for(threads, [&](std::int64_t i) {
    FlushDenormals flush;
    double begin = whole * static_cast<double>(i) / threads,
           end = whole * static_cast<double>(i + 1) / threads;
    for (const Chunk& chunk : chunks) {
      const std::int64_t last = i + 1 == threads ? chunk.items() : chunk.item_at(end);
      for (std::int64_t item = chunk.item_at(begin); item < last; ++item)
        chunk.compute(item % chunk.geo.row_tiles(), item / chunk.geo.row_tiles());
      begin -= chunk.cost();
      end -= chunk.cost();
    }
  });
  return true;
}

}  // namespace prunus
