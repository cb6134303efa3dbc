// The axes of the kernels, as lists: rows (rows.inl.h) and tables expand from them.
#pragma once

// X(arguments..., width): tokens that one call of a strip kernel keeps in registers.
#define PRUNUS_STRIPS(X, ...) \
  X(__VA_ARGS__, 8)           \
  X(__VA_ARGS__, 16)          \
  X(__VA_ARGS__, 24)          \
  X(__VA_ARGS__, 32) X(__VA_ARGS__, 40) X(__VA_ARGS__, 48) X(__VA_ARGS__, 56) X(__VA_ARGS__, 64)

// Tokens that one call of a rows kernel multiplies with the same expanded weights.
#define PRUNUS_ROW_TOKENS(X, ...) \
  X(__VA_ARGS__, 1)               \
  X(__VA_ARGS__, 2)               \
  X(__VA_ARGS__, 3) X(__VA_ARGS__, 4) X(__VA_ARGS__, 5) X(__VA_ARGS__, 6) X(__VA_ARGS__, 7) X(__VA_ARGS__, 8)

// Tokens that one call of a few kernel of nm or block takes; between two of them, the larger.
#define PRUNUS_FEW_TOKENS(X, ...) X(__VA_ARGS__, 1) X(__VA_ARGS__, 2) X(__VA_ARGS__, 4)

// X(type): how x comes and y goes.
#define PRUNUS_TOKEN_TYPES(X) X(f32) X(bf16) X(f16)

// X(type): how values are stored (core/dtypes.def).
#define PRUNUS_VALUES(X) X(f32) X(bf16) X(f16) X(i8)

// X(type, name): element types of scores and of weights to normalise.
#define PRUNUS_FLOATS(X) X(float, f32) X(double, f64) X(f16_t, f16) X(bf16_t, bf16)

// X(type, name): integers that scores are compared as.
#define PRUNUS_KEYS(X) X(std::int16_t, i16) X(std::int32_t, i32) X(std::int64_t, i64)

// X(m): groups whose N:M kernel knows m at compile time.
#define PRUNUS_NM_GROUPS(X) X(2) X(4) X(8) X(16)
