// Did bytes change?
#pragma once
#include <cstddef>
#include <cstdint>

namespace prunus {

// Of all bytes and their order; for telling whether they changed, not for those who want it to be equal.
std::uint64_t fingerprint(const std::uint8_t* bytes, std::size_t size);

}  // namespace prunus
