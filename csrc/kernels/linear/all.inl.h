// Every kernel of linear that is one text for all isas, in the order in which they use each other.
#include "kernels/linear/activation.inl.h"
#include "kernels/linear/careful.inl.h"
#include "kernels/linear/fetch.inl.h"
#include "kernels/linear/bitmap.inl.h"
#include "kernels/linear/col8.inl.h"
#include "kernels/linear/panel.inl.h"
// These use col8's walk.
#include "kernels/linear/block_strip.inl.h"
#include "kernels/linear/block_few.inl.h"
#include "kernels/linear/nm.inl.h"
