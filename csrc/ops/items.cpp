#include "ops/items.h"

#include <algorithm>

#include "core/cache.h"
#include "ops/policy/thresholds.h"

namespace prunus {
namespace {

// Cost of the row tiles before t, for one strip: bytes of weight, and the store of each tile.
double cost_before(const Work& work, std::int64_t t) {
  const auto bytes = tile_offset(work.w, t * work.geo.col_tiles()) - tile_offset(work.w, 0);
  return static_cast<double>(bytes) + threshold::kStoreCost * static_cast<double>(t * work.geo.tile_rows);
}

}  // namespace

Items::Items(const std::vector<Work>& works, std::int64_t strips_of_band)
    : band(strips_of_band), works_(works), strips_(works[0].strips) {
  const Work& first = works[0];
  for (const Work& work : works) {
    tiles_ += work.geo.row_tiles();
    tiles_cost_ += prunus::cost_before(work, work.geo.row_tiles());
  }
  // A narrow last strip costs less, though not in proportion.
  last_strip_ = (threshold::kStripCost + first.width_of(first.strips - 1)) /
                (threshold::kStripCost + first.plan.tokens);
}

Items::Position Items::position(std::int64_t item) const {
  const std::int64_t b = item / (tiles_ * band), rest = item % (tiles_ * band);
  const std::int64_t strips = std::min(band, strips_ - b * band);
  return strips > 0 ? Position{b, rest / strips, rest % strips} : Position{b, 0, 0};
}

Items::Place Items::at(std::int64_t item) const {
  const Position p = position(item);
  std::int64_t tile = p.tile;
  const Work* work = works_.data();
  for (; tile >= work->geo.row_tiles(); ++work) tile -= work->geo.row_tiles();
  return {work, tile, p.band * band + p.strip};
}

double Items::cost_of_strips(std::int64_t strips) const {
  return static_cast<double>(strips) - (strips == strips_ ? 1.0 - last_strip_ : 0.0);
}

double Items::cost_before_tile(std::int64_t tile) const {
  double cost = 0;
  for (const Work& work : works_) {
    const std::int64_t tiles = std::min(tile, work.geo.row_tiles());
    cost += prunus::cost_before(work, tiles);
    tile -= tiles;
  }
  return cost;
}

double Items::cost_before(std::int64_t item) const {
  if (item == count()) return cost();
  const Position p = position(item);
  const std::int64_t first = p.band * band, strips = std::min(band, strips_ - first);
  const double before = cost_of_strips(first), tile = cost_before_tile(p.tile);
  return tiles_cost_ * before + tile * (cost_of_strips(first + strips) - before) +
         (cost_before_tile(p.tile + 1) - tile) * (cost_of_strips(first + p.strip) - before);
}

// The item that begins nearest to this cost (the first behind it would be a whole tile off where a tile ends
// just before).
std::int64_t Items::nearest(double target) const {
  std::int64_t lo = 0, hi = count();
  while (lo < hi) {
    const std::int64_t mid = (lo + hi) / 2;
    cost_before(mid) < target ? lo = mid + 1 : hi = mid;
  }
  return lo > 0 && target - cost_before(lo - 1) < cost_before(lo) - target ? lo - 1 : lo;
}

std::int64_t Items::begin_of(std::int64_t i, std::int32_t threads) const {
  return i == threads ? count() : nearest(cost() * static_cast<double>(i) / threads);
}

// Every thread gets a band if there are strips enough: two threads in one band pack the same strips twice.
std::int64_t strips_of_band(const std::vector<Work>& works, std::int64_t bytes, std::int32_t threads) {
  std::int64_t weights = 0;
  for (const Work& work : works) weights += static_cast<std::int64_t>(work.w.header.bytes);
  if (weights < threshold::kWeightsOfL2 * static_cast<double>(l2_bytes())) return 1;
  const std::int64_t of_thread = std::max<std::int64_t>(1, works[0].strips / std::max(1, threads));
  const std::int64_t fit = l2_bytes() / threshold::kBandShare / std::max<std::int64_t>(1, bytes);
  return std::clamp<std::int64_t>(fit, 1, std::min<std::int64_t>(of_thread, threshold::kBandMost));
}

}  // namespace prunus
