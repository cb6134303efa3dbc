// How isa_<isa>.cpp writes its rows: a macro a kind of kernel, `text` being the function's name and T its
// type. Included last, inside the anonymous namespace, after the texts of the kernels.

// What read_header lets pass.
#define PRUNUS_MOST(FORMAT) most_tile_cols(Format::FORMAT)

// A tile kernel for values of type T and so many tokens, of blocks of any height, or by tile products, of
// ROWS at least.
#define PRUNUS_TILE(text, FORMAT, PANEL, NEEDS, COLS, T, TOKENS) \
  PRUNUS_TALL_TILE(text, FORMAT, PANEL, NEEDS, COLS, 0, T, TOKENS)
#define PRUNUS_TALL_TILE(text, FORMAT, PANEL, NEEDS, COLS, ROWS, T, TOKENS) \
  {#text "_" #T "_" #TOKENS,                                                \
   Op::tile,                                                                \
   Format::FORMAT,                                                          \
   Dtype::T,                                                                \
   Panel::PANEL,                                                            \
   Needs::NEEDS,                                                            \
   TOKENS,                                                                  \
   Panel::PANEL == Panel::rows ? RowVec::lanes : 1,                         \
   COLS,                                                                    \
   ROWS,                                                                    \
   (ROWS) > 0,                                                              \
   Fn(text<Value_##T, TOKENS>)},

// What surrounds the tile kernels, for x and y of type T, or for all.
#define PRUNUS_IO(text, OP, T) \
  {#text "_" #T, Op::OP, Format{}, Dtype::T, Panel::none, Needs::any, 0, 0, 0, 0, false, Fn(text<Value_##T>)},
#define PRUNUS_ANY(text, OP) \
  {#text, Op::OP, Format{}, Dtype::f32, Panel::none, Needs::any, 0, 0, 0, 0, false, Fn(text)},
// attention_<isa>.inl.h
#define PRUNUS_ATTENTION_PLAIN(T) PRUNUS_IO(attention, attention, T)
#define PRUNUS_ATTENTION_TILES(T) PRUNUS_IO(attention_tiles, attention, T)
#define PRUNUS_SAMPLED                                                         \
  {"sampled",      Op::sampled, Format{}, Dtype::f32, Panel::none, Needs::any, \
   kSampledTokens, 0,           0,        0,          false,       Fn(sampled)},

#define PRUNUS_COL8_FEW(T) PRUNUS_TILE(col8_few, col8, few, any, PRUNUS_MOST(col8), T, 1)
#define PRUNUS_COL8_VBMI(T)                                               \
  PRUNUS_TILE(col8_vbmi, col8, few, finite, ActivationTables::most, T, 1) \
  PRUNUS_TILE(col8_vbmi, col8, few, finite, ActivationTables::most, T, 2)
#define PRUNUS_COL8(T) PRUNUS_STRIPS(PRUNUS_TILE, col8, col8, strip, any, PRUNUS_MOST(col8), T)
#define PRUNUS_BITMAP(T) PRUNUS_STRIPS(PRUNUS_TILE, bitmap, bitmap, strip, any, PRUNUS_MOST(bitmap), T)
#define PRUNUS_BITMAP_ROWS(T) \
  PRUNUS_ROW_TOKENS(PRUNUS_TILE, bitmap_rows, bitmap, rows, finite, PRUNUS_MOST(bitmap), T)
#define PRUNUS_NM(T) PRUNUS_STRIPS(PRUNUS_TILE, nm_strip, nm, strip, finite_for_holes, PRUNUS_MOST(nm), T)
#define PRUNUS_NM_FEW(T) PRUNUS_FEW_TOKENS(PRUNUS_TILE, nm_few, nm, few, finite_for_holes, PRUNUS_MOST(nm), T)
#define PRUNUS_NM_CAREFUL(T) PRUNUS_TILE(nm_careful, nm, strip, any, PRUNUS_MOST(nm), T, 8)
#define PRUNUS_BLOCK(T) \
  PRUNUS_STRIPS(PRUNUS_TILE, block_strip, block, strip, finite_for_holes, PRUNUS_MOST(block), T)
// More sums than an isa has registers for are never asked for (ops/policy).
#define PRUNUS_NARROW_BLOCK(T)                                                       \
  PRUNUS_TILE(block_strip, block, strip, finite_for_holes, PRUNUS_MOST(block), T, 8) \
  PRUNUS_TILE(block_strip, block, strip, finite_for_holes, PRUNUS_MOST(block), T, 16)
#define PRUNUS_BLOCK_FEW(T) \
  PRUNUS_FEW_TOKENS(PRUNUS_TILE, block_few, block, few, finite_for_holes, PRUNUS_MOST(block), T)
#define PRUNUS_BLOCK_CAREFUL(T) PRUNUS_TILE(block_careful, block, strip, any, PRUNUS_MOST(block), T, 8)
#define PRUNUS_TOKEN_IO(T)             \
  PRUNUS_IO(pack_strip, pack_strip, T) \
  PRUNUS_IO(pack_rows, pack_rows, T) PRUNUS_IO(all_finite, finite, T) PRUNUS_IO(store_tile, store, T)

// All that an isa of its own vectors has.
#define PRUNUS_FEW_ROWS \
  PRUNUS_VALUES(PRUNUS_COL8_FEW) PRUNUS_VALUES(PRUNUS_NM_FEW) PRUNUS_VALUES(PRUNUS_BLOCK_FEW)
#define PRUNUS_BITMAP_ALL PRUNUS_VALUES(PRUNUS_BITMAP) PRUNUS_VALUES(PRUNUS_BITMAP_ROWS)
#define PRUNUS_AROUND                 \
  PRUNUS_TOKEN_TYPES(PRUNUS_TOKEN_IO) \
  PRUNUS_ANY(init_strip, start) PRUNUS_ANY(reduce_rows, reduce) PRUNUS_ANY(gate, gate) PRUNUS_SAMPLED
#define PRUNUS_VECTOR_ROWS                                              \
  PRUNUS_VALUES(PRUNUS_COL8) PRUNUS_BITMAP_ALL PRUNUS_VALUES(PRUNUS_NM) \
  PRUNUS_FEW_ROWS PRUNUS_AROUND
#define PRUNUS_CAREFUL_ROWS PRUNUS_VALUES(PRUNUS_NM_CAREFUL) PRUNUS_VALUES(PRUNUS_BLOCK_CAREFUL)

// dot. Strips of 8 tokens, of 16 and more; an isa has those that its registers hold.
#define PRUNUS_DOT(T, TOKENS) PRUNUS_TILE(dot_strip, dot, lanes, any, PRUNUS_MOST(dot), T, TOKENS)
#define PRUNUS_SHORT_DOTS(T) PRUNUS_DOT(T, 8) PRUNUS_DOT(T, 16)
#define PRUNUS_DOT_FEW(T) PRUNUS_FEW_TOKENS(PRUNUS_TILE, dot_few, dot, lane_rows, any, PRUNUS_MOST(dot), T)
#define PRUNUS_DOT_AMX(T)                                                 \
  PRUNUS_TALL_TILE(dot_amx, dot, lanes, any, PRUNUS_MOST(dot), 16, T, 16) \
  PRUNUS_TALL_TILE(dot_amx, dot, lanes, any, PRUNUS_MOST(dot), 16, T, 32)
#define PRUNUS_PACK_LANES(T)           \
  PRUNUS_IO(pack_quads, pack_quads, T) \
  PRUNUS_IO(pack_pairs, pack_pairs, T)
#define PRUNUS_FLAT_LANES(T)           \
  PRUNUS_IO(flat_quads, flat_quads, T) \
  PRUNUS_IO(flat_pairs, flat_pairs, T)
#define PRUNUS_STORE_LANES(T)           \
  PRUNUS_IO(store_ints, store_quads, T) \
  PRUNUS_IO(store_floats, store_pairs, T)
#define PRUNUS_LANE_IO(T) PRUNUS_PACK_LANES(T) PRUNUS_FLAT_LANES(T) PRUNUS_STORE_LANES(T)
// What an isa with lanes of 512 bits has, and what one with shorter ones has of both types.
#define PRUNUS_STRIP_DOTS(T) PRUNUS_SHORT_DOTS(T) PRUNUS_DOT(T, 32) PRUNUS_DOT(T, 48) PRUNUS_DOT(T, 64)
#define PRUNUS_MORE_DOT_FEW(T) PRUNUS_TILE(dot_few, dot, lane_rows, any, PRUNUS_MOST(dot), T, 8)
#define PRUNUS_DOT_ROWS \
  PRUNUS_SHORT_DOTS(i8) \
  PRUNUS_SHORT_DOTS(bf16) PRUNUS_DOT_FEW(i8) PRUNUS_DOT_FEW(bf16) PRUNUS_TOKEN_TYPES(PRUNUS_LANE_IO)

template <int Count>
constexpr IsaRows isa_rows(Isa isa, const Row (&rows)[Count], const ScoreTable* scores) {
  return {isa, rows, Count, scores};
}
