// Errors, isa, threads and build facts.
#include "bindings/bindings.h"
#include "core/check.h"
#include "core/isa.h"
#include "core/parallel.h"
#include "kernels/kernel_list.h"

namespace prunus::bindings {

void register_core(py::module_& m) {
  py::register_exception<FormatError>(m, "FormatError", PyExc_ValueError);
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const ValueError& e) {
      PyErr_SetString(PyExc_ValueError, e.what());
    }
  });

  m.def("available_isas", [] {
    py::list names;
    for (Isa isa : available_isas()) names.append(isa_name(isa));
    return names;
  });
  m.def("active_isa", [] { return isa_name(active_isa()); });
  m.def("kernels", [] {  // format_valuetype_tokens; every isa has all of them
    py::list names;
#define PRUNUS_NAME(width) names.append("col8_f32_" #width);
    PRUNUS_STRIP_WIDTHS(PRUNUS_NAME)
#undef PRUNUS_NAME
    return names;
  });
  m.def("set_isa", &set_isa, py::arg("isa"));
  m.def("num_threads", &num_threads);
  m.def("set_num_threads", &set_num_threads, py::arg("threads"));
  m.def("parallel_backend", [] { return parallel_backend_name(); });
  m.def("compiler", [] { return std::string(__VERSION__); });
}

}  // namespace prunus::bindings
