// Activations that a kernel can fuse at the store. The numbers are part of the torch op's schema: never
// renumber.
#pragma once
#include <cstdint>

namespace prunus {

enum class Activation : std::uint8_t { none = 0, relu = 1, gelu = 2, gelu_tanh = 3, silu = 4 };
inline constexpr int kActivationCount = 5;

}  // namespace prunus
