// What the machine says of its caches.
#pragma once
#include <cstdint>

namespace prunus {

// The L2 cache of a core in bytes; 256 KiB, the smallest in use, where the system does not say.
std::int64_t l2_bytes();

}  // namespace prunus
