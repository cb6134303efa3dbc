// The list of all kernels. The tables, their tests (`_core.kernels()`) and bench expand from it.
#pragma once

// X(index, width): tokens that one call of a strip kernel keeps in registers.
#define PRUNUS_STRIP_WIDTHS(X) X(0, 8) X(1, 16) X(2, 24) X(3, 32) X(4, 40) X(5, 48) X(6, 56) X(7, 64)

// X(index, tokens): tokens that one call of a rows kernel multiplies with the same expanded weights.
#define PRUNUS_ROW_TOKENS(X) X(0, 1) X(1, 2) X(2, 3) X(3, 4) X(4, 5) X(5, 6) X(6, 7) X(7, 8)

// X(index, tokens): tokens that one call of col8's "few" kernels takes.
#define PRUNUS_COL8_TOKENS(X) X(0, 1) X(1, 2)

// X(index, tokens): those of nm and block; between two of them, the larger.
#define PRUNUS_FEW_TOKENS(X) X(0, 1) X(1, 2) X(2, 4)

// X(index, type): how x comes and y goes.
#define PRUNUS_TOKEN_TYPES(X) X(0, f32) X(1, bf16) X(2, f16)

// X(index, type): how values are stored (core/dtype.h).
#define PRUNUS_VALUES(X) X(0, f32) X(1, bf16) X(2, f16) X(3, i8)

// X(type, name): element types of scores and of weights to normalise.
#define PRUNUS_FLOATS(X) X(float, f32) X(double, f64) X(f16_t, f16) X(bf16_t, bf16)

// X(type, name): integers that scores are compared as.
#define PRUNUS_KEYS(X) X(std::int16_t, i16) X(std::int32_t, i32) X(std::int64_t, i64)

// X(m): groups whose N:M kernel knows m at compile time.
#define PRUNUS_NM_GROUPS(X) X(2) X(4) X(8) X(16)
