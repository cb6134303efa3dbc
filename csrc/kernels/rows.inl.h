// How isa_<isa>.cpp writes its rows: a macro a kind of kernel, `text` being the function's name and T its
// type. Included last, inside the anonymous namespace, after the texts of the kernels.

// A tile kernel for values of type T and so many tokens.
#define PRUNUS_TILE(text, FORMAT, PANEL, NEEDS, COLS, T, TOKENS) \
  {#text "_" #T "_" #TOKENS,                                     \
   Op::tile,                                                     \
   Format::FORMAT,                                               \
   Dtype::T,                                                     \
   Panel::PANEL,                                                 \
   Needs::NEEDS,                                                 \
   TOKENS,                                                       \
   Panel::PANEL == Panel::rows ? RowVec::lanes : 1,              \
   COLS,                                                         \
   Fn(text<Value_##T, TOKENS>)},

// What surrounds the tile kernels, for x and y of type T, or for all.
#define PRUNUS_IO(text, OP, T) \
  {#text "_" #T, Op::OP, Format{}, Dtype::T, Panel::none, Needs::any, 0, 0, 0, Fn(text<Value_##T>)},
#define PRUNUS_ANY(text, OP) \
  {#text, Op::OP, Format{}, Dtype::f32, Panel::none, Needs::any, 0, 0, 0, Fn(text)},

#define PRUNUS_COL8_FEW(T) PRUNUS_TILE(col8_few, col8, few, any, 255, T, 1)
#define PRUNUS_COL8_VBMI(T)                                               \
  PRUNUS_TILE(col8_vbmi, col8, few, finite, ActivationTables::most, T, 1) \
  PRUNUS_TILE(col8_vbmi, col8, few, finite, ActivationTables::most, T, 2)
#define PRUNUS_COL8(T) PRUNUS_STRIPS(PRUNUS_TILE, col8, col8, strip, any, 255, T)
#define PRUNUS_BITMAP(T) PRUNUS_STRIPS(PRUNUS_TILE, bitmap, bitmap, strip, any, 64, T)
#define PRUNUS_BITMAP_ROWS(T) PRUNUS_ROW_TOKENS(PRUNUS_TILE, bitmap_rows, bitmap, rows, finite, 64, T)
#define PRUNUS_NM(T) PRUNUS_STRIPS(PRUNUS_TILE, nm_strip, nm, strip, finite_for_holes, 255, T)
#define PRUNUS_NM_FEW(T) PRUNUS_FEW_TOKENS(PRUNUS_TILE, nm_few, nm, few, finite_for_holes, 255, T)
#define PRUNUS_NM_CAREFUL(T) PRUNUS_TILE(nm_careful, nm, strip, any, 255, T, 8)
#define PRUNUS_BLOCK(T) PRUNUS_STRIPS(PRUNUS_TILE, block_strip, block, strip, finite_for_holes, 240, T)
// More sums than an isa has registers for are never asked for (ops/policy).
#define PRUNUS_NARROW_BLOCK(T)                                        \
  PRUNUS_TILE(block_strip, block, strip, finite_for_holes, 240, T, 8) \
  PRUNUS_TILE(block_strip, block, strip, finite_for_holes, 240, T, 16)
#define PRUNUS_BLOCK_FEW(T) PRUNUS_FEW_TOKENS(PRUNUS_TILE, block_few, block, few, finite_for_holes, 240, T)
#define PRUNUS_BLOCK_CAREFUL(T) PRUNUS_TILE(block_careful, block, strip, any, 240, T, 8)
#define PRUNUS_TOKEN_IO(T)             \
  PRUNUS_IO(pack_strip, pack_strip, T) \
  PRUNUS_IO(pack_rows, pack_rows, T) PRUNUS_IO(all_finite, finite, T) PRUNUS_IO(store_tile, store, T)

// All that an isa of its own vectors has.
#define PRUNUS_FEW_ROWS \
  PRUNUS_VALUES(PRUNUS_COL8_FEW) PRUNUS_VALUES(PRUNUS_NM_FEW) PRUNUS_VALUES(PRUNUS_BLOCK_FEW)
#define PRUNUS_BITMAP_ALL PRUNUS_VALUES(PRUNUS_BITMAP) PRUNUS_VALUES(PRUNUS_BITMAP_ROWS)
#define PRUNUS_AROUND                 \
  PRUNUS_TOKEN_TYPES(PRUNUS_TOKEN_IO) \
  PRUNUS_ANY(init_strip, start) PRUNUS_ANY(reduce_rows, reduce) PRUNUS_ANY(gate, gate)
#define PRUNUS_VECTOR_ROWS                                              \
  PRUNUS_VALUES(PRUNUS_COL8) PRUNUS_BITMAP_ALL PRUNUS_VALUES(PRUNUS_NM) \
  PRUNUS_FEW_ROWS PRUNUS_AROUND
#define PRUNUS_CAREFUL_ROWS PRUNUS_VALUES(PRUNUS_NM_CAREFUL) PRUNUS_VALUES(PRUNUS_BLOCK_CAREFUL)

template <int Count>
constexpr IsaRows isa_rows(Isa isa, const Row (&rows)[Count], const ScoreTable* scores) {
  return {isa, rows, Count, scores};
}
