#include "ops/linear.h"

#include <cmath>
#include <cstring>

#include "formats/col8.h"

namespace prunus {
namespace {
float act(float v, Activation a) {
  switch (a) {
    case Activation::relu:
      return v < 0 ? 0.0f : v;
    case Activation::gelu:
      return 0.5f * v * (1.0f + std::erf(v * 0.70710678f));
    case Activation::gelu_tanh:
      return 0.5f * v * (1.0f + std::tanh(0.7978845608f * (v + 0.044715f * v * v * v)));
    case Activation::silu:
      return v / (1.0f + std::exp(-v));
    default:
      return v;
  }
}
}  // namespace

void linear(const PackedView& w, const LinearArgs& a) {
  const col8::Geometry geo = col8::geometry(w.header);
  for (std::int64_t i = 0; i < a.m; ++i)
    for (std::int64_t r = 0; r < geo.n; ++r) a.y[i * a.y_stride + r] = a.bias ? a.bias[r] : 0.0f;
  for (std::int64_t t = 0; t < geo.row_tiles(); ++t)
    for (std::int64_t b = 0; b < geo.col_tiles(); ++b) {
      const col8::Slice s = col8::slice(w, t, b);
      const std::uint8_t* at = s.groups;
      for (int g = 0; g < s.group_count; ++g) {
        const std::size_t entries = static_cast<std::size_t>(s.steps[g]) * col8::kGroup;
        for (std::size_t e = 0; e < entries; ++e) {
          const std::uint8_t c = at[entries * 4 + e];
          if (c >= geo.cols_of(b)) continue;
          float v;
          std::memcpy(&v, at + 4 * e, 4);
          for (std::int64_t i = 0; i < a.m; ++i)
            a.y[i * a.y_stride + t * geo.tile_rows + s.order[g * 8 + e % 8]] +=
                v * a.x[i * a.x_stride + b * geo.tile_cols + c];
        }
        at += entries * 5;
      }
    }
  for (std::int64_t i = 0; i < a.m; ++i)
    for (std::int64_t r = 0; r < geo.n; ++r)
      a.y[i * a.y_stride + r] = act(a.y[i * a.y_stride + r], a.activation);
}

}  // namespace prunus
