#include "core/parallel.h"

#include <omp.h>
#include <pthread.h>

#include <atomic>
#include <exception>
#include <string>

#include "core/check.h"

namespace prunus {
namespace {

std::atomic<int> team_size{0};
std::atomic<bool> forked{false};
thread_local bool in_region = false;

int openmp_threads() {
  const int fixed = team_size.load(std::memory_order_relaxed);
  return fixed > 0 ? fixed : omp_get_max_threads();
}

void openmp_run(std::int64_t tasks, RangeFn fn, void* context) {
  // The same team size in every region: libgomp was measured to take 671 us to change it.
  const int team = openmp_threads();
#pragma omp parallel num_threads(team)
  {
    const std::int64_t threads = omp_get_num_threads(), me = omp_get_thread_num();
    const std::int64_t begin = tasks * me / threads, end = tasks * (me + 1) / threads;
    if (begin < end) fn(begin, end, context);
  }
}

const ParallelBackend kOpenMP{"openmp", openmp_threads, openmp_run};
std::atomic<const ParallelBackend*> active{&kOpenMP};

// A child of fork has none of the parent's workers; entering the pool would wait for them forever.
const int registered = pthread_atfork(nullptr, nullptr, [] { forked.store(true); });

struct Region {
  RangeFn fn;
  void* context;
  std::atomic<bool> failed{false};
  std::exception_ptr error;  // of whoever set `failed` first
};

void guarded(std::int64_t begin, std::int64_t end, void* context) {
  Region& region = *static_cast<Region*>(context);
  const bool outer = in_region;
  in_region = true;
  try {
    region.fn(begin, end, region.context);
  } catch (...) {
    if (!region.failed.exchange(true)) region.error = std::current_exception();
  }
  in_region = outer;
}

}  // namespace

void set_parallel_backend(const ParallelBackend* backend) { active.store(backend ? backend : &kOpenMP); }

const char* parallel_backend_name() { return active.load()->name; }

int num_threads() {
  if (forked.load(std::memory_order_relaxed) || in_region) return 1;
  const int threads = active.load()->num_threads();
  return threads > 0 ? threads : 1;
}

void set_num_threads(int threads) {
  check_value(threads >= 0, expected_got("threads", ">= 0", std::to_string(threads)));
  team_size.store(threads);
}

void detail::run_parallel(std::int64_t tasks, RangeFn fn, void* context) {
  (void)registered;
  if (tasks <= 0) return;
  Region region{fn, context, {}, {}};
  if (tasks == 1 || num_threads() == 1)
    guarded(0, tasks, &region);
  else
    active.load()->run(tasks, guarded, &region);
  if (region.error) std::rethrow_exception(region.error);
}

}  // namespace prunus
