#include "pruning/refit.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "core/check.h"
#include "kernels/score_kernels.h"
#include "pruning/sweep.h"

namespace prunus {
namespace {

constexpr std::int64_t kWave = 256;  // rows between two looks at Ctrl-C: tens of milliseconds

std::int64_t padded(std::int64_t count) { return ceil_div(count, kRefitPanel) * kRefitPanel; }

// What one thread works in.
struct Room {
  std::vector<std::int32_t> index;
  std::vector<float> panels, vectors;  // vectors: target, answer and three of the solver
  int most = 0;

  Room(std::int64_t k, std::int64_t longest)
      : index(static_cast<std::size_t>(k)),
        panels(static_cast<std::size_t>(longest * padded(longest))),
        vectors(static_cast<std::size_t>(5 * padded(longest))) {}
};

std::int64_t longest_row(const Refit& p) {
  std::int64_t longest = 0;
  for (std::int64_t row = 0; row < p.n; ++row) {
    const std::uint8_t* keep = p.mask + row * p.k;
    longest = std::max<std::int64_t>(longest, p.k - std::count(keep, keep + p.k, 0));
  }
  return longest;
}

void refit_row(const Refit& p, std::int64_t row, Room& room, float* out) {
  const std::uint8_t* keep = p.mask + row * p.k;
  int count = 0;
  for (std::int64_t j = 0; j < p.k; ++j)
    if (keep[j]) room.index[static_cast<std::size_t>(count++)] = static_cast<std::int32_t>(j);
  std::fill_n(out, p.k, 0.0f);
  if (count == 0) return;
  const std::int64_t wide = padded(count);
  float *target = room.vectors.data(), *answer = target + wide;
  std::fill_n(target, 2 * wide, 0.0f);
  const std::int32_t* index = room.index.data();
  for (int i = 0; i < count; ++i) {
    target[i] = p.target[row * p.k + index[i]];
    answer[i] = p.start[row * p.k + index[i]];
  }
  const RefitKernels& kernels = refit_kernels();
  kernels.gather(p.matrix, p.k, index, count, room.panels.data());
  const int took =
      kernels.solve(room.panels.data(), count, target, answer, answer + wide, p.iterations, p.tolerance);
  room.most = std::max(room.most, took);
  for (int i = 0; i < count; ++i) out[index[i]] = answer[i];
}

}  // namespace

std::int64_t refit(const Refit& p, float* out) {
  check_value(p.k <= std::numeric_limits<std::int32_t>::max(),
              expected_got("matrix", "at most 2147483647 columns", std::to_string(p.k)));
  const int team = static_cast<int>(std::min<std::int64_t>(num_threads(), std::max<std::int64_t>(1, p.n)));
  std::vector<Room> rooms(static_cast<std::size_t>(team), Room(p.k, longest_row(p)));
  for (std::int64_t first = 0; first < p.n; first += kWave) {
    if (first > 0) check_interrupt();
    const std::int64_t count = std::min(kWave, p.n - first);
    parallel_for(team, [&](std::int64_t worker) {
      for (std::int64_t row = first + worker; row < first + count; row += team)
        refit_row(p, row, rooms[static_cast<std::size_t>(worker)], out + row * p.k);
    });
  }
  int most = 0;
  for (const Room& room : rooms) most = std::max(most, room.most);
  return most;
}

}  // namespace prunus
