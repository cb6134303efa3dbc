// The order of the work of a call, and its shares for threads.
#pragma once
#include <cstdint>
#include <vector>

#include "ops/work.h"

namespace prunus {

// The row tiles of all jobs for every strip of tokens. Bands of strips are outermost, the strips of a band
// innermost: the panels of a band stay in the L2 of the thread that made them, and a tile of weights that
// came from far away is multiplied with all of them (decision 0043).
class Items {
 public:
  struct Place {
    const Work* work;
    std::int64_t tile, strip;
  };

  Items(const std::vector<Work>& works, std::int64_t strips_of_band);
  Place at(std::int64_t item) const;
  std::int64_t count() const { return tiles_ * strips_; }
  double cost() const { return tiles_cost_ * cost_of_strips(strips_); }
  double cost_before(std::int64_t item) const;
  // First item of thread i. Shares are of equal cost, not equal count, since global pruning leaves rows
  // uneven.
  std::int64_t begin_of(std::int64_t i, std::int32_t threads) const;

  const std::int64_t band;  // strips

 private:
  struct Position {
    std::int64_t band, tile, strip;  // tile: of all jobs; strip: of the band
  };
  Position position(std::int64_t item) const;
  // Of the first `strips` of all, a whole strip being one.
  double cost_of_strips(std::int64_t strips) const;
  double cost_before_tile(std::int64_t tile) const;
  std::int64_t nearest(double cost) const;

  const std::vector<Work>& works_;
  std::int64_t strips_, tiles_ = 0;  // tiles: of all jobs
  double tiles_cost_ = 0;            // of all tiles for a whole strip
  double last_strip_ = 1;            // what the last one costs of that
};

// How many strips, each of so many bytes of panels, are a band.
std::int64_t strips_of_band(const std::vector<Work>& works, std::int64_t bytes, std::int32_t threads);

}  // namespace prunus
