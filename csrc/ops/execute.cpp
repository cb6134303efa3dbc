#include "ops/execute.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "core/denormals.h"
#include "core/parallel.h"
#include "ops/panels/panel.h"
#include "ops/policy/thresholds.h"
#include "ops/workspace.h"

namespace prunus {
namespace {

thread_local Workspace panels_of_thread, sums_of_thread;

// The store at the end of a tile writes lines that were never read: fetch a share of them during each column
// tile.
void prefetch_output(const Work& work, std::int64_t t, std::int64_t s, std::int64_t b) {
  const std::int64_t tokens = work.tokens_of(s), tiles = work.geo.col_tiles(), row = t * work.geo.tile_rows;
  const int rows = work.geo.rows_of(t);
  for (std::int64_t i = tokens * b / tiles; i < tokens * (b + 1) / tiles; ++i)
    for (std::int64_t r = 0; r < rows; r += 16)
      __builtin_prefetch(work.y_at(s * work.plan.tokens + i, row + r), 1);
}

// A set of panels: pieces of one size, one for each column tile.
struct Panels {
  const PanelKind& kind;
  std::int64_t piece;  // bytes
  explicit Panels(const Work& work)
      : kind(panel_kind(work.plan.row->panel)), piece((kind.bytes(work) + 63) / 64 * 64) {}
};

// The finished sums of row tile t and strip s, in `room`.
float* multiply(const Work& work, const Panels& panels, const Factor& f, std::int64_t t, std::int64_t s,
                const std::uint8_t* strip, void* room) {
  const Geometry& geo = work.geo;
  const SafeTiles tiles(f.w);
  const TileFn kernel = work.row_of(f.plan, s).fn.tile;
  TileArgs args{nullptr, row_scales(f.w, t * geo.tile_rows), geo.rows_of(t), 0, geo.unit, nullptr, room};
  panels.kind.start(work, f, t, s, room);
  for (std::int64_t b = 0; b < geo.col_tiles(); ++b) {
    prefetch_output(work, t, s, b);
    args.cols = geo.cols_of(b);
    args.tile = tiles.tile(t * geo.col_tiles() + b, {args.rows, args.cols, geo.unit});
    args.panel = strip + b * panels.piece;
    kernel(args);
  }
  return panels.kind.finish(work, f, t, s, room);
}

void compute(const Work& work, const Panels& panels, std::int64_t t, std::int64_t s,
             const std::uint8_t* strip) {
  const int padded = work.padded_rows(t);
  const std::size_t room = (panels.kind.room(work, padded) + 63) / 64 * 64;
  std::uint8_t* const rooms = sums_of_thread.bytes(room * (work.up ? 2 : 1) + kSumsSlack);
  float* sums = multiply(work, panels, {work.w, work.plan, work.args.bias}, t, s, strip, rooms);
  if (work.up) {
    const float* other = multiply(work, panels, *work.up, t, s, strip, rooms + room);
    work.plan.kernels->gate(sums, other, panels.kind.finished(work, s, padded), work.args.activation);
  }
  panels.kind.store(work, t, s, sums, strip);
}

// Cost of the row tiles before t, for one strip: bytes of weight, and the store of each tile.
double cost_before_tile(const Work& work, std::int64_t t) {
  const auto bytes = tile_offset(work.w, t * work.geo.col_tiles()) - tile_offset(work.w, 0);
  return static_cast<double>(bytes) + threshold::kStoreCost * static_cast<double>(t * work.geo.tile_rows);
}

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
      strip_cost += cost_before_tile(work, work.geo.row_tiles());
    }
    // A narrow last strip costs less, though not in proportion.
    last_strip = (threshold::kStripCost + first.width_of(first.strips - 1)) /
                 (threshold::kStripCost + first.plan.tokens);
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
      part += cost_before_tile(work, tiles);
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
// waits for, and a region for packing alone costs more than to pack twice. Not so where many threads share a
// long strip.
bool pack_together(const Work& work, const Panels& panels, std::int32_t threads) {
  constexpr auto alone = threshold::kPackAlone * static_cast<std::int64_t>(sizeof(float));
  return panels.kind.shareable && threads > 2 * work.strips && work.geo.col_tiles() * panels.piece > alone;
}

// The panels of all strips, in the caller's memory.
const std::uint8_t* pack_all(const Work& work, const Panels& panels, std::int32_t threads) {
  const std::int64_t tiles = work.geo.col_tiles(), pieces = work.strips * tiles;
  std::uint8_t* const all =
      panels_of_thread.bytes(static_cast<std::size_t>(pieces * panels.piece) + kPanelSlack);
  parallel_for(threads, [&](std::int64_t i) {
    for (std::int64_t p = pieces * i / threads; p < pieces * (i + 1) / threads; ++p)
      panels.kind.pack(work, p / tiles, p % tiles, all + p * panels.piece);
  });
  return all;
}

// One strip. False when x holds NaN or infinity and the kernel must not see them.
bool pack_strip(const Work& work, const Panels& panels, std::int64_t s, std::uint8_t* strip) {
  bool finite = true;
  for (std::int64_t b = 0; b < work.geo.col_tiles(); ++b)
    finite = panels.kind.pack(work, s, b, strip + b * panels.piece) && finite;
  return finite;
}

// The rows of the last call, for tests and explain: noting them is two stores.
thread_local const Row* ran[2];

}  // namespace

bool execute(const Job* jobs, int count, std::int32_t threads) {
  const std::vector<Work> works(jobs, jobs + count);
  const Items items(works);
  const Panels panels(works[0]);
  const std::int64_t bytes = works[0].geo.col_tiles() * panels.piece;
  const Workspace::Trim trim{panels_of_thread};
  const std::uint8_t* const all =
      pack_together(works[0], panels, threads) ? pack_all(works[0], panels, threads) : nullptr;
  ran[0] = jobs[0].plan.row;
  ran[1] = jobs[0].plan.last;
  std::atomic<bool> finite{true};
  parallel_for(threads, [&](std::int64_t i) {
    FlushDenormals flush;
    // Not the caller's memory before the others are done with it.
    const Workspace::Trim trim_own{all ? sums_of_thread : panels_of_thread};
    std::uint8_t* const own =
        all ? nullptr : panels_of_thread.bytes(static_cast<std::size_t>(bytes) + kPanelSlack);
    std::int64_t packed = -1;  // strip
    const std::int64_t end = items.begin_of(i + 1, threads);
    for (std::int64_t item = items.begin_of(i, threads); item < end; ++item) {
      const std::int64_t s = item / items.per_strip;
      if (!all && s != packed && !pack_strip(works[0], panels, s, own)) return finite.store(false);
      packed = s;
      const std::uint8_t* const strip = all ? all + s * bytes : own;
      items.at(item % items.per_strip,
               [&](const Work& work, std::int64_t t) { compute(work, panels, t, s, strip); });
    }
  });
  return finite;
}

std::vector<std::string> last_kernels() {
  std::vector<std::string> names;
  for (const Row* row : ran)
    if (row && (names.empty() || names[0] != row->name)) names.emplace_back(row->name);
  return names;
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
