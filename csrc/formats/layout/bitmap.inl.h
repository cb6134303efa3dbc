// bitmap: u64 bits[rows] | values, rows one after another | pad to 8 | slack: kernels load whole vectors
struct BitmapLayout {
  static constexpr int slack = 32;
  static constexpr int values_at(int rows) { return rows * 8; }
};
