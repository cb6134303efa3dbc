#include "ops/execute.h"

#include <algorithm>
#include <atomic>
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

// Floats of a strip that are packed in about the time that a parallel region takes.
constexpr std::int64_t kPackAlone = 64 * 1024;

thread_local Workspace panels_of_thread, acc_of_thread;

// One product: a strip of its tokens becomes panels, from which each row tile of the output follows.
struct Work : Job {
  explicit Work(const Job& job)
      : Job(job),
        geo(geometry(w.header)),
        strips((args.m + plan.tokens - 1) / plan.tokens),
        io(token_kernels(*plan.kernels, args.dtype)) {}
  Geometry geo;
  std::int64_t strips;
  const TokenKernels& io;

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
  std::int64_t strip_floats() const { return geo.col_tiles() * panel_floats(); }
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

  bool pack_tile(std::int64_t s, std::int64_t b, float* panel) const {
    const void* x = x_at(s * plan.tokens, b * geo.tile_cols);
    const int tokens = tokens_of(s), cols = geo.cols_of(b);
    if (plan.layout == PanelLayout::few) {
      if (tokens < plan.tokens)
        std::memset(panel, 0, static_cast<std::size_t>(panel_floats()) * sizeof(float));
      for (int t = 0; t < tokens; ++t)
        pack_strip(x_at(t, b * geo.tile_cols), 1, cols, 1, panel + t * kFewPanel);
      return true;
    }
    if (plan.layout == PanelLayout::strip) {
      pack_strip(x, tokens, cols, width_of(s), panel);
      return true;
    }
    // A rows kernel reads every token of its panel; those past the last are zero.
    std::memset(panel, 0, static_cast<std::size_t>(panel_floats()) * sizeof(float));
    return io.pack_rows(x, args.x_stride, tokens, cols, panel);
  }

  // The panels of a strip, one for each column tile. False when x holds NaN or infinity and the kernel must
  // not see them.
  bool pack(std::int64_t s, float* panels) const {
    bool finite = true;
    for (std::int64_t b = 0; b < geo.col_tiles(); ++b)
      finite = pack_tile(s, b, panels + b * panel_floats()) && finite;
    return finite;
  }

  // The store at the end of a tile writes lines that were never read: fetch a share of them during each
  // column tile.
  void prefetch_output(std::int64_t s, std::int64_t row, int rows, std::int64_t b) const {
    const std::int64_t tokens = tokens_of(s), tiles = geo.col_tiles();
    for (std::int64_t i = tokens * b / tiles; i < tokens * (b + 1) / tiles; ++i)
      for (std::int64_t r = 0; r < rows; r += 16) __builtin_prefetch(y_at(s * plan.tokens + i, row + r), 1);
  }

