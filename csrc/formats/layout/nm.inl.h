// nm: per 8 rows: values [steps][8], positions [steps] of `position_bits` bytes | slack | pad to 8
struct NmLayout {
  static constexpr int lanes = 8;
  static constexpr int slack = 2;  // kernels read positions by four bytes
  int groups, blocks, steps, position_bits;
  constexpr NmLayout(int rows, int cols, Unit unit)
      : groups((cols + unit.cols - 1) / unit.cols),
        blocks((rows + lanes - 1) / lanes),
        steps(groups * unit.rows),
        position_bits(unit.cols <= 4   ? 2
                      : unit.cols <= 8 ? 3
                                       : 4) {}
  constexpr int value_bytes(int value_size) const { return steps * lanes * value_size; }
  constexpr int block_bytes(int value_size) const { return value_bytes(value_size) + steps * position_bits; }
  constexpr int bytes(int value_size) const { return (blocks * block_bytes(value_size) + slack + 7) / 8 * 8; }
};
