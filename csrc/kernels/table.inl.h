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

template <auto A>
struct constant {
  static constexpr auto value = A;
};

#include "kernels/activation.inl.h"
#include "kernels/careful.inl.h"
#include "kernels/fetch.inl.h"
#include "kernels/linear_bitmap.inl.h"
#include "kernels/linear_col8.inl.h"
#include "kernels/panel.inl.h"
#include "kernels/score_keys.inl.h"
#include "kernels/score_nm.inl.h"
#include "kernels/score_scale.inl.h"
// These use col8's walk.
#include "kernels/linear_block.inl.h"
#include "kernels/linear_block_few.inl.h"
#include "kernels/linear_nm.inl.h"
#if defined(__AVX512VBMI__)
#  include "kernels/linear_col8_vbmi.inl.h"
#  define PRUNUS_COL8_ONE col8_vbmi
constexpr int kLookUpMost = 2;
#else
#  define PRUNUS_COL8_ONE col8_one
constexpr int kLookUpMost = 1;
#endif

// One token after the other: the tile is in the cache by then.
template <typename Value, int Tokens>
void col8_few(const std::uint8_t* tile, const std::uint8_t* scales, int rows, int cols, Unit unit,
              const float* panel, float* acc) {
  for (int i = 0; i < Tokens; ++i)
    PRUNUS_COL8_ONE<Value>(tile, scales, rows, cols, unit, panel + i * kFewPanel, acc + i * kFewRows);
}
#undef PRUNUS_COL8_ONE

// ops/plan.cpp asks for no wider strips of blocks.
constexpr int block_width(int width) {
  return width < Vec::lanes * kAccumulators ? width : Vec::lanes * kAccumulators;
}

template <typename Value>
constexpr ValueKernels kernels_of() {
#define PRUNUS_COL8_FEW(index, tokens) col8_few<Value, tokens>,
#define PRUNUS_COL8(index, width) col8<Value, width>,
#define PRUNUS_BITMAP(index, width) bitmap<Value, width>,
#define PRUNUS_BITMAP_ROWS(index, tokens) bitmap_rows<Value, tokens>,
#define PRUNUS_NM(index, width) nm_strip<Value, width>,
#define PRUNUS_NM_FEW(index, tokens) nm_few<Value, tokens>,
#define PRUNUS_BLOCK(index, width) block_strip<Value, block_width(width)>,
#define PRUNUS_BLOCK_FEW(index, tokens) block_few<Value, tokens>,
  return {{PRUNUS_COL8_TOKENS(PRUNUS_COL8_FEW)},
          {PRUNUS_STRIP_WIDTHS(PRUNUS_COL8)},
          {PRUNUS_STRIP_WIDTHS(PRUNUS_BITMAP)},
          {PRUNUS_ROW_TOKENS(PRUNUS_BITMAP_ROWS)},
          {PRUNUS_STRIP_WIDTHS(PRUNUS_NM)},
          {PRUNUS_FEW_TOKENS(PRUNUS_NM_FEW)},
          {PRUNUS_STRIP_WIDTHS(PRUNUS_BLOCK)},
          {PRUNUS_FEW_TOKENS(PRUNUS_BLOCK_FEW)},
          nm_careful<Value>,
          block_careful<Value>};
#undef PRUNUS_COL8_FEW
#undef PRUNUS_COL8
#undef PRUNUS_BITMAP
#undef PRUNUS_BITMAP_ROWS
#undef PRUNUS_NM
#undef PRUNUS_NM_FEW
#undef PRUNUS_BLOCK
#undef PRUNUS_BLOCK_FEW
}

template <typename X>
constexpr TokenKernels tokens_of() {
  return {pack_strip<X>, pack_rows<X>, all_finite<X>, store_tile<X>};
}

template <typename Key>
constexpr KeyKernels<Key> key_kernels_of() {
  return {split_keys<Key>, flag<Key>,          count_below<Key>, copy_within<Key>,
          quantiles<Key>,  nm_neighbours<Key>, nm_columns<Key>};
}

template <typename T>
constexpr ScoreKernels<T> score_kernels_of() {
  return {keys<T>, split<T>, sum_of_squares<T>, add_squares<T>, scale<T>};
}

constexpr ScoreTable score_table() {
  return {
#define PRUNUS_TYPE(type, name) key_kernels_of<type>(),
      PRUNUS_KEYS(PRUNUS_TYPE)
#undef PRUNUS_TYPE
#define PRUNUS_TYPE(type, name) score_kernels_of<type>(),
          PRUNUS_FLOATS(PRUNUS_TYPE)
#undef PRUNUS_TYPE
  };
}

constexpr KernelTable make_table(Isa isa) {
#define PRUNUS_TYPE(index, type) kernels_of<Value_##type>(),
#define PRUNUS_TOKENS(index, type) tokens_of<Value_##type>(),
  return {isa,           {PRUNUS_VALUES(PRUNUS_TYPE)},
          kAccumulators, Vec::lanes,
          RowVec::lanes, kExpandAlways,
          kLookUpMost,   {PRUNUS_TOKEN_TYPES(PRUNUS_TOKENS)},
          init_strip,    reduce_rows,
          gate,          score_table()};
#undef PRUNUS_TYPE
#undef PRUNUS_TOKENS
}
