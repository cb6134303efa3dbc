// Every kernel of every isa that this machine (or its emulator) has, against a naive product in double.
// Whole-number weights and activations: every sum is exact in float, so answers must be equal, not close.
// Built and run by test_aarch64.py.
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <random>
#include <vector>

#include "core/isa.h"
#include "core/parallel.h"
#include "formats/pack.h"
#include "formats/value_index.h"
#include "ops/linear.h"
#include "ops/policy/policy.h"
#include "ops/sampled.h"

using namespace prunus;

namespace {

std::mt19937 generator(1);
int whole(int lo, int hi) { return std::uniform_int_distribution<int>(lo, hi)(generator); }

// n x k whole numbers; what a format asks for is met: 2:4 for nm, 4 x 4 blocks for block.
std::vector<float> weight(Format format, int n, int k) {
  std::vector<float> w(static_cast<std::size_t>(n) * static_cast<std::size_t>(k));
  std::vector<int> keep(w.size());
  for (int& e : keep) e = whole(0, 2) == 0;
  for (int r = 0; r < n; ++r)
    for (int c = 0; c < k; ++c) {
      const int i = r * k + c;
      if (format == Format::nm && c % 4 > 1) keep[i] = 0;
      if (format == Format::block) keep[i] = keep[r / 4 * 4 * k + c / 4 * 4];
      w[i] = keep[i] ? static_cast<float>(whole(1, 4) * (whole(0, 1) ? 1 : -1)) : 0.0f;
    }
  if (n && k) w[0] = 127.0f;  // an int8 scale of 1 in the first row
  return w;
}

void put(Dtype dtype, float value, void* data, std::size_t i) {
  if (dtype == Dtype::f32) static_cast<float*>(data)[i] = value;
  if (dtype == Dtype::bf16) static_cast<bf16_t*>(data)[i] = to_bf16(value);
  if (dtype == Dtype::f16) static_cast<f16_t*>(data)[i] = to_f16(value);
}
float get(Dtype dtype, const void* data, std::size_t i) {
  if (dtype == Dtype::bf16) return to_float(static_cast<const bf16_t*>(data)[i]);
  if (dtype == Dtype::f16) return to_float(static_cast<const f16_t*>(data)[i]);
  return static_cast<const float*>(data)[i];
}
float rounded(Dtype dtype, float value) {
  float cell = 0;
  put(dtype, value, &cell, 0);
  return get(dtype, &cell, 0);
}

int cases = 0, wrong = 0;

void check(Format format, Dtype stored, Dtype io, int n, int k, int m) {
  const std::vector<float> w = weight(format, n, k);
  const Dense dense{w.data(), Dtype::f32, n, k, k, nullptr, 0};
  const Layout layout = plan_pack(dense, stored, {format, std::nullopt});
  std::vector<std::uint8_t> bytes(layout.header.bytes);
  pack(dense, layout, bytes.data());
  const PackedView view = validate_packed(bytes.data(), bytes.size());
  std::vector<float> back(w.size()), x(static_cast<std::size_t>(m * k)), y(static_cast<std::size_t>(m * n));
  unpack(view, back.data(), k);
  std::vector<float> bias(static_cast<std::size_t>(n));
  for (float& b : bias) b = static_cast<float>(whole(-3, 3));
  for (std::size_t i = 0; i < x.size(); ++i) put(io, static_cast<float>(whole(-2, 2)), x.data(), i);
  std::vector<float> residual(y.size()), gate(y.size()), sum(y.size());
  for (std::size_t i = 0; i < y.size(); ++i) put(io, static_cast<float>(whole(-3, 3)), residual.data(), i);
  LinearArgs args{io, x.data(), m, k, bias.data(), y.data(), n, Activation::relu, nullptr, 0};
  linear(view, args);
  args.y = sum.data();
  args.residual = residual.data();
  args.residual_stride = n;
  linear(view, args);
  args.y = gate.data();
  args.residual = nullptr;
  gated(view, view, nullptr, args);
  const auto compare = [&](float got, double exact) {
    const float expected = rounded(io, static_cast<float>(exact));
    const bool close = stored == Dtype::i8 && std::abs(got - expected) <= 0.01f * (1 + std::abs(expected));
    wrong += got != expected && !close;  // both may be infinite
  };
  for (int t = 0; t < m; ++t)
    for (int r = 0; r < n; ++r) {
      const auto i = static_cast<std::size_t>(t * n + r);
      double up = 0;
      for (int c = 0; c < k; ++c)
        up += static_cast<double>(back[r * k + c]) * get(io, x.data(), static_cast<std::size_t>(t * k + c));
      const double act = up + bias[r] > 0 ? up + bias[r] : 0.0;
      compare(get(io, y.data(), i), act);
      compare(get(io, sum.data(), i), act + get(io, residual.data(), i));
      compare(get(io, gate.data(), i), act * up);
    }
  ++cases;
}

// The gradient of the values: whole rows and passes of tokens, and cut ones.
void check_sampled(Dtype io, int n, int k, int m) {
  const std::vector<float> w = weight(Format::col8, n, k);
  const Dense dense{w.data(), Dtype::f32, n, k, k, nullptr, 0};
  const Layout layout = plan_pack(dense, Dtype::f32, {});
  std::vector<std::uint8_t> bytes(layout.header.bytes);
  pack(dense, layout, bytes.data());
  const PackedView view = validate_packed(bytes.data(), bytes.size());
  const KeptColumns kept = kept_columns(view);
  std::vector<float> grad(static_cast<std::size_t>(m * n)), x(static_cast<std::size_t>(m * k)),
      out(kept.column.size());
  for (std::size_t i = 0; i < grad.size(); ++i) put(io, static_cast<float>(whole(-2, 2)), grad.data(), i);
  for (std::size_t i = 0; i < x.size(); ++i) put(io, static_cast<float>(whole(-2, 2)), x.data(), i);
  sampled_product(
      {io, m, n, k, grad.data(), n, x.data(), k, kept.first.data(), kept.column.data(), out.data()});
  std::size_t entry = 0;
  for (int r = 0; r < n; ++r)
    for (int c = 0; c < k; ++c) {
      if (w[static_cast<std::size_t>(r * k + c)] == 0.0f) continue;
      double exact = 0;
      for (int t = 0; t < m; ++t)
        exact += static_cast<double>(get(io, grad.data(), static_cast<std::size_t>(t * n + r))) *
                 get(io, x.data(), static_cast<std::size_t>(t * k + c));
      wrong += out[entry++] != static_cast<float>(exact);
    }
  ++cases;
}

}  // namespace

int main() {
  set_num_threads(2);
  for (Isa isa : available_isas()) {
    set_isa(isa_name(isa));
    for (Format format : {Format::col8, Format::bitmap, Format::nm, Format::block})
      for (Dtype stored : {Dtype::f32, Dtype::bf16, Dtype::f16, Dtype::i8})
        for (int m : {0, 1, 2, 3, 5, 8, 9, 17, 24, 40, 64, 70})
          check(format, stored, m % 2 ? Dtype::f32 : m % 8 ? Dtype::f16 : Dtype::bf16, 44, 148, m);
    for (int m : {1, 63, 64, 65, 130}) check_sampled(m % 2 ? Dtype::f32 : Dtype::bf16, 44, 148, m);
    std::printf("%s: %d cases, %d wrong outputs\n", isa_name(isa), cases, wrong);
  }
  return wrong != 0;
}
