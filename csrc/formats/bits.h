// The kept weights as bits: read from the dense weight once, then counted and walked.
#pragma once
#include <cstring>

#include "formats/pack.h"
#include "formats/values.h"

namespace prunus {

// storable() of every type as a comparison that plain loops turn into vector code.
inline bool kept(double v) { return storable(to_float(v)); }
inline bool kept(float v) {
  std::uint32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  return static_cast<std::int32_t>(bits & 0x7fffffffu) >= 0x00800000;
}
inline bool kept(bf16_t v) { return (v.bits & 0x7fff) >= 0x80; }
inline bool kept(f16_t v) { return (v.bits & 0x7fff) != 0; }  // fp16's subnormals are fp32's normals

// `cols` <= 64 neighbours as bits.
template <typename T>
inline std::uint64_t word_of(const T* row, const std::uint8_t* mask, std::int64_t cols) {
  std::uint8_t flags[64] = {};
  for (std::int64_t j = 0; j < cols; ++j) flags[j] = kept(row[j]);
  if (mask)
    for (std::int64_t j = 0; j < cols; ++j) flags[j] = static_cast<std::uint8_t>(flags[j] & (mask[j] != 0));
  std::uint64_t word = 0;
  for (int j = 0; j < 64; j += 8) {
    std::uint64_t eight;
    std::memcpy(&eight, flags + j, 8);
    word |= eight * 0x0102040810204080u >> 56 << j;  // the product gathers the lowest bit of every byte
  }
  return word;
}

// Calls fn with row r of w as a pointer to its type.
template <typename Fn>
inline auto with_row(const Dense& w, std::int64_t r, Fn&& fn) {
  const std::int64_t at = r * w.stride;
  switch (w.dtype) {
    case Dtype::f64:
      return fn(static_cast<const double*>(w.data) + at);
    case Dtype::f16:
      return fn(static_cast<const f16_t*>(w.data) + at);
    case Dtype::bf16:
      return fn(static_cast<const bf16_t*>(w.data) + at);
    case Dtype::f32:
      return fn(static_cast<const float*>(w.data) + at);
    case Dtype::i8:
      break;
  }
  __builtin_unreachable();  // a dense weight is of floats (bindings)
}

// Row r of w, 64 columns a word, zeros past the last.
inline void row_bits(const Dense& w, std::int64_t r, std::uint64_t* bits) {
  const std::uint8_t* mask = w.mask ? w.mask + r * w.mask_stride : nullptr;
  with_row(w, r, [&](const auto* row) {
    std::int64_t c = 0;
    for (; c + 64 <= w.k; c += 64) bits[c / 64] = word_of(row + c, mask ? mask + c : nullptr, 64);
    if (c < w.k) bits[c / 64] = word_of(row + c, mask ? mask + c : nullptr, w.k - c);
  });
}

// Bits of the columns from c on, at most `cols` <= 64 of them; the row ends with an empty word.
inline std::uint64_t bits_from(const std::uint64_t* row, std::int64_t c, std::int64_t cols) {
  const std::int64_t shift = c % 64;
  std::uint64_t bits = row[c / 64] >> shift;
  if (shift != 0) bits |= row[c / 64 + 1] << (64 - shift);
  return cols < 64 ? bits & ((std::uint64_t{1} << cols) - 1) : bits;
}

// Without the popcnt instruction, which the baseline lacks, the builtin is a call.
inline int count_bits(std::uint64_t v) {
  v -= v >> 1 & 0x5555555555555555u;
  v = (v & 0x3333333333333333u) + (v >> 2 & 0x3333333333333333u);
  return static_cast<int>(((v + (v >> 4)) & 0x0f0f0f0f0f0f0f0fu) * 0x0101010101010101u >> 56);
}

// fn(column) for every kept column of [c, c + cols), counted from c.
template <typename Fn>
inline void for_each_kept(const std::uint64_t* row, std::int64_t c, std::int64_t cols, Fn&& fn) {
  for (std::int64_t j = 0; j < cols; j += 64)
    for (std::uint64_t bits = bits_from(row, c + j, cols - j); bits != 0; bits &= bits - 1)
      fn(j + __builtin_ctzll(bits));
}

}  // namespace prunus
