// col8: u8 order[groups * 8] | u8 steps[groups] | pad to 8 | per group: values [steps][8], u8 columns
// [steps][8]
struct Col8Layout {
  static constexpr int lanes = 8;  // rows of a group
  int groups;
  constexpr explicit Col8Layout(int rows) : groups((rows + lanes - 1) / lanes) {}
  constexpr int steps_at() const { return groups * lanes; }
  constexpr int head_bytes() const { return (groups * (lanes + 1) + 7) / 8 * 8; }
  static constexpr int value_bytes(int steps, int value_size) { return steps * lanes * value_size; }
  static constexpr int group_bytes(int steps, int value_size) { return steps * lanes * (value_size + 1); }
};
