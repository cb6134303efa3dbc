// The extension module: one register function per file of this folder.
#include "bindings/bindings.h"

PYBIND11_MODULE(_core, m) {
  m.doc() = "C++ core of prunus (private: the public API is the prunus package)";
  m.attr("__version__") = PRUNUS_VERSION;
  prunus::bindings::register_core(m);
  prunus::bindings::register_packed(m);
  prunus::bindings::register_linear(m);
  prunus::bindings::register_pruning(m);
  prunus::bindings::register_torch(m);
  prunus::bindings::register_cuda(m);
  prunus::bindings::register_cuda_pruning(m);
}
