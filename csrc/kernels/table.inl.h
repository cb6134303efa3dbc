// All kernels of one isa. Included last, inside the anonymous namespace, after simd/<isa>.h.
// std:: would leave this object, so what little is needed is here.
template <bool, typename A, typename>
struct pick {
  using type = A;
};
template <typename A, typename B>
struct pick<false, A, B> {
  using type = B;
};

#include "kernels/activation.inl.h"
#include "kernels/linear_bitmap.inl.h"
#include "kernels/linear_col8.inl.h"
#include "kernels/panel.inl.h"

template <typename Value>
constexpr ValueKernels kernels_of() {
#define PRUNUS_COL8(index, width) col8<Value, width>,
#define PRUNUS_BITMAP(index, width) bitmap<Value, width>,
#define PRUNUS_BITMAP_ROWS(index, tokens) bitmap_rows<Value, tokens>,
  return {col8_one<Value>,
          {PRUNUS_STRIP_WIDTHS(PRUNUS_COL8)},
          {PRUNUS_STRIP_WIDTHS(PRUNUS_BITMAP)},
          {PRUNUS_ROW_TOKENS(PRUNUS_BITMAP_ROWS)}};
#undef PRUNUS_COL8
#undef PRUNUS_BITMAP
#undef PRUNUS_BITMAP_ROWS
}

constexpr KernelTable make_table(Isa isa) {
#define PRUNUS_TYPE(index, type) kernels_of<Value_##type>(),
  return {isa, {PRUNUS_VALUES(PRUNUS_TYPE)}, pack_strip, pack_rows, init_strip, reduce_rows, store_tile};
#undef PRUNUS_TYPE
}
