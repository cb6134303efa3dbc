// The one place that starts threads.
#pragma once
#include <cstdint>
#include <memory>
#include <type_traits>

namespace prunus {

using RangeFn = void (*)(std::int64_t begin, std::int64_t end, void* context);

// A thread pool somebody else owns. bindings installs torch's when torch is loaded, so torch.set_num_threads
// rules.
struct ParallelBackend {
  const char* name;
  int (*num_threads)();
  // Splits [0, tasks) into contiguous ranges and runs them concurrently; returns when all are done.
  void (*run)(std::int64_t tasks, RangeFn fn, void* context);
};

// nullptr restores the built-in OpenMP backend.
void set_parallel_backend(const ParallelBackend* backend);
const char* parallel_backend_name();

// Threads the next parallel_for may use: 1 after fork (the parent's pool is dead in the child) and inside a
// region.
int num_threads();

// For runs without torch: team size of the built-in backend, 0 = OpenMP's default. Throws ValueError on < 0.
void set_num_threads(int threads);

namespace detail {
void run_parallel(std::int64_t tasks, RangeFn fn, void* context);
}

// Calls fn(task) for every task in [0, tasks), concurrently.
// What fn throws stops its range and is thrown again by the caller once all ranges are done (the first of
// several): never across the pool, whose threads would end the process. A nested call runs serially.
template <typename Fn>
void parallel_for(std::int64_t tasks, Fn&& fn) {
  detail::run_parallel(
      tasks,
      [](std::int64_t begin, std::int64_t end, void* context) {
        for (std::int64_t t = begin; t < end; ++t) (*static_cast<std::remove_reference_t<Fn>*>(context))(t);
      },
      const_cast<void*>(static_cast<const void*>(&fn)));
}

}  // namespace prunus
