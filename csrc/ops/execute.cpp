#include "ops/execute.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/denormals.h"
#include "core/parallel.h"
#include "ops/items.h"
#include "ops/later.h"
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
  std::int64_t piece, strip;  // bytes: of a column tile, and of all
  explicit Panels(const Work& work)
      : kind(panel_kind(work.plan.row->panel)),
        piece((kind.bytes(work) + 63) / 64 * 64),
        strip(work.geo.col_tiles() * piece) {}
};

// The finished sums of row tile t and strip s, in `room`.
float* multiply(const Work& work, const Panels& panels, const Factor& f, std::int64_t t, std::int64_t s,
                const std::uint8_t* strip, void* room, Meanwhile* meanwhile = nullptr) {
  const Geometry& geo = work.geo;
  const SafeTiles tiles(f.w);
  const TileFn kernel = work.row_of(f.plan, s).fn.tile;
  TileArgs args{nullptr,  row_scales(f.w, t * geo.tile_rows), geo.rows_of(t), 0, geo.unit, nullptr, room,
                meanwhile};
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

// How often the kernel of row tile t asks whether others want the vectors: once for two KB of weights.
std::int64_t asks(const Work& work, std::int64_t t) {
  constexpr std::int64_t step = 2048;
  if (work.geo.col_tiles() == 0) return 0;
  return static_cast<std::int64_t>(tile_offset(work.w, t + 1) - tile_offset(work.w, t)) / step;
}

// The tiles that one thread multiplies, and their way into y.
class Products {
 public:
  Products(const std::vector<Work>& works, const Panels& panels) : panels_(panels) {
    for (const Work& work : works)
      room_ = std::max(room_, (panels.kind.room(work, work.padded_rows(0)) + 63) / 64 * 64);
    rooms_ = sums_of_thread.bytes(2 * room_ + kSumsSlack);
  }

  void compute(const Work& work, std::int64_t t, std::int64_t s, const std::uint8_t* strip) {
    const Factor factor{work.w, work.plan, work.args.bias};
    // An activation is so much work that tile products wait for it: 23 % slower than one after the other.
    const bool light = work.args.activation == Activation::none;
    if (light && panels_.kind.keep && work.row_of(work.plan, s).meanwhile)
      return compute_later(work, factor, t, s, strip);
    finish();
    float* sums = multiply(work, panels_, factor, t, s, strip, rooms_);
    if (work.up) {
      const float* other = multiply(work, panels_, *work.up, t, s, strip, rooms_ + room_);
      const std::int64_t count = panels_.kind.finished(work, s, work.padded_rows(t));
      work.plan.kernels->gate(sums, other, count, work.args.activation);
    }
    panels_.kind.store(work, t, s, sums, strip);
  }
  void finish() { later_.finish(); }

 private:
  // The sums of the tile before are stored meanwhile. They are in the other room.
  void compute_later(const Work& work, const Factor& factor, std::int64_t t, std::int64_t s,
                     const std::uint8_t* strip) {
    turn_ = !turn_;
    later_.expect(asks(work, t));
    const float* sums = multiply(work, panels_, factor, t, s, strip, rooms_ + (turn_ ? room_ : 0), &later_);
    finish();
    later_.begin(work, panels_.kind, t, s, sums, strip);
  }

  const Panels& panels_;
  std::size_t room_ = 0;
  std::uint8_t* rooms_;
  bool turn_ = false;
  Later later_;
};

// Each thread packs the strips that it needs, though two may need the same: what one core has written another
// waits for, and a region for packing alone costs more than to pack twice. Not so where many threads share a
// long strip.
bool pack_together(const Work& work, const Panels& panels, std::int32_t threads) {
  constexpr auto alone = threshold::kPackAlone * static_cast<std::int64_t>(sizeof(float));
  return panels.kind.shareable && threads > 2 * work.strips && panels.strip > alone;
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

// The strips of a band that this thread has packed.
class OwnPanels {
 public:
  OwnPanels(const Work& work, const Panels& panels, const Items& items)
      : work_(work), panels_(panels), of_band_(items.band) {
    data_ = panels_of_thread.bytes(static_cast<std::size_t>(of_band_ * panels.strip) + kPanelSlack);
  }
  // nullptr when x holds NaN or infinity and the kernel must not see them.
  const std::uint8_t* strip(std::int64_t s) {
    const std::int64_t band = s / of_band_, at = s % of_band_;
    if (band != band_) packed_ = 0;
    band_ = band;
    std::uint8_t* const strip = data_ + at * panels_.strip;
    if (packed_ >> at & 1) return strip;
    for (std::int64_t b = 0; b < work_.geo.col_tiles(); ++b)
      if (!panels_.kind.pack(work_, s, b, strip + b * panels_.piece)) return nullptr;
    packed_ |= std::uint64_t{1} << at;
    return strip;
  }

 private:
  const Work& work_;
  const Panels& panels_;
  std::int64_t of_band_, band_ = -1;
  std::uint64_t packed_ = 0;
  std::uint8_t* data_;
};

// The rows of the last call, for tests and explain: noting them is two stores.
thread_local const Row* ran[2];

}  // namespace

bool execute(const Job* jobs, int count, std::int32_t threads) {
  const std::vector<Work> works(jobs, jobs + count);
  const Panels panels(works[0]);
  const Items items(works, strips_of_band(works, panels.strip, threads));
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
    Products products(works, panels);
    std::optional<OwnPanels> own;
    if (!all) own.emplace(works[0], panels, items);
    const std::int64_t end = items.begin_of(i + 1, threads);
    for (std::int64_t item = items.begin_of(i, threads); item < end; ++item) {
      const Items::Place at = items.at(item);
      const std::uint8_t* const strip = all ? all + at.strip * panels.strip : own->strip(at.strip);
      if (!strip) return finite.store(false);
      products.compute(*at.work, at.tile, at.strip, strip);
    }
    products.finish();
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
  const Panels panels(works[0]);
  const Items items(works, strips_of_band(works, panels.strip, plan.threads));
  double largest = 0, before = 0;
  for (std::int32_t i = 1; i <= plan.threads; ++i) {
    const double end = i == plan.threads ? items.cost() : items.cost_before(items.begin_of(i, plan.threads));
    largest = std::max(largest, end - before);
    before = end;
  }
  return largest > 0 ? items.cost() / plan.threads / largest : 1.0;
}

}  // namespace prunus
