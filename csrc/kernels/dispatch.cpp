#include <algorithm>
#include <cstring>

#include "kernels/kernels.h"

namespace prunus {

// One per isa_<isa>.cpp.
extern const IsaRows kScalarRows;
#if defined(__x86_64__)
extern const IsaRows kAvx2Rows, kAvxVnniRows, kAvx512Rows, kAvx512IclRows, kAvx512Bf16Rows, kAmxRows;
#elif defined(__aarch64__)
extern const IsaRows kNeonRows;
#endif

namespace {

const IsaRows& rows_of(Isa isa) {
  switch (isa) {
    case Isa::scalar:
      return kScalarRows;
#if defined(__x86_64__)
    case Isa::avx2:
      return kAvx2Rows;
    case Isa::avxvnni:
      return kAvxVnniRows;
    case Isa::avx512:
      return kAvx512Rows;
    case Isa::avx512icl:
      return kAvx512IclRows;
    case Isa::avx512bf16:
      return kAvx512Bf16Rows;
    case Isa::amx:
      return kAmxRows;
    case Isa::neon:
      break;
#elif defined(__aarch64__)
    case Isa::neon:
      return kNeonRows;
    case Isa::avx2:
    case Isa::avxvnni:
    case Isa::avx512:
    case Isa::avx512icl:
    case Isa::avx512bf16:
    case Isa::amx:
      break;
#endif
  }
  __builtin_unreachable();  // available_isas() has no other
}

}  // namespace

Kernels::Kernels(Isa which) : isa(which) {
  std::vector<const IsaRows*> chain{&rows_of(which)};
  while (chain.back()->isa != Isa::scalar) chain.push_back(&rows_of(isa_below(chain.back()->isa)));
  std::reverse(chain.begin(), chain.end());
  for (const IsaRows* added : chain) {
    if (added->scores) scores = added->scores;
    for (const Row* row = added->rows; row != added->rows + added->count; ++row) {
      const auto same = std::find_if(rows.begin(), rows.end(),
                                     [&](const Row* r) { return std::strcmp(r->name, row->name) == 0; });
      if (same == rows.end()) {
        rows.push_back(row);
        added_by.push_back(added->isa);
      } else {
        *same = row;
        added_by[static_cast<std::size_t>(same - rows.begin())] = added->isa;
      }
    }
  }
  for (const Row* row : rows) {
    TokenKernels& io = tokens_[static_cast<int>(row->type)];
    switch (row->op) {
      case Op::tile:
        tiles_[static_cast<int>(row->format)][static_cast<int>(row->type)].push_back(row);
        break;
      case Op::pack_strip:
        io.pack_strip = row->fn.pack_strip;
        break;
      case Op::pack_rows:
        io.pack_rows = row->fn.pack_rows;
        break;
      case Op::finite:
        io.all_finite = row->fn.finite;
        break;
      case Op::store:
        io.store_tile = row->fn.store;
        break;
      case Op::attention:
        if (!io.attention) io.plain_attention = row->fn.attention;  // of scalar, which comes first
        io.attention = row->fn.attention;
        break;
      case Op::start:
        start = row->fn.start;
        break;
      case Op::reduce:
        reduce = row->fn.reduce;
        break;
      case Op::gate:
        gate = row->fn.gate;
        break;
      case Op::sampled:
        sampled = row;
        break;
      case Op::pack_quads:
        io.quads.pack = row->fn.pack_lanes;
        break;
      case Op::pack_pairs:
        io.pairs.pack = row->fn.pack_lanes;
        break;
      case Op::flat_quads:
        io.quads.flat = row->fn.pack_lanes;
        break;
      case Op::flat_pairs:
        io.pairs.flat = row->fn.pack_lanes;
        break;
      case Op::store_quads:
        io.quads.store = row->fn.store_lanes;
        break;
      case Op::store_pairs:
        io.pairs.store = row->fn.store_lanes;
        break;
    }
  }
}

const Row* Kernels::tile(const PackedHeader& w, Panel panel, int tokens, Needs needs) const {
  const Row* best = nullptr;
  for (const Row* row : tiles_[static_cast<int>(w.format)][static_cast<int>(w.dtype)])
    if (row->panel == panel && row->width == tokens && w.tile_cols <= row->most_cols &&
        w.unit.rows >= row->least_rows && row->needs <= needs && (!best || row->needs >= best->needs))
      best = row;
  return best;
}

const TokenKernels& Kernels::tokens(Dtype type) const { return tokens_[static_cast<int>(type)]; }

const Kernels& active_kernels() {
  static const std::vector<Kernels> all(available_isas().begin(), available_isas().end());
  const Isa isa = active_isa();
  return *std::find_if(all.begin(), all.end(), [&](const Kernels& k) { return k.isa == isa; });
}

#define PRUNUS_OF(type, name)             \
  template <>                             \
  const KeyKernels<type>& key_kernels() { \
    return active_kernels().scores->name; \
  }
PRUNUS_KEYS(PRUNUS_OF)
#undef PRUNUS_OF
#define PRUNUS_OF(type, name)                 \
  template <>                                 \
  const ScoreKernels<type>& score_kernels() { \
    return active_kernels().scores->name;     \
  }
PRUNUS_FLOATS(PRUNUS_OF)
#undef PRUNUS_OF
const RefitKernels& refit_kernels() { return active_kernels().scores->refit; }

}  // namespace prunus
