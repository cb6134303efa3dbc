#include <algorithm>
#include <cstring>

#include "kernels/kernels.h"

namespace prunus {

// One per isa_<isa>.cpp.
extern const IsaRows kScalarRows;
#if defined(__x86_64__)
extern const IsaRows kAvx2Rows, kAvx512Rows, kAvx512IclRows;
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
    case Isa::avx512:
      return kAvx512Rows;
    case Isa::avx512icl:
      return kAvx512IclRows;
    case Isa::neon:
      break;
#elif defined(__aarch64__)
    case Isa::neon:
      return kNeonRows;
    case Isa::avx2:
    case Isa::avx512:
    case Isa::avx512icl:
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
      same == rows.end() ? rows.push_back(row) : void(*same = row);
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
      case Op::start:
        start = row->fn.start;
        break;
      case Op::reduce:
        reduce = row->fn.reduce;
        break;
      case Op::gate:
        gate = row->fn.gate;
        break;
    }
  }
}

const Row* Kernels::tile(Format format, Dtype type, Panel panel, int tokens, int cols, Needs needs) const {
  const Row* best = nullptr;
  for (const Row* row : tiles_[static_cast<int>(format)][static_cast<int>(type)])
    if (row->panel == panel && row->width == tokens && cols <= row->most_cols && row->needs <= needs &&
        (!best || row->needs >= best->needs))
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
