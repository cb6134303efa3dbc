// block: u8 order[groups * G] | u8 steps[groups] | pad to 8 | per group: values [steps][c][G * r], u8 columns
// [steps][G] | pad to 8
struct BlockLayout {
  int r, shift, c;               // r = 1 << shift: a division takes longer than a block
  int per_group, lanes, groups;  // G: rows of blocks in a group, and rows of w
  BlockLayout(int rows, Unit unit)
      : r(unit.rows),
        shift(__builtin_ctz(unit.rows)),
        c(unit.cols),
        per_group(r < 8 ? 8 / r : 1),
        lanes(per_group * r),
        groups((rows + lanes - 1) / lanes) {}
  int steps_at() const { return groups * per_group; }
  int head_bytes() const { return (groups * (per_group + 1) + 7) / 8 * 8; }
  // Of a group of a whole tile and a bit: kernels have room for no more (256 columns).
  int most_steps() const { return 256 / c; }
  int step_values() const { return c * lanes; }
  int value_bytes(int steps, int value_size) const { return steps * step_values() * value_size; }
  int group_bytes(int steps, int value_size) const {
    return value_bytes(steps, value_size) + steps * per_group;
  }
};
