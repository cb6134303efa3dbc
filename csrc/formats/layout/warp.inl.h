// warp: what one warp of a GPU reads, all columns of `rows` (1, 2, 4 or 8) rows. A row has 32 / rows lanes;
// the kept weights of a row are dealt out in as many runs, and a lane walks its run. In a step every lane
// takes eight values, which lie side by side, and so do the eights of the lanes.
//
//   u16 start[32] | steps: value [32][8], u32 gaps[32]
//
// start: the column of the first value of a lane. gaps: four bits for each of the eight, columns skipped
// before it; where more than 15 would be, values of 0 lie in between. A run ends with zeros.
struct WarpLayout {
  static constexpr int lanes = 32, eight = 8, most_skipped = 15, head = 64;
  static constexpr int gaps_at(int value_size) { return lanes * eight * value_size; }
  static constexpr int step_bytes(int value_size) { return gaps_at(value_size) + lanes * 4; }
  // The fewest rows of a warp, of n rows: 2048 warps fill a large GPU (an H100 holds 132 x 16 of these).
  static constexpr int least_rows(long long n) {
    int rows = 1;
    while (rows < 8 && n >= 2 * rows * 2048) rows *= 2;
    return rows;
  }
};