  void multiply(const Factor& f, std::int64_t t, std::int64_t s, const float* panels, float* acc) const {
    const std::uint8_t* scales = row_scales(f.w, t * geo.tile_rows);
    const TileFn kernel = f.plan.strips ? f.plan.strips[width_of(s) / 8 - 1] : f.plan.kernel;
    for (std::int64_t b = 0; b < geo.col_tiles(); ++b) {
      prefetch_output(s, t * geo.tile_rows, geo.rows_of(t), b);
      kernel(tile_bytes(f.w, t * geo.col_tiles() + b), scales, geo.rows_of(t), geo.cols_of(b), geo.unit,
             panels + b * panel_floats(), acc);
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
  float* sums(const Factor& f, std::int64_t t, std::int64_t s, const float* panels, float* room) const {
    const int rows = geo.rows_of(t), padded = padded_rows(t);
    const float* bias = f.bias ? f.bias + t * geo.tile_rows : nullptr;
    const std::size_t count = sums_of(padded);
    if (plan.layout == PanelLayout::rows) {
      std::memset(room, 0, count * sizeof(float));
      multiply(f, t, s, panels, room);
      plan.kernels->reduce_rows(room, row_scales(f.w, t * geo.tile_rows), bias, rows, plan.tokens,
                                room + count);
      return room + count;
    }
    if (plan.layout == PanelLayout::few)
      for (int i = 0; i < plan.tokens; ++i)
        plan.kernels->init_strip(bias, rows, padded, 1, room + i * kFewRows);
    else
      plan.kernels->init_strip(bias, rows, padded, width_of(s), room);
    multiply(f, t, s, panels, room);
    return room;
  }
  int sums_width(std::int64_t s) const {
    return plan.layout == PanelLayout::rows && plan.tokens > 1 ? 8 : width_of(s);
  }

  void compute(std::int64_t t, std::int64_t s, const float* panels) const {
    const int rows = geo.rows_of(t), padded = padded_rows(t);
    const bool few = plan.layout == PanelLayout::few;
    float* room = acc_of_thread.floats(room_of(padded) * (up ? 2 : 1));
    float* acc = sums({w, plan, args.bias}, t, s, panels, room);
    if (up) {
      const float* other = sums(*up, t, s, panels, room + room_of(padded));
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

  // Cost of the row tiles before t, for one strip: bytes of weight, and the store of each tile.
  double cost_before(std::int64_t t) const {
    return static_cast<double>(tile_offset(w, t * geo.col_tiles()) - tile_offset(w, 0)) +
           kStoreCost * static_cast<double>(t * geo.tile_rows);
  }
};

// The row tiles of all jobs for each strip, strips outermost: the panels of a strip stay in the L2 of the
// thread that made them while the weights stream past.
struct Items {
  const std::vector<Work>& works;
  std::int64_t per_strip = 0;
  double strip_cost = 0, last_strip = 1;  // of a whole strip; what the last one costs of that

  explicit Items(const std::vector<Work>& all) : works(all) {
    const Work& first = works[0];
    for (const Work& work : works) {
      per_strip += work.geo.row_tiles();
      strip_cost += work.cost_before(work.geo.row_tiles());
    }
    // A narrow last strip costs less, though not in proportion.
    last_strip = (kStripCost + first.width_of(first.strips - 1)) / (kStripCost + first.plan.tokens);
  }
  std::int64_t strips() const { return works[0].strips; }
  std::int64_t count() const { return per_strip * strips(); }
  double cost() const { return strip_cost * (static_cast<double>(strips() - 1) + last_strip); }

  // fn(work, row tile) of the item `index` of a strip.
  template <typename Fn>
  void at(std::int64_t index, Fn fn) const {
    for (const Work& work : works) {
      if (index < work.geo.row_tiles()) return fn(work, index);
      index -= work.geo.row_tiles();
    }
  }
  double cost_before(std::int64_t item) const {
    const std::int64_t s = item / per_strip;
    std::int64_t left = item % per_strip;
    double part = 0;
    for (const Work& work : works) {
      const std::int64_t tiles = std::min(left, work.geo.row_tiles());
      part += work.cost_before(tiles);
      left -= tiles;
    }
    return static_cast<double>(s) * strip_cost + (s == strips() - 1 ? last_strip : 1.0) * part;
  }
  // The item that begins nearest to this cost (the first behind it would be a whole tile off where a tile
  // ends just before).
  std::int64_t nearest(double target) const {
    std::int64_t lo = 0, hi = count();
    while (lo < hi) {
      const std::int64_t mid = (lo + hi) / 2;
      cost_before(mid) < target ? lo = mid + 1 : hi = mid;
    }
    return lo > 0 && target - cost_before(lo - 1) < cost_before(lo) - target ? lo - 1 : lo;
  }
  // First item of thread i. Shares are of equal cost, not equal count, since global pruning leaves rows
  // uneven.
  std::int64_t begin_of(std::int64_t i, std::int32_t threads) const {
    return i == threads ? count() : nearest(cost() * static_cast<double>(i) / threads);
  }
};

// Each thread packs the strips that it needs, though two may need the same: what one core has written another
// waits for, and a region for packing alone costs more than to pack twice (csrc/README.md). Not so where many
// threads share a long strip.
bool pack_together(const Work& work, std::int32_t threads) {
  return work.plan.layout == PanelLayout::strip && threads > 2 * work.strips &&
         work.strip_floats() > kPackAlone;
}

// The panels of all strips, in the caller's memory.
float* pack_all(const Work& work, std::int32_t threads) {
  const std::int64_t tiles = work.geo.col_tiles(), pieces = work.strips * tiles;
  float* panels =
      panels_of_thread.floats(static_cast<std::size_t>(pieces * work.panel_floats()) + kPanelSlack);
  parallel_for(threads, [&](std::int64_t i) {
    for (std::int64_t p = pieces * i / threads; p < pieces * (i + 1) / threads; ++p)
      work.pack_tile(p / tiles, p % tiles, panels + p * work.panel_floats());
  });
  return panels;
}

}  // namespace

bool execute(const Job* jobs, int count, std::int32_t threads) {
  const std::vector<Work> works(jobs, jobs + count);
  const Items items(works);
  const std::int64_t floats = works[0].strip_floats();
  float* const all = pack_together(works[0], threads) ? pack_all(works[0], threads) : nullptr;
  std::atomic<bool> finite{true};
  parallel_for(threads, [&](std::int64_t i) {
    FlushDenormals flush;
    float* own = all ? nullptr : panels_of_thread.floats(static_cast<std::size_t>(floats) + kPanelSlack);
    std::int64_t packed = -1;  // strip
    const std::int64_t end = items.begin_of(i + 1, threads);
    for (std::int64_t item = items.begin_of(i, threads); item < end; ++item) {
      const std::int64_t s = item / items.per_strip;
      if (!all && s != packed && !works[0].pack(s, own)) return finite.store(false);
      packed = s;
      const float* panels = all ? all + s * floats : own;
      items.at(item % items.per_strip, [&](const Work& work, std::int64_t t) { work.compute(t, s, panels); });
    }
  });
  return finite;
}

double balance(const PackedView& w, const Plan& plan, std::int64_t m) {
  LinearArgs args{};
  args.dtype = Dtype::f32;
  args.m = m;
  const std::vector<Work> works(1, Work(Job{w, plan, args, Combine::none, nullptr}));
  const Items items(works);
  double largest = 0, before = 0;
  for (std::int32_t i = 1; i <= plan.threads; ++i) {
    const double end = i == plan.threads ? items.cost() : items.cost_before(items.begin_of(i, plan.threads));
    largest = std::max(largest, end - before);
    before = end;
  }
  return largest > 0 ? items.cost() / plan.threads / largest : 1.0;
}

}  // namespace prunus
