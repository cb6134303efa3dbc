// What numpy and torch tell about the operands of linear, and the checks at the door: one text for both.
#pragma once
#include <cstdint>
#include <string>

#include "formats/packed.h"

namespace prunus::bindings {

struct Operand {
  std::string dtype;
  const std::int64_t* sizes;
  const std::int64_t* strides;  // in elements
  std::int64_t dims;
};

// Throws ValueError unless x is float32 (..., k), bias float32 (n) or absent, and activation a known number.
void check_linear(const PackedHeader& w, const Operand& x, const Operand* bias, std::int64_t activation);

// The leading dimensions of x as rows of one distance. direct is false when only a contiguous copy has such
// rows.
struct Rows {
  std::int64_t count;
  std::int64_t stride;
  bool direct;
};
Rows rows_of(const Operand& x);

std::string shape_text(const std::int64_t* sizes, std::int64_t dims);  // "(2, 3)", "(3,)", "()"

}  // namespace prunus::bindings
