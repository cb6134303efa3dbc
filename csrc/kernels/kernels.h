// The kernels of an isa: its rows over those of the isas below it. Looked up when a call is planned.
#pragma once
#include <vector>

#include "kernels/row.h"
#include "kernels/score_kernels.h"

namespace prunus {

// What reads x and writes y of one type (row.h, Op).
struct LaneKernels {
  PackLanesFn pack, flat;
  StoreLanesFn store;
};
struct TokenKernels {
  PackStripFn pack_strip;
  PackRowsFn pack_rows;
  FiniteFn all_finite;
  StoreFn store_tile;
  LaneKernels quads, pairs;
  AttentionFn attention;        // may be without an answer
  AttentionFn plain_attention;  // never is
};

class Kernels {
 public:
  explicit Kernels(Isa isa);
  Isa isa;

  // The tile kernel for such a weight, a panel and so many tokens that needs no more than `needs` of x; of
  // several the one that needs most, or of the highest isa. nullptr: there is none.
  const Row* tile(const PackedHeader& w, Panel panel, int tokens, Needs needs) const;
  const TokenKernels& tokens(Dtype type) const;  // f32, bf16 or f16

  StartFn start;
  ReduceFn reduce;
  GateFn gate;
  const Row* sampled;
  const ScoreTable* scores;
  std::vector<const Row*> rows;  // all, those of the lowest isa first
  std::vector<Isa> added_by;     // of each row

 private:
  std::vector<const Row*> tiles_[kFormats][kDtypes];
  TokenKernels tokens_[kDtypes] = {};
};

// Of the active isa (core/isa.h).
const Kernels& active_kernels();

}  // namespace prunus
