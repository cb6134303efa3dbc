// Every number by which something is chosen, a row per isa. Where they come from: csrc/decisions.
#pragma once
#include <cstdint>

#include "core/isa.h"

namespace prunus {

// What differs between isas. Shares are of kept weights.
struct IsaThresholds {
  Isa isa;
  // A bitmap instead of col8 from this share on: col8 costs per nonzero, the bitmap per weight.
  double bitmap_from;
  // Tokens up to which a bitmap is expanded whatever its share (finding a set bit and clearing it are two
  // operations each up to Zen 3).
  int expand_always;
  // Tokens up to which looking col8's activations up, a token at a time, is faster than a strip.
  int look_up_most;
  // Floats of sums that a strip kernel keeps in registers: rows of a block share what they load, so the
  // taller the block, the narrower the strip.
  int sums;
  // Tokens of a strip of dot: of short blocks, and of those that tile products take.
  int dot_strip, dot_tall_strip;
  // The fewest of the latter: tile products take 16 in the time of 8.
  int dot_tall_least;
  // Tokens up to which lanes of such blocks are the lanes, all tokens in one pass.
  int dot_tall_few;
  // The tallest block that is packed unasked: 32 rows are two tiles that share their tokens; without tiles 16
  // are read from memory in up to half of the time.
  int dot_rows;
};

const IsaThresholds& thresholds(Isa isa);

// What does not.
namespace threshold {

// -- Packing: which format. --
inline constexpr double kFull = 0.9;         // share of stored slots that must be nonzeros for "auto"
inline constexpr double kForcedFull = 0.52;  // the same where block was asked for
inline constexpr int kSharedRows = 4;        // fewer rows of a block share too little: col8 and bitmap win

// -- Packing: the rows that share a warp. With fewer kept weights than three steps hold, the last step is
// half empty. --
inline constexpr double kKeptOfWarp = 3 * 256;

// -- Packing: the height of a dot block. What a stored value costs, in values of blocks of 32 rows: a row
// alone shares no activations with others. First of equals wins. --
struct DotHeight {
  std::uint16_t rows;
  double cost;
};
inline constexpr DotHeight kDotHeights[] = {{32, 1.0}, {16, 1.0}, {4, 1.05}, {1, 1.4}};

// -- Packing: columns of a tile. A strip's panel of a tile should stay in L1 (96 columns of 64 tokens are
// 24 KB); once the segments of rows get short, their fixed cost outweighs its misses. --
inline constexpr double kDense = 0.25, kSparse = 0.15;  // shares of kept weights between which columns change
inline constexpr std::int32_t kColumns = 96, kSparseColumns = 192, kDenseColumns = 64;
// Strips of taller blocks are narrow (registers hold several rows instead), so their panels are longer.
inline constexpr std::int32_t kTallColumns = 240, kPairColumns = 112, kFlatColumns = 80;

// -- Packing: rows of a tile. As tall as one byte allows, but at least so many tiles, for threads to share.
// --
inline constexpr std::int32_t kTilesAtLeast = 4;

// -- Kernels. --
// A bitmap for few tokens: expanding costs the same whatever is set, and grows with the tokens; walking set
// bits costs the same for one to eight tokens, and grows with the bits. Where they cross on Zen 4: 0.5
// between 4 and 5 tokens, 0.3 between 2 and 3.
inline constexpr double kExpandBase = 0.1, kExpandPerToken = 0.08;
inline constexpr double kLookUpShare = 0.12;  // below it, more than one token of col8 is a strip
// nm and block: rows as lanes, all tokens in one pass.
inline constexpr std::int64_t kFewTokens = 4;
// The same for dot, whose weight is spread out over the lanes of every token where a row has blocks of its
// own. Blocks of four rows share joined lanes, which takes longer than a strip from three tokens on.
inline constexpr std::int64_t kDotFewFlat = 8, kDotFew = 2;

// -- The gradient of the values (ops/sampled.cpp). Floats of the panels of x that are held together, and of
// the panel of rows; what packing a row costs, in entries. --
inline constexpr std::int64_t kSampledFloats = 512 << 10, kSampledRows = 64 << 10, kSampledRowCost = 10;

// -- Threads. --
inline constexpr double kWorkPerThread = 160e3;  // multiply-adds that are worth a thread
inline constexpr double kStoreCost =
    40.0;  // storing a row of a strip costs what so many bytes of weight cost
inline constexpr double kStripCost = 12.0;  // walking a tile for a strip costs what so many more tokens cost
// Panels that wait for the next tile of weights may take this part of L2, which other threads of the core and
// the weights share; and so many strips.
inline constexpr std::int64_t kBandShare = 4, kBandMost = 64;
inline constexpr double kWeightsOfL2 = 0.75;           // weights smaller than this stay there anyway
inline constexpr std::int64_t kPackAlone = 64 * 1024;  // floats packed in the time of a parallel region

}  // namespace threshold
}  // namespace prunus
