#include "formats/structure.h"

#include <algorithm>

#include "core/parallel.h"
#include "formats/bits.h"
#include "formats/tiles.h"

namespace prunus {
namespace {

constexpr int kStripRows = Sample::strip_rows;
constexpr int kHeights[] = {1, 2, 4, 8, 16, 32}, kWidths[] = {1, 2, 4, 8, 16};

// Bit j * c of the result: any of the c bits from there on is set.
std::uint64_t fold(std::uint64_t word, int c) {
  for (int shift = 1; shift < c; shift *= 2) word |= word >> shift;
  const std::uint64_t starts[] = {~0ull, 0x5555555555555555ull, 0x1111111111111111ull, 0x0101010101010101ull,
                                  0x0001000100010001ull};
  return word & starts[__builtin_ctz(static_cast<unsigned>(c))];
}

// Occupied r x c blocks of the sample, counted for all shapes.
struct Blocks {
  std::uint64_t count[6][5] = {};
};
Blocks count_blocks(const Sample& s) {
  Blocks blocks;
  for (std::int64_t strip = 0; strip < s.strips; ++strip)
    for (std::int64_t j = 0; j < s.words; ++j) {
      std::uint64_t rows[kStripRows];
      for (int r = 0; r < kStripRows; ++r) rows[r] = s.row(strip, r)[j];
      for (int h = 0; h < 6; ++h) {
        for (int r = 0; r < kStripRows / kHeights[h]; ++r) {
          if (h > 0) rows[r] = rows[2 * r] | rows[2 * r + 1];
          for (int v = 0; rows[r] != 0 && v < 5; ++v)
            blocks.count[h][v] += static_cast<std::uint64_t>(count_bits(fold(rows[r], kWidths[v])));
        }
      }
    }
  return blocks;
}

// Slots of whole blocks for each place of w: more than 1 where w ends inside of blocks.
double overhang(std::int64_t extent, int side) {
  return static_cast<double>((extent + side - 1) / side * side) /
         static_cast<double>(std::max<std::int64_t>(extent, 1));
}

// Most nonzeros in any group of m columns of a row.
int most_in_group(const std::uint64_t* bits, std::int64_t k, int m) {
  int most = 0;
  for (std::int64_t c = 0; c < k; c += m) {
    const std::int64_t shift = c % 64;
    std::uint64_t group = bits[c / 64] >> shift;
    if (shift + m > 64 && c / 64 + 1 < (k + 63) / 64) group |= bits[c / 64 + 1] << (64 - shift);
    most = std::max(most, count_bits(group & ((1ull << m) - 1)));
  }
  return most;
}

}  // namespace

Sample take_sample(const Dense& w, const KeptBits& kept) {
  const std::int64_t all = (w.n + kStripRows - 1) / kStripRows;
  Sample s{};
  s.words = (w.k + 63) / 64;
  s.strips = std::min<std::int64_t>(all, Sample::most_strips);
  s.bits.assign(static_cast<std::size_t>(s.strips * kStripRows * s.words), 0);
  for (std::int64_t i = 0; i < s.strips; ++i) {
    const std::int64_t first = all * i / s.strips * kStripRows;
    for (int r = 0; r < kStripRows && first + r < w.n; ++r, ++s.rows)
      std::copy_n(kept.row(first + r), s.words, s.bits.data() + (i * kStripRows + r) * s.words);
  }
  for (const std::uint64_t word : s.bits) s.nnz += static_cast<std::uint64_t>(count_bits(word));
  return s;
}

// The tallest, then widest shape among those with nearly the fewest bytes: whole blocks are whole in all
// smaller shapes too, so fewest bytes alone would not tell.
BlockFit best_block(const Dense& w, const Sample& s, Dtype dtype) {
  const Blocks blocks = count_blocks(s);
  const auto bytes = [&](int h, int v) {
    const auto count = static_cast<double>(blocks.count[h][v]);
    return count * (kHeights[h] * kWidths[v] * static_cast<double>(dtype_size(dtype)) +
                    std::max(1, 8 / kHeights[h]) / 8.0);
  };
  double least = bytes(0, 1);
  for (int h = 0; h < 6; ++h)
    for (int v = h == 0; v < 5; ++v) least = std::min(least, bytes(h, v));
  for (int h = 5; h >= 0; --h)
    for (int v = 4; v >= 0; --v) {
      if (bytes(h, v) > 1.05 * least) continue;
      const double slots = static_cast<double>(blocks.count[h][v]) * kHeights[h] * kWidths[v] /
                           (overhang(w.n, kHeights[h]) * overhang(w.k, kWidths[v]));
      return {{static_cast<std::uint16_t>(kHeights[h]), static_cast<std::uint16_t>(kWidths[v])},
              slots > 0 ? static_cast<double>(s.nnz) / slots : 1};
    }
  return {{1, 2}, 0};
}

int most_in_group(const Dense& w, const KeptBits& kept, int m) {
  constexpr std::int64_t kRows = 32;
  const std::int64_t pieces = (w.n + kRows - 1) / kRows;
  std::vector<int> most(static_cast<std::size_t>(pieces), 0);
  parallel_for(pieces, [&](std::int64_t i) {
    for (std::int64_t r = i * kRows; r < std::min(w.n, (i + 1) * kRows); ++r)
      most[static_cast<std::size_t>(i)] =
          std::max(most[static_cast<std::size_t>(i)], most_in_group(kept.row(r), w.k, m));
  });
  return most.empty() ? 0 : *std::max_element(most.begin(), most.end());
}

Unit best_nm(const Sample& s, std::int64_t k, double density) {
  Unit best{0, 0};
  double least = 1;
  for (int m = 2; m <= kMaxM; ++m) {
    int n = density > 0 ? 1 : 0;
    for (std::int64_t strip = 0; strip < s.strips; ++strip)
      for (int r = 0; r < kStripRows && n < least * m; ++r)
        n = std::max(n, most_in_group(s.row(strip, r), k, m));
    const double share = static_cast<double>(std::max(n, 1)) / m;
    if (share >= least) continue;
    least = share;
    best = {static_cast<std::uint16_t>(std::max(n, 1)), static_cast<std::uint16_t>(m)};
  }
  return best;
}

}  // namespace prunus
