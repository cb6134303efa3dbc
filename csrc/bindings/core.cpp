// Errors, isa, threads and build facts.
#include <string>

#include "bindings/bindings.h"
#include "core/check.h"
#include "core/isa.h"
#include "core/parallel.h"
#include "kernels/kernels.h"
#include "ops/attention.h"
#include "ops/execute.h"

namespace prunus::bindings {

namespace {

// Names of the tile kernels of the active isa, those of the lowest isa first.
py::list kernel_names() {
  py::list names;
  for (const Row* row : active_kernels().rows)
    if (row->op == Op::tile) names.append(row->name);
  return names;
}

const char* panel_name(Panel panel) {
  switch (panel) {
    case Panel::none:
      return "none";
    case Panel::strip:
      return "strip";
    case Panel::rows:
      return "rows";
    case Panel::few:
      return "few";
    case Panel::lanes:
      return "lanes";
    case Panel::lane_rows:
      return "lane_rows";
  }
  __builtin_unreachable();
}

const char* needs_name(Needs needs) {
  switch (needs) {
    case Needs::any:
      return "any";
    case Needs::finite_for_holes:
      return "finite_for_holes";
    case Needs::finite:
      return "finite";
  }
  __builtin_unreachable();
}

// The rows of the tile kernels of the active isa (kernels/row.h) and which isa added each, for tests.
py::list kernel_rows() {
  py::list rows;
  const Kernels& kernels = active_kernels();
  for (std::size_t i = 0; i < kernels.rows.size(); ++i) {
    const Row* row = kernels.rows[i];
    if (row->op != Op::tile) continue;
    py::dict d;
    d["name"] = row->name;
    d["isa"] = isa_name(kernels.added_by[i]);
    d["format"] = format_name(row->format);
    d["dtype"] = dtype_name(row->type);
    d["panel"] = panel_name(row->panel);
    d["needs"] = needs_name(row->needs);
    d["tokens"] = row->width;
    d["least_rows"] = row->least_rows;
    rows.append(d);
  }
  return rows;
}

}  // namespace

void register_core(py::module_& m) {
  py::register_exception<FormatError>(m, "FormatError", PyExc_ValueError).doc() =
      "Bytes that are no packed weight: the text names the field, what was expected and what came.";
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
  m.def("refused_isa", &refused_isa);
  m.def("active_isa", [] { return isa_name(active_isa()); });
  m.def("kernels", &kernel_names);
  m.def("kernel_rows", &kernel_rows);
  m.def("has_fast_attention", &has_fast_attention);
  m.def("last_kernels", &last_kernels);
  m.def("set_isa", &set_isa, py::arg("isa"));
  m.def("num_threads", &num_threads);
  m.def("set_num_threads", &set_num_threads, py::arg("threads"));
  m.def("parallel_backend", [] { return parallel_backend_name(); });
  m.def("compiler", [] { return std::string(__VERSION__); });
}

}  // namespace prunus::bindings
