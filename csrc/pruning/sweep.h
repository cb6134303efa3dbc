// Long loops over chunks: parallel, and interruptible between waves.
#pragma once
#include <algorithm>
#include <cstdint>

#include "core/parallel.h"

namespace prunus {

// Elements of one chunk: 8192 keys and their flags stay in L1/L2, and a count of 8192 over vector lanes of 16
// bits (>= 8 of them) cannot overflow.
inline constexpr std::int64_t kChunk = 8192;

// Called between waves on the calling thread; may throw. bindings installs Python's signal check.
using InterruptCheck = void (*)();
void set_interrupt_check(InterruptCheck check);
void check_interrupt();

// Calls fn(task, worker) for every task in [0, tasks): worker in [0, workers) names the scratch memory it may
// use. A task should be about kChunk elements. The split is static, so results that depend on it would be
// bugs.
enum class Interrupt { allowed, deferred };  // deferred: the caller's memory must not be left half written
template <class Fn>
void sweep(std::int64_t tasks, int workers, Fn&& fn, Interrupt interrupt = Interrupt::allowed) {
  constexpr std::int64_t wave =
      8192;  // 64M elements, some 50 ms: Ctrl-C answers at once, a region's cost vanishes
  for (std::int64_t first = 0; first < tasks; first += wave) {
    if (first > 0 && interrupt == Interrupt::allowed) check_interrupt();
    const std::int64_t count = std::min(wave, tasks - first);
    const std::int64_t team = std::min<std::int64_t>(workers, count);
    parallel_for(team, [&](std::int64_t worker) {
      const std::int64_t end = first + count * (worker + 1) / team;
      for (std::int64_t task = first + count * worker / team; task < end; ++task)
        fn(task, static_cast<int>(worker));
    });
  }
}

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace prunus
