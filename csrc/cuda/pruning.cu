// The pruning part of the table.
#include "cuda/selection.h"

namespace prunus::cuda {

const PruningApi kPruning = {
    select_bytes,  select,          select_lines, select_nm,  block_sums,
    expand_blocks, normalize_bytes, normalize,    apply_mask,
};

}  // namespace prunus::cuda
