// The loops over scores of one isa and their table.
#include "kernels/score/keys.inl.h"
#include "kernels/score/nm.inl.h"
#include "kernels/score/refit.inl.h"
#include "kernels/score/scale.inl.h"

template <typename Key>
constexpr KeyKernels<Key> key_kernels_of() {
  return {split_keys<Key>, flag<Key>,          count_below<Key>, copy_within<Key>,
          quantiles<Key>,  nm_neighbours<Key>, nm_columns<Key>};
}

template <typename T>
constexpr ScoreKernels<T> score_kernels_of() {
  return {keys<T>, split<T>, sum_of_squares<T>, add_squares<T>, scale<T>};
}

constexpr ScoreTable kScores = {
#define PRUNUS_TYPE(type, name) key_kernels_of<type>(),
    PRUNUS_KEYS(PRUNUS_TYPE)
#undef PRUNUS_TYPE
#define PRUNUS_TYPE(type, name) score_kernels_of<type>(),
        PRUNUS_FLOATS(PRUNUS_TYPE)
#undef PRUNUS_TYPE
            {refit_gather, refit_solve},
};
