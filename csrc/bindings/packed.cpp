// Packed weights of numpy arrays. Python (packed.py) has checked kinds; here come shapes and bytes.
#include <algorithm>
#include <cstdlib>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "core/check.h"
#include "formats/fingerprint.h"
#include "formats/pack.h"
#include "formats/value_index.h"
#include "ops/execute.h"
#include "ops/policy/policy.h"

namespace prunus::bindings {
namespace {

using Floats = py::array_t<float>;

// (rows, cols) whose elements are neighbours within a row; arrays without elements have meaningless strides.
bool rows_contiguous(const py::array& a) {
  return a.size() == 0 ||
         ((a.shape(1) <= 1 || a.strides(1) == a.itemsize()) && a.strides(0) % a.itemsize() == 0);
}

// From a multiple of 64 on: kernels load whole cache lines, and what numpy allocates begins anywhere.
Bytes whole_lines(std::uint64_t size) {
  auto* const memory = std::aligned_alloc(64, (std::max<std::uint64_t>(size, 1) + 63) / 64 * 64);
  if (!memory) throw std::bad_alloc();
  const py::capsule owner(memory, [](void* p) { std::free(p); });
  return Bytes(static_cast<py::ssize_t>(size), static_cast<std::uint8_t*>(memory), owner);
}

// w: 2-D array with a contiguous last dimension, 16-bit floats as uint16; dtype says what the bits are.
Bytes pack(const py::array& w, const std::string& dtype, const std::optional<py::array_t<bool>>& mask,
           const std::string& stored_dtype, const std::string& format, std::optional<int> rows) {
  Asked asked{std::nullopt, rows};
  if (format != "auto") asked.format = format_from_name(format);
  const Dtype stored = dtype_from_name(stored_dtype);
  check_value(stored != Dtype::f64,
              expected_got("dtype", "float32, bfloat16, float16 or int8", stored_dtype));
  const Dtype type = dtype_from_name(dtype);
  check_value(type != Dtype::i8, expected_got("w", "float32, float64, float16 or bfloat16", dtype));
  const auto size = static_cast<py::ssize_t>(dtype_size(type));
  check_value(w.ndim() == 2,
              expected_got("w", "2 dimensions (n, k)", std::to_string(w.ndim()) + " dimensions"));
  check_value(w.itemsize() == size && rows_contiguous(w),
              "w: expected a contiguous last dimension of " + dtype + ", got other strides");
  Dense dense{w.data(), type, w.shape(0), w.shape(1), w.strides(0) / size, nullptr, 0};
  if (mask) {
    check_value(mask->ndim() == 2 && mask->shape(0) == w.shape(0) && mask->shape(1) == w.shape(1) &&
                    rows_contiguous(*mask),
                "mask: expected the shape of w and a contiguous last dimension, got another");
    dense.mask = static_cast<const std::uint8_t*>(mask->request().ptr);
    dense.mask_stride = mask->strides(0);
  }
  Layout layout;
  {
    py::gil_scoped_release release;  // seconds for a large layer
    layout = plan_pack(dense, stored, asked);
  }
  Bytes out = whole_lines(layout.header.bytes);
  std::uint8_t* bytes = out.mutable_data();
  py::gil_scoped_release release;
  prunus::pack(dense, layout, bytes);
  return out;
}

py::dict info(const Bytes& buffer) {
  const PackedHeader h = header_of(buffer).header;
  py::dict d;
  d["format"] = format_name(h.format);
  d["dtype"] = dtype_name(h.dtype);
  d["n"] = h.n;
  d["k"] = h.k;
  d["nnz"] = h.nnz;
  d["unit"] = py::make_tuple(h.unit.rows, h.unit.cols);
  d["tile_rows"] = h.tile_rows;
  d["tile_cols"] = h.tile_cols;
  return d;
}

py::dict explain(const Bytes& buffer, std::int64_t m, bool finite) {
  check_value(m >= 0, expected_got("m", "a number of tokens >= 0", std::to_string(m)));
  const PackedView w = open(buffer);
  const Plan plan = make_plan(w, std::max<std::int64_t>(m, 1), finite);
  py::dict d;
  d["isa"] = isa_name(plan.kernels->isa);
  d["kernel"] = plan.row->name;
  d["last_kernel"] = plan.last->name;
  d["reason"] = plan.reason;
  d["tokens"] = plan.tokens;
  d["passes"] = (m + plan.tokens - 1) / plan.tokens;
  d["threads"] = plan.threads;
  d["balance"] = balance(w, plan, std::max<std::int64_t>(m, 1));
  return d;
}

Floats unpack(const Bytes& buffer) {
  const PackedView w = open(buffer);
  Floats out({static_cast<py::ssize_t>(w.header.n), static_cast<py::ssize_t>(w.header.k)});
  float* data = out.mutable_data();
  py::gil_scoped_release release;
  prunus::unpack(w, data, static_cast<std::int64_t>(w.header.k));
  return out;
}

void validate(const Bytes& buffer) {
  const std::uint8_t* bytes = buffer.data();
  const auto size = static_cast<std::size_t>(buffer.nbytes());
  py::gil_scoped_release release;
  validate_packed(bytes, size);
}

using Integers = py::array_t<std::int32_t>;

std::pair<Integers, Bytes> kept_columns(const Bytes& buffer) {
  const PackedView w = open(buffer);
  KeptColumns kept;
  {
    py::gil_scoped_release release;
    kept = prunus::kept_columns(w);
  }
  return {Integers(static_cast<py::ssize_t>(kept.first.size()), kept.first.data()),
          Bytes(static_cast<py::ssize_t>(kept.column.size()), kept.column.data())};
}

Integers value_places(const Bytes& buffer, bool by_column) {
  const PackedView w = open(buffer);
  std::vector<std::int32_t> places;
  {
    py::gil_scoped_release release;
    places = prunus::value_places(w, by_column);
  }
  return Integers(static_cast<py::ssize_t>(places.size()), places.data());
}

std::uint64_t fingerprint(const Bytes& buffer) {
  const std::uint8_t* bytes = buffer.data();
  const auto size = static_cast<std::size_t>(buffer.nbytes());
  py::gil_scoped_release release;
  return prunus::fingerprint(bytes, size);
}

}  // namespace

void register_packed(py::module_& m) {
  m.def("pack", &pack, py::arg("w").noconvert(), py::arg("dtype"), py::arg("mask").noconvert() = py::none(),
        py::arg("stored_dtype") = "float32", py::arg("format") = "auto", py::arg("rows") = py::none());
  m.def(
      "most_tile_cols", [](const std::string& format) { return most_tile_cols(format_from_name(format)); },
      py::arg("format"));
  m.def("packed_info", &info, py::arg("buffer").noconvert());
  m.def("explain", &explain, py::arg("buffer").noconvert(), py::arg("m"), py::arg("finite") = true);
  m.def("unpack", &unpack, py::arg("buffer").noconvert());
  m.def("fingerprint", &fingerprint, py::arg("buffer").noconvert());
  m.def("kept_columns", &kept_columns, py::arg("buffer").noconvert());
  m.def("value_places", &value_places, py::arg("buffer").noconvert(), py::arg("by_column") = false);
  m.def("validate_packed", &validate, py::arg("buffer").noconvert());
}

}  // namespace prunus::bindings
