#include "pruning/sweep.h"

#include <atomic>

namespace prunus {
namespace {
std::atomic<InterruptCheck> installed{nullptr};
}

void set_interrupt_check(InterruptCheck check) { installed.store(check); }

void check_interrupt() {
  if (InterruptCheck check = installed.load()) check();
}

}  // namespace prunus
