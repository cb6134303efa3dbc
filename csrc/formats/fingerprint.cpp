#include "formats/fingerprint.h"

#include <cstring>

namespace prunus {

std::uint64_t fingerprint(const std::uint8_t* bytes, std::size_t size) {
  constexpr std::uint64_t odd = 0x9e3779b97f4a7c15u;
  constexpr std::size_t lanes = 8;  // that do not wait for each other
  std::uint64_t sums[lanes] = {1, 2, 3, 4, 5, 6, 7, 8};
  std::size_t at = 0;
  for (; at + sizeof sums <= size; at += sizeof sums)
    for (std::size_t i = 0; i < lanes; ++i) {
      std::uint64_t word;
      std::memcpy(&word, bytes + at + 8 * i, sizeof word);
      sums[i] = (sums[i] ^ word) * odd;
      sums[i] ^= sums[i] >> 32;
    }
  std::uint64_t all = size;
  for (; at < size; ++at) all = (all ^ bytes[at]) * odd;
  for (const std::uint64_t sum : sums) all = (all ^ sum) * odd;
  return all;
}

}  // namespace prunus
