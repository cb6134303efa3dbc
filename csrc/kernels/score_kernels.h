// What pruning needs from an isa: loops over scores and their keys. The only header of kernels that pruning
// sees.
#pragma once
#include <cstdint>

#include "core/dtype.h"
#include "core/isa.h"
#include "kernels/kernel_list.h"

namespace prunus {

// A float is compared as the signed integer that sorts like it (pruning/keys.h).
template <class T>
struct KeyOf;
template <>
struct KeyOf<float> {
  using Key = std::int32_t;
  static constexpr Key infinity = 0x7f800000;
};
template <>
struct KeyOf<double> {
  using Key = std::int64_t;
  static constexpr Key infinity = 0x7ff0000000000000;
};
template <>
struct KeyOf<f16_t> {
  using Key = std::int16_t;
  static constexpr Key infinity = 0x7c00;
};
template <>
struct KeyOf<bf16_t> {
  using Key = std::int16_t;
  static constexpr Key infinity = 0x7f80;
};

// Keys themselves, where a kernel could read either.
template <class Key_>
struct RawKeys {};
template <class Key_>
struct KeyOf<RawKeys<Key_>> {
  using Key = Key_;
};

// Entries sorted by a bracket: what ScoreKernels::split was asked and what it found so far.
template <class Key>
struct Split {
  Key low, high;  // low < high
  bool ends;      // count from_low and over_high; else they are left alone
  std::int64_t from_low, over_low, from_high, over_high;  // entries >= low, > low, >= high, > high
  Key* keys;                                              // of the entries strictly inside,
  std::uint16_t* positions;                               // and where they are
  std::int64_t inside;                                    // how many
};

inline constexpr int kNMLanes = 64;    // groups side by side
inline constexpr int kNMLargest = 64;  // m
inline constexpr int kSampleKeys = 64;

// Loops over keys.
template <class Key>
struct KeyKernels {
  // keep = key >= s->high; entries inside are listed, with positions counted from `first`. `keys` is read as
  // bytes.
  void (*split)(const std::uint8_t* keys, std::int64_t n, std::int64_t first, std::uint8_t* keep,
                Split<Key>* s);
  // keep = key >= floor.
  void (*flag)(const Key* keys, std::int64_t n, Key floor, std::uint8_t* keep);
  // below[i] = how many keys are below bounds[i].
  void (*count_below)(const Key* keys, std::int64_t n, const Key (&bounds)[2], std::int64_t (&below)[2]);
  // Copies the keys in [low, high] to out, which may be `keys`; returns how many.
  std::int64_t (*copy_within)(const Key* keys, std::int64_t n, Key low, Key high, Key* out);
  // quantiles[i] = the key of rank ranks[i] in the sample.
  void (*quantiles)(const Key (&sample)[kSampleKeys], const int (&ranks)[2], Key (&quantiles)[2]);
  // keep = one of the n largest of its group of m <= kNMLargest, the earlier of two equals. nm: kNMLanes
  // groups of neighbours; nm_columns: [m][kNMLanes], a group per column.
  void (*nm)(const Key* keys, int n, int m, std::uint8_t* keep);
  void (*nm_columns)(const Key* keys, int n, int m, std::uint8_t* keep);
};

// Loops over elements of one type, contiguous at any alignment. Nothing depends on the isa but the speed.
template <class T>
struct ScoreKernels {
  using Key = typename KeyOf<T>::Key;
  // Keys of n elements; false when one of them is NaN.
  bool (*keys)(const std::uint8_t* p, std::int64_t n, Key* out);
  // As KeyKernels::split; false as above.
  bool (*split)(const std::uint8_t* p, std::int64_t n, std::int64_t first, std::uint8_t* keep, Split<Key>* s);

  // Sums are float64 in an order fixed by n alone.
  double (*sum_of_squares)(const std::uint8_t* p, std::int64_t n);
  // sums[j] += squares of column j over `rows` rows, row_bytes apart.
  void (*add_squares)(const std::uint8_t* p, std::int64_t row_bytes, std::int64_t rows, std::int64_t n,
                      double* sums);
  // out[i] = p[i] * factor, or * factors[i] where those are given.
  void (*scale)(const std::uint8_t* p, std::int64_t n, double factor, const double* factors,
                std::uint8_t* out);
};

inline constexpr int kRefitPanel = 32;  // columns

// Least squares on the weights that one row keeps (pruning/refit.h).
struct RefitKernels {
  // The rows and columns `index` of a symmetric matrix (stride floats a row) as panels of kRefitPanel
  // columns, each [count][kRefitPanel], zero behind the last column.
  void (*gather)(const float* matrix, std::int64_t stride, const std::int32_t* index, int count, float* out);
  // Conjugate gradients for A x = b from the x given, until the residual is `tolerance` of what it was; how
  // many iterations it took. b and x: count floats and zeros up to whole panels; room: three times that.
  int (*solve)(const float* panels, int count, const float* b, float* x, float* room, int iterations,
               double tolerance);
};

struct ScoreTable {
#define PRUNUS_MEMBER(type, name) KeyKernels<type> name;
  PRUNUS_KEYS(PRUNUS_MEMBER)
#undef PRUNUS_MEMBER
#define PRUNUS_MEMBER(type, name) ScoreKernels<type> name;
  PRUNUS_FLOATS(PRUNUS_MEMBER)
#undef PRUNUS_MEMBER
  RefitKernels refit;
};

// Of the active isa (core/isa.h).
template <class Key>
const KeyKernels<Key>& key_kernels();
template <class T>
const ScoreKernels<T>& score_kernels();
const RefitKernels& refit_kernels();

}  // namespace prunus
