// Errors, isa, threads and build facts.
#include <string>

#include "bindings/bindings.h"
#include "core/check.h"
#include "core/isa.h"
#include "core/parallel.h"
#include "kernels/kernel_list.h"

namespace prunus::bindings {

namespace {

// format_valuetype_tokens; every isa has all of them.
py::list kernel_names() {
  py::list names;
  for (const std::string value : {
#define PRUNUS_TYPE(index, type) #type,
           PRUNUS_VALUES(PRUNUS_TYPE)
#undef PRUNUS_TYPE
       }) {
#define PRUNUS_NAME(index, tokens) names.append("col8_few_" + value + "_" #tokens);
    PRUNUS_COL8_TOKENS(PRUNUS_NAME)
#undef PRUNUS_NAME
#define PRUNUS_NAME(index, tokens) names.append("col8_" + value + "_" #tokens);
    PRUNUS_STRIP_WIDTHS(PRUNUS_NAME)
#undef PRUNUS_NAME
#define PRUNUS_NAME(index, tokens) names.append("bitmap_rows_" + value + "_" #tokens);
    PRUNUS_ROW_TOKENS(PRUNUS_NAME)
#undef PRUNUS_NAME
#define PRUNUS_NAME(index, tokens) names.append("bitmap_" + value + "_" #tokens);
    PRUNUS_STRIP_WIDTHS(PRUNUS_NAME)
#undef PRUNUS_NAME
#define PRUNUS_NAME(index, tokens) names.append("nm_" + value + "_" #tokens);
    PRUNUS_STRIP_WIDTHS(PRUNUS_NAME)
#undef PRUNUS_NAME
#define PRUNUS_NAME(index, tokens) names.append("nm_few_" + value + "_" #tokens);
    PRUNUS_FEW_TOKENS(PRUNUS_NAME)
#undef PRUNUS_NAME
#define PRUNUS_NAME(index, tokens) names.append("block_" + value + "_" #tokens);
    PRUNUS_STRIP_WIDTHS(PRUNUS_NAME)
#undef PRUNUS_NAME
#define PRUNUS_NAME(index, tokens) names.append("block_few_" + value + "_" #tokens);
    PRUNUS_FEW_TOKENS(PRUNUS_NAME)
#undef PRUNUS_NAME
    for (const char* format : {"nm", "block"}) names.append(std::string(format) + "_careful_" + value);
  }
  return names;
}

}  // namespace

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
  m.def("kernels", &kernel_names);
  m.def("set_isa", &set_isa, py::arg("isa"));
  m.def("num_threads", &num_threads);
  m.def("set_num_threads", &set_num_threads, py::arg("threads"));
  m.def("parallel_backend", [] { return parallel_backend_name(); });
  m.def("compiler", [] { return std::string(__VERSION__); });
}

}  // namespace prunus::bindings
