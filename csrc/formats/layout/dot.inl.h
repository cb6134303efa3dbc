// dot: blocks of r rows x one lane, 32 bits along k (4 int8, 2 bf16). A tile holds all of k. Per r rows (a
// group) one bit per lane says where blocks are, and `first` how many blocks lie before it in the tile.
//
//   u64 bits[groups][words] | u32 first[groups + 1] | i32 weights[groups * r] (int8: the sum of each row) |
//   u8 place[groups * r] | pad to 64 | per group, `run` blocks at a time: [r][run][4 bytes], the last
//   [r][rest][4 bytes] | pad to 64 | slack: kernels load whole vectors
//
// run: 16 from 16 rows on, so that 16 rows of a run are the weight tile of AMX; else all of the group.
// place[i] is where row i of the tile lies, for blocks may group any rows of it.
struct DotLayout {
  static constexpr int lane_bytes = 4, run = 16, slack = 64;
  static constexpr int most_rows = 256;
  int r, lanes, words, groups, first_at, weights_at, place_at, values_at;
  DotLayout(int rows, int cols, Unit unit)
      : r(unit.rows),
        lanes((cols + unit.cols - 1) / unit.cols),
        words((lanes + 63) / 64),
        groups((rows + r - 1) / r),
        first_at(groups * words * 8),
        weights_at(first_at + (groups + 1) * 4),
        place_at(weights_at + (unit.cols == 4 ? groups * r * 4 : 0)),
        values_at((place_at + groups * r + 63) / 64 * 64) {}
  std::int64_t block_bytes() const { return r * lane_bytes; }
  std::int64_t bytes(std::int64_t blocks) const {
    return (values_at + blocks * block_bytes() + 63) / 64 * 64 + slack;
  }
  // Blocks that lie side by side with block q of the `count` of a group.
  int run_of(int q, int count) const {
    const int left = count - q / run * run;
    return r < run ? count : left < run ? left : run;
  }
  // Bytes from a group's values to those of block q and its first row, and from a row to the next.
  std::int64_t block_at(int q) const {
    return r < run ? q * lane_bytes : q / run * run * block_bytes() + q % run * lane_bytes;
  }
  int row_stride(int q, int count) const { return run_of(q, count) * lane_bytes; }
};
