#include "cuda/products.h"

namespace prunus::cuda {

const ProductApi kProducts = {linear, expand, finish};

}  // namespace prunus::cuda
