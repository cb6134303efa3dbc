// Every dot kernel that is one text for all isas, over the lanes of simd/dot_<isa>.h; after panel.inl.h.
#include "kernels/linear/dot_strip.inl.h"
// which these use,
#include "kernels/linear/dot_few.inl.h"
// and what surrounds them.
#include "kernels/linear/dot_pack.inl.h"
#include "kernels/linear/dot_store.inl.h"
