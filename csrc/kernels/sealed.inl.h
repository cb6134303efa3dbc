// std:: would leave the object of an isa, so what little is needed is here. Included first, inside the
// anonymous namespace.
template <bool, typename A, typename>
struct pick {
  using type = A;
};
template <typename A, typename B>
struct pick<false, A, B> {
  using type = B;
};

template <auto A>
struct constant {
  static constexpr auto value = A;
};

// The arguments of a kernel that multiplies floats; a copy, which the compiler may keep in registers.
struct FloatTile {
  const std::uint8_t *tile, *scales;
  int rows, cols;
  Unit unit;
  const float* panel;
  float* acc;
  explicit FloatTile(const TileArgs& a)
      : tile(a.tile),
        scales(a.scales),
        rows(a.rows),
        cols(a.cols),
        unit(a.unit),
        panel(static_cast<const float*>(a.panel)),
        acc(static_cast<float*>(a.sums)) {}
};
