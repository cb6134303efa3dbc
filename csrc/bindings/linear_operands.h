// What numpy and torch tell about the operands of linear, and the checks at the door: one text for both.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "formats/packed.h"

namespace prunus::bindings {

struct Operand {
  std::string dtype;
  const std::int64_t* sizes;
  const std::int64_t* strides;  // in elements
  std::int64_t dims;
};

// Throw ValueError, the same for numpy and torch.
// float32, bfloat16 or float16.
void check_float(const char* name, const Operand& operand);
// x: float32, bfloat16 or float16 (..., k); activation: a known number. Returns the dtype of x, which is that
// of y.
Dtype check_input(const PackedHeader& w, const Operand& x, std::int64_t activation);
// bias (`name`): float32 or the dtype of x, (n,).
void check_bias(const char* name, const PackedHeader& w, const Operand& x, const Operand& bias);
// residual: the dtype of x and the shape of y.
void check_residual(const PackedHeader& w, const Operand& x, const Operand& residual);
// The two weights of a gated layer have one shape.
void check_gated(const PackedHeader& gate, const PackedHeader& up);

// The leading dimensions of x (or residual) as rows of one distance. direct is false when only a contiguous
// copy has such rows.
struct Rows {
  std::int64_t count;
  std::int64_t stride;
  bool direct;
};
Rows rows_of(const Operand& x);

// The n elements of a contiguous bias as floats: in place for float32, else a copy.
class FloatBias {
 public:
  FloatBias() = default;
  FloatBias(const void* data, Dtype dtype, std::int64_t n);
  const float* data() const { return data_; }

 private:
  std::vector<float> copy_;
  const float* data_ = nullptr;
};

std::string shape_text(const std::int64_t* sizes, std::int64_t dims);  // "(2, 3)", "(3,)", "()"

}  // namespace prunus::bindings
