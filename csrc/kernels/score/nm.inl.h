// N:M by counting: a key stays when fewer than n of its group beat it. One text for every isa.

template <typename Key>
using KeyTile = Key[kNMLargest][kNMLanes];  // entry j of group g
using KeepTile = std::uint8_t[kNMLargest][kNMLanes];

// m known and small: one comparison settles both entries of a pair, and all pairs unroll into vector code
// (for 2:4 in float32 a third of the time of counting every entry's rivals in a loop).
template <int m, typename Key>
void rank_pairs(const Key* keys, Key n, std::uint8_t* keep) {
  for (int g = 0; g < kNMLanes; ++g) {
    Key beaten[m];  // by how many; at first every earlier entry is taken to win
#pragma GCC unroll 16
    for (int i = 0; i < m; ++i) beaten[i] = static_cast<Key>(i);
#pragma GCC unroll 16
    for (int i = 0; i < m; ++i) {
#pragma GCC unroll 16
      for (int j = i + 1; j < m; ++j) {
        const Key later_wins = keys[j * kNMLanes + g] > keys[i * kNMLanes + g];
        beaten[i] = static_cast<Key>(beaten[i] + later_wins);
        beaten[j] = static_cast<Key>(beaten[j] - later_wins);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < m; ++i) keep[i * kNMLanes + g] = beaten[i] < n;
  }
}

template <typename Key>
void rank_any(const Key* keys, Key n, int m, std::uint8_t* keep) {
  for (int i = 0; i < m; ++i) {
    const Key* mine = keys + i * kNMLanes;
    Key beaten[kNMLanes] = {};
    for (int j = 0; j < i; ++j)
      for (int g = 0; g < kNMLanes; ++g)
        beaten[g] = static_cast<Key>(beaten[g] + (keys[j * kNMLanes + g] >= mine[g]));
    for (int j = i + 1; j < m; ++j)
      for (int g = 0; g < kNMLanes; ++g)
        beaten[g] = static_cast<Key>(beaten[g] + (keys[j * kNMLanes + g] > mine[g]));
    for (int g = 0; g < kNMLanes; ++g) keep[i * kNMLanes + g] = beaten[g] < n;
  }
}

template <typename Key>
void nm_columns(const Key* keys, int n, int m, std::uint8_t* keep) {
  const Key kept = static_cast<Key>(n);
  switch (m) {
#define PRUNUS_CASE(M) \
  case M:              \
    return rank_pairs<M>(keys, kept, keep);
    PRUNUS_NM_GROUPS(PRUNUS_CASE)
#undef PRUNUS_CASE
    default:
      return rank_any(keys, kept, m, keep);
  }
}

template <int fixed, typename Key>
void nm_rows(const Key* keys, int n, int runtime_m, std::uint8_t* keep) {
  const int m = fixed > 0 ? fixed : runtime_m;
  KeyTile<Key> columns;
  KeepTile kept;
  if constexpr (fixed == 0) __builtin_memset(columns, 0, sizeof columns);
  for (int g = 0; g < kNMLanes; ++g)
    for (int j = 0; j < m; ++j) columns[j][g] = keys[g * m + j];
  if constexpr (fixed > 0) {
    rank_pairs<fixed>(&columns[0][0], static_cast<Key>(n), &kept[0][0]);
  } else {
    rank_any(&columns[0][0], static_cast<Key>(n), m, &kept[0][0]);
  }
  for (int g = 0; g < kNMLanes; ++g)
    for (int j = 0; j < m; ++j) keep[g * m + j] = kept[j][g];
}

template <typename Key>
void nm_neighbours(const Key* keys, int n, int m, std::uint8_t* keep) {
  switch (m) {
#define PRUNUS_CASE(M) \
  case M:              \
    return nm_rows<M>(keys, n, m, keep);
    PRUNUS_NM_GROUPS(PRUNUS_CASE)
#undef PRUNUS_CASE
    default:
      return nm_rows<0>(keys, n, m, keep);
  }
}
