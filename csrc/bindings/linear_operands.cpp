#include "bindings/linear_operands.h"

#include <algorithm>

#include "core/activation.h"
#include "core/check.h"
#include "core/dtype.h"
#include "formats/values.h"

namespace prunus::bindings {

void check_float(const char* name, const Operand& operand) {
  if (operand.dtype != "float32" && operand.dtype != "bfloat16" && operand.dtype != "float16")
    throw ValueError(expected_got(name, "float32, bfloat16 or float16", operand.dtype));
}

Dtype check_input(const PackedHeader& w, const Operand& x, std::int64_t activation) {
  const auto k = static_cast<std::int64_t>(w.k);
  check_float("x", x);
  if (x.dims < 1 || x.sizes[x.dims - 1] != k)
    throw ValueError(expected_got("x", "(..., " + std::to_string(k) + ")", shape_text(x.sizes, x.dims)));
  if (activation < 0 || activation >= kActivationCount)
    throw ValueError(
        expected_got("activation", "0.." + std::to_string(kActivationCount - 1), std::to_string(activation)));
  return dtype_from_name(x.dtype);
}

void check_bias(const char* name, const PackedHeader& w, const Operand& x, const Operand& bias) {
  const auto n = static_cast<std::int64_t>(w.n);
  if (bias.dtype != "float32" && bias.dtype != x.dtype)
    throw ValueError(
        expected_got(name, x.dtype == "float32" ? "float32" : "float32 or " + x.dtype, bias.dtype));
  if (bias.dims != 1 || bias.sizes[0] != n)
    throw ValueError(expected_got(name, shape_text(&n, 1), shape_text(bias.sizes, bias.dims)));
}

void check_residual(const PackedHeader& w, const Operand& x, const Operand& residual) {
  if (residual.dtype != x.dtype) throw ValueError(expected_got("residual", x.dtype, residual.dtype));
  std::vector<std::int64_t> sizes(x.sizes, x.sizes + x.dims);
  sizes.back() = static_cast<std::int64_t>(w.n);
  if (residual.dims != x.dims || !std::equal(sizes.begin(), sizes.end(), residual.sizes))
    throw ValueError(expected_got("residual", shape_text(sizes.data(), x.dims),
                                  shape_text(residual.sizes, residual.dims)));
}

void check_gated(const PackedHeader& gate, const PackedHeader& up) {
  if (gate.n == up.n && gate.k == up.k) return;
  const auto text = [](const PackedHeader& w) {
    const std::int64_t sizes[] = {static_cast<std::int64_t>(w.n), static_cast<std::int64_t>(w.k)};
    return shape_text(sizes, 2);
  };
  throw ValueError(expected_got("up", "the shape of gate, " + text(gate), text(up)));
}

Rows rows_of(const Operand& x) {
  const std::int64_t last = x.dims - 1, k = x.sizes[last];
  Rows rows{1, k, k <= 1 || x.strides[last] == 1};
  bool first = true;
  for (std::int64_t d = last - 1; d >= 0; --d) {
    if (x.sizes[d] == 0) return {0, k, true};
    if (x.sizes[d] == 1) continue;  // the stride of a dimension of one element means nothing
    if (first) rows.stride = x.strides[d];
    if (!first && x.strides[d] != rows.stride * rows.count) rows.direct = false;
    first = false;
    rows.count *= x.sizes[d];
  }
  return rows;
}

FloatBias::FloatBias(const void* data, Dtype dtype, std::int64_t n) {
  if (dtype == Dtype::f32) {
    data_ = static_cast<const float*>(data);
    return;
  }
  copy_.resize(static_cast<std::size_t>(n));
  const auto* bytes = static_cast<const std::uint8_t*>(data);
  for (std::size_t i = 0; i < copy_.size(); ++i)
    copy_[i] = read_value(bytes + i * dtype_size(dtype), dtype, 1);
  data_ = copy_.data();
}

std::string shape_text(const std::int64_t* sizes, std::int64_t dims) {
  std::string text = "(";
  for (std::int64_t d = 0; d < dims; ++d) text += (d ? ", " : "") + std::to_string(sizes[d]);
  return text + (dims == 1 ? ",)" : ")");
}

}  // namespace prunus::bindings
