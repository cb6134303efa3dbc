// Every kernel of linear that is one text for all isas.
#include "kernels/linear/fetch.inl.h"
// What surrounds the kernels,
#include "kernels/linear/activation.inl.h"
#include "kernels/linear/careful.inl.h"
#include "kernels/linear/panel.inl.h"
// those that walk nonzeros,
#include "kernels/linear/bitmap.inl.h"
#include "kernels/linear/col8.inl.h"
// and those that use col8 for it (block_few also uses block).
#include "kernels/linear/block.inl.h"
#include "kernels/linear/block_few.inl.h"
#include "kernels/linear/nm.inl.h"
// And the gradient of the values.
#include "kernels/linear/sampled.inl.h"
