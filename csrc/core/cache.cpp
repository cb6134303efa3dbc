#include "core/cache.h"

#include <unistd.h>

namespace prunus {

std::int64_t l2_bytes() {
  static const std::int64_t bytes = [] {
#ifdef _SC_LEVEL2_CACHE_SIZE
    const long said = sysconf(_SC_LEVEL2_CACHE_SIZE);
    if (said > 0) return static_cast<std::int64_t>(said);
#endif
    return std::int64_t{256} << 10;
  }();
  return bytes;
}

}  // namespace prunus
