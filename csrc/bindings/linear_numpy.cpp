// The operators on numpy arrays. ops/door.py has checked kinds; here come shapes, dtypes and strides.
#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/linear_operands.h"
#include "ops/linear.h"

namespace prunus::bindings {
namespace {

using Floats = py::array_t<float>;

// What C++ needs to know about a numpy array; strides in elements, or a copy when they are not whole
// elements.
struct NumpyOperand {
  py::array array;
  std::vector<std::int64_t> sizes, strides;
  Operand operand;

  explicit NumpyOperand(py::array a) : array(std::move(a)) {
    const py::ssize_t size = std::max<py::ssize_t>(array.itemsize(), 1);
    for (py::ssize_t d = 0; d < array.ndim(); ++d)
      if (array.strides(d) % size != 0) array = py::array::ensure(array, py::array::c_style);
    for (py::ssize_t d = 0; d < array.ndim(); ++d) {
      sizes.push_back(array.shape(d));
      strides.push_back(array.strides(d) / size);
    }
    // The name of a dtype is Python code in numpy and takes 2 us.
    const bool floats = py::isinstance<Floats>(array);
    operand = {floats ? "float32" : std::string(py::str(array.dtype())), sizes.data(), strides.data(),
               array.ndim()};
  }
};

using OptionalArray = std::optional<py::array>;

// A bias as floats, and the array that may hold them.
struct NumpyBias {
  py::array array;
  FloatBias floats;
};

// What the operators share: x as rows, y to be filled, and the arguments that say so.
struct NumpyCall {
  NumpyOperand x;
  py::array y;
  LinearArgs args{};

  NumpyCall(const PackedHeader& w, const py::array& x_array, int activation) : x(x_array) {
    args.dtype = check_input(w, x.operand, activation);
    const Rows rows = as_rows(x);
    std::vector<py::ssize_t> shape(x.sizes.begin(), x.sizes.end());
    shape.back() = static_cast<py::ssize_t>(w.n);
    y = py::array(x.array.dtype(), shape);
    args.x = x.array.data();
    args.m = rows.count;
    args.x_stride = rows.stride;
    args.y = y.mutable_data();
    args.y_stride = static_cast<std::int64_t>(w.n);
    args.activation = static_cast<Activation>(activation);
  }

  // Rows of one distance: of the array itself or of a contiguous copy that takes its place.
  static Rows as_rows(NumpyOperand& given) {
    Rows rows = rows_of(given.operand);
    if (!rows.direct) {
      given.array = py::array::ensure(given.array, py::array::c_style);
      rows.stride = given.operand.sizes[given.operand.dims - 1];
    }
    return rows;
  }

  NumpyBias bias(const char* name, const PackedHeader& w, const OptionalArray& given) const {
    if (!given) return {};
    const NumpyOperand operand(*given);
    check_bias(name, w, x.operand, operand.operand);
    const py::array array = py::array::ensure(operand.array, py::array::c_style);
    return {array, FloatBias(array.data(), dtype_from_name(operand.operand.dtype), array.size())};
  }
};

// x (..., k) of any strides -> (..., n) of the same dtype.
py::array linear_numpy(const py::array& x, const Bytes& buffer, const OptionalArray& bias, int activation,
                       const OptionalArray& residual_array) {
  const PackedView w = open(buffer);
  NumpyCall call(w.header, x, activation);
  const NumpyBias floats = call.bias("bias", w.header, bias);
  call.args.bias = floats.floats.data();
  std::optional<NumpyOperand> residual;
  if (residual_array) {
    residual.emplace(*residual_array);
    check_residual(w.header, call.x.operand, residual->operand);
    call.args.residual_stride = NumpyCall::as_rows(*residual).stride;
    call.args.residual = residual->array.data();
  }
  {
    py::gil_scoped_release release;  // other Python threads run while we compute
    linear(w, call.args);
  }
  return call.y;  // one more reference to it, which takes the GIL
}

py::array gated_numpy(const py::array& x, const Bytes& gate_buffer, const Bytes& up_buffer,
                      const OptionalArray& gate_bias, const OptionalArray& up_bias, int activation) {
  const PackedView gate = open(gate_buffer), up = open(up_buffer);
  check_gated(gate.header, up.header);
  NumpyCall call(gate.header, x, activation);
  const NumpyBias first = call.bias("gate_bias", gate.header, gate_bias),
                  second = call.bias("up_bias", up.header, up_bias);
  call.args.bias = first.floats.data();
  {
    py::gil_scoped_release release;
    gated(gate, up, second.floats.data(), call.args);
  }
  return call.y;
}

}  // namespace

void register_linear(py::module_& m) {
  m.def("linear", &linear_numpy, py::arg("x").noconvert(), py::arg("buffer").noconvert(),
        py::arg("bias").noconvert() = py::none(), py::arg("activation") = 0,
        py::arg("residual").noconvert() = py::none());
  m.def("gated", &gated_numpy, py::arg("x").noconvert(), py::arg("gate").noconvert(),
        py::arg("up").noconvert(), py::arg("gate_bias").noconvert() = py::none(),
        py::arg("up_bias").noconvert() = py::none(), py::arg("activation") = 4);
}

}  // namespace prunus::bindings
