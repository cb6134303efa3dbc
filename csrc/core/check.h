// Errors at the door. Layers below bindings throw only these; bindings map them to Python exceptions.
#pragma once
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace prunus {

// A value the caller gave is wrong: ValueError. The text says argument, expected, got.
struct ValueError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

// Bytes that should be a packed weight are not one: prunus.FormatError. The text names the field.
struct FormatError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline void check_value(bool ok, const std::string& sentence) {
  if (!ok) throw ValueError(sentence);
}

// "pattern.sparsity: expected 0..1, got 1.5"
inline std::string expected_got(const char* argument, const std::string& expected, const std::string& got) {
  return std::string(argument) + ": expected " + expected + ", got " + got;
}

// a * b and a + b on sizes that came from outside; overflow is an error, never a wrap.
inline std::size_t checked_mul(std::size_t a, std::size_t b) {
  std::size_t r = 0;
  if (__builtin_mul_overflow(a, b, &r)) throw ValueError("size: product overflows 64 bits");
  return r;
}
inline std::size_t checked_add(std::size_t a, std::size_t b) {
  std::size_t r = 0;
  if (__builtin_add_overflow(a, b, &r)) throw ValueError("size: sum overflows 64 bits");
  return r;
}

}  // namespace prunus
