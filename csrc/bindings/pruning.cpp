// Selection, normalise and masks on numpy arrays. Python (masks.py) has checked kinds and dtypes; here come
// shapes and strides.
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "core/check.h"
#include "pruning/apply_mask.h"
#include "pruning/normalize.h"
#include "pruning/refit.h"
#include "pruning/select.h"
#include "pruning/sweep.h"

namespace prunus::bindings {
namespace {

std::string text(const py::object& o) { return py::str(o).cast<std::string>(); }

bool is_matrix(const py::array& a) { return a.ndim() == 2; }

// Stride of a dimension in elements; of one that is never stepped over, whatever helps.
std::int64_t stride(const py::array& a, int dim, std::int64_t if_single) {
  return a.shape(dim) <= 1 ? if_single : a.strides(dim) / a.itemsize();
}

bool whole_strides(const py::array& a) {
  for (py::ssize_t d = 0; d < a.ndim(); ++d)
    if (a.strides(d) % a.itemsize() != 0) return false;
  return true;
}

Plane matrix_plane(const py::array& a, Plane p) {
  const std::int64_t rows = a.shape(0), cols = a.shape(1);
  const std::int64_t down = stride(a, 0, cols), right = stride(a, 1, 1);
  if (right == 1) {
    p.rows = rows, p.cols = cols, p.row_stride = down;
  } else if (stride(a, 0, 1) == 1) {
    p.rows = cols, p.cols = rows, p.row_stride = right, p.transposed = true;
  } else {
    p.cols = -1;
  }
  return p;
}

// The caller's memory. 16-bit floats may come as uint16; `dtype` says what the bits are.
Plane plane_of(const py::array& a, const std::string& dtype, const std::string& name) {
  Plane p;
  p.dtype = dtype_from_name(dtype);
  p.data = static_cast<const std::uint8_t*>(a.data());
  check_value(a.ndim() >= 1, expected_got(name.c_str(), "at least 1 dimension", "0"));
  check_value(a.itemsize() == static_cast<py::ssize_t>(dtype_size(p.dtype)),
              expected_got(name.c_str(), dtype, text(a.dtype())));
  if (a.size() == 0) return p;
  if (!whole_strides(a)) {
    p.cols = -1;
  } else if (is_matrix(a)) {
    p = matrix_plane(a, p);
  } else if (a.ndim() == 1) {
    p.rows = a.shape(0), p.cols = 1, p.row_stride = stride(a, 0, 1);
    if (p.row_stride == 1) std::swap(p.rows, p.cols), p.row_stride = p.cols;
  } else if (a.flags() & py::array::c_style) {
    p.rows = 1, p.cols = a.size(), p.row_stride = a.size();
  } else {
    p.cols = -1;
  }
  check_value(p.cols >= 0,
              expected_got(name.c_str(), "contiguous memory, or a matrix with contiguous rows or columns",
                           "byte strides " + text(a.attr("strides"))));
  return p;
}

py::array new_like(const py::array& a, const Plane& p, const py::dtype& dtype) {
  if (p.transposed) return py::array(dtype, std::vector<py::ssize_t>{p.rows, p.cols}).attr("T");
  return py::array(dtype, std::vector<py::ssize_t>(a.shape(), a.shape() + a.ndim()));
}

struct Request {
  Selection selection;
  py::array mask;
};

Request request(const py::array& scores, const std::string& dtype, const std::string& name) {
  const Plane p = plane_of(scores, dtype, name);
  py::array mask = new_like(scores, p, py::dtype::of<bool>());
  return {{p, {static_cast<std::uint8_t*>(mask.mutable_data()), p.cols}, name}, mask};
}

void check_matrix(const py::array& a, const char* name) {
  check_value(is_matrix(a), expected_got(name, "2 dimensions (n, k)", std::to_string(a.ndim())));
}

// Runs fn without the GIL: seconds for a large model, and other Python threads go on.
template <class Fn>
void released(Fn&& fn) {
  py::gil_scoped_release release;
  fn();
}

py::array select_unstructured_numpy(const py::array& scores, const std::string& dtype, double sparsity,
                                    const std::string& scope) {
  if (scope != "tensor") check_matrix(scores, "scores");
  const Scope s = scope == "row" ? Scope::row : scope == "column" ? Scope::column : Scope::tensor;
  const Request r = request(scores, dtype, "scores");
  released([&] { select_unstructured(r.selection, sparsity, s); });
  return r.mask;
}

std::vector<py::array> select_global_numpy(const std::vector<std::pair<py::array, std::string>>& all,
                                           double sparsity) {
  std::vector<Selection> selections;
  std::vector<py::array> masks;
  for (const auto& [scores, dtype] : all) {
    Request r = request(scores, dtype, "scores[" + std::to_string(masks.size()) + "]");
    selections.push_back(r.selection);
    masks.push_back(r.mask);
  }
  released([&] { select_global(selections, sparsity); });
  return masks;
}

py::array select_nm_numpy(const py::array& scores, const std::string& dtype, std::int64_t n, std::int64_t m) {
  check_matrix(scores, "scores");
  check_value(scores.shape(1) % m == 0,
              expected_got("scores", "rows of a multiple of m = " + std::to_string(m) + " entries",
                           std::to_string(scores.shape(1))));
  const Request r = request(scores, dtype, "scores");
  released([&] { select_nm(r.selection, n, m); });
  return r.mask;
}

py::array select_blocks_numpy(const py::array& scores, const std::string& dtype,
                              std::pair<std::int64_t, std::int64_t> shape, double sparsity) {
  check_matrix(scores, "scores");
  const Request r = request(scores, dtype, "scores");
  released([&] { select_blocks(r.selection, shape.first, shape.second, sparsity); });
  return r.mask;
}

py::array normalize_numpy(const py::array& w, const std::string& dtype, int axis) {
  check_matrix(w, "w");
  check_value(axis == 0 || axis == 1, expected_got("axis", "0 (columns) or 1 (rows)", std::to_string(axis)));
  const Plane p = plane_of(w, dtype, "w");
  py::array out = new_like(w, p, w.dtype());
  std::uint8_t* to = static_cast<std::uint8_t*>(out.mutable_data());
  released([&] { normalize(p, (axis == 1) != p.transposed, to); });
  return out;
}

void apply_mask_numpy(py::array w, const std::string& dtype, const py::array_t<bool>& mask) {
  check_value(w.ndim() == mask.ndim() && std::equal(w.shape(), w.shape() + w.ndim(), mask.shape()),
              expected_got("mask", "shape " + text(w.attr("shape")), text(mask.attr("shape"))));
  w.mutable_data();  // refuses read-only memory
  const Plane p = plane_of(w, dtype, "w");
  std::int64_t down = p.cols, right = 1;
  if (is_matrix(w)) {
    down = mask.strides(0), right = mask.strides(1);
    if (p.transposed) std::swap(down, right);
    if (p.cols <= 1) right = 1;
  } else if (w.ndim() == 1 && w.size() > 0) {
    (p.cols == 1 ? down : right) = mask.strides(0);
  } else {
    check_value(mask.flags() & py::array::c_style,
                expected_got("mask", "contiguous memory", "byte strides " + text(mask.attr("strides"))));
  }
  const std::uint8_t* keep = static_cast<const std::uint8_t*>(mask.request().ptr);
  released([&] { apply_mask(p, keep, down, right); });
}

using Floats = py::array_t<float, py::array::c_style>;

std::pair<py::array, std::int64_t> refit_numpy(const Floats& matrix, const py::array_t<bool>& mask,
                                               const Floats& target, const Floats& start, int iterations,
                                               double tolerance) {
  check_matrix(start, "start");
  const py::ssize_t n = start.shape(0), k = start.shape(1);
  const auto check_shape = [](const py::array& a, const char* name, py::ssize_t rows, py::ssize_t cols) {
    const bool fits = a.ndim() == 2 && a.shape(0) == rows && a.shape(1) == cols;
    const std::string expected = "shape (" + std::to_string(rows) + ", " + std::to_string(cols) + ")";
    check_value(fits, expected_got(name, expected, text(a.attr("shape"))));
  };
  check_shape(matrix, "matrix", k, k);
  check_shape(mask, "mask", n, k);
  check_shape(target, "target", n, k);
  check_value(mask.flags() & py::array::c_style, expected_got("mask", "contiguous memory", "strides"));
  Floats out(std::vector<py::ssize_t>{n, k});
  const Refit problem{matrix.data(),
                      reinterpret_cast<const std::uint8_t*>(mask.data()),
                      target.data(),
                      start.data(),
                      n,
                      k,
                      iterations,
                      tolerance};
  float* to = out.mutable_data();
  std::int64_t most = 0;
  released([&] { most = refit(problem, to); });
  return {out, most};
}

// Ctrl-C while C++ works: Python's own handler runs, and its exception comes out of the call.
void check_signals() {
  py::gil_scoped_acquire acquire;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

}  // namespace

void register_pruning(py::module_& m) {
  set_interrupt_check(&check_signals);
  m.def("select_unstructured", &select_unstructured_numpy, py::arg("scores").noconvert(), py::arg("dtype"),
        py::arg("sparsity"), py::arg("scope"));
  m.def("select_global", &select_global_numpy, py::arg("scores"), py::arg("sparsity"));
  m.def("select_nm", &select_nm_numpy, py::arg("scores").noconvert(), py::arg("dtype"), py::arg("n"),
        py::arg("m"));
  m.def("select_blocks", &select_blocks_numpy, py::arg("scores").noconvert(), py::arg("dtype"),
        py::arg("shape"), py::arg("sparsity"));
  m.def("normalize", &normalize_numpy, py::arg("w").noconvert(), py::arg("dtype"), py::arg("axis"));
  m.def("apply_mask", &apply_mask_numpy, py::arg("w").noconvert(), py::arg("dtype"),
        py::arg("mask").noconvert());
  m.def("refit", &refit_numpy, py::arg("matrix").noconvert(), py::arg("mask").noconvert(),
        py::arg("target").noconvert(), py::arg("start").noconvert(), py::arg("iterations"),
        py::arg("tolerance"));
}

}  // namespace prunus::bindings
