// All kernels of one isa. Included last, inside the anonymous namespace, after simd/<isa>.h.

// A float at any address (packed buffers may start anywhere), and type choice: std:: would leave this object.
inline float unaligned_float(const std::uint8_t* p) {
  float f;
  __builtin_memcpy(&f, p, sizeof f);
  return f;
}
template <bool, typename A, typename>
struct pick {
  using type = A;
};
template <typename A, typename B>
struct pick<false, A, B> {
  using type = B;
};

#include "kernels/activation.inl.h"
#include "kernels/linear_col8.inl.h"
#include "kernels/panel.inl.h"

constexpr KernelTable make_table(Isa isa) {
#define PRUNUS_KERNEL(width) col8_f32<width>,
  return {isa, PRUNUS_STRIP_WIDTHS(PRUNUS_KERNEL) pack_panel, init_acc, store_tile};
#undef PRUNUS_KERNEL
}
