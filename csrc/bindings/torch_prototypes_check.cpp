// Test only, never part of the extension: torch_shim.h against the headers of the installed torch.
// tests/torch/test_prototypes.py compiles it with -fsyntax-only.
#include <torch/csrc/stable/c/shim.h>

#include <type_traits>

#include "bindings/torch_shim.h"

#define PRUNUS_TORCH_COMPARE(result, name, parameters)                        \
  static_assert(std::is_same<decltype(&::name), result(*) parameters>::value, \
                #name ": prototype differs from torch's header");
PRUNUS_TORCH_FUNCTIONS(PRUNUS_TORCH_COMPARE)

static_assert(prunus::torch_shim::kAbiVersion == TORCH_VERSION_2_10_0, "the ABI version spoken is 2.10.0");
