// Activations, fp32 to about 2 units in the last place of the result's scale; NaN stays NaN. V is a vector,
// or several abreast.

// A call would pass vectors that are abreast through memory.
#define PRUNUS_ABREAST inline __attribute__((always_inline))

// N vectors as one. An activation is a chain of some fifty steps that wait for each other, and a core looks
// about a hundred instructions ahead: of one vector after the other it runs two at a time.
template <typename V, int N>
struct Abreast {
  V v[N];
  static PRUNUS_ABREAST Abreast set(float f) {
    return each([f](int) { return V::set(f); });
  }
  template <typename Fn>
  static PRUNUS_ABREAST Abreast each(Fn fn) {
    Abreast r;
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) r.v[i] = fn(i);
    return r;
  }
};
#define PRUNUS_ABREAST_1(name)                                       \
  template <typename V, int N>                                       \
  PRUNUS_ABREAST Abreast<V, N> name(Abreast<V, N> a) {               \
    return Abreast<V, N>::each([&](int i) { return name(a.v[i]); }); \
  }
#define PRUNUS_ABREAST_2(name)                                               \
  template <typename V, int N>                                               \
  PRUNUS_ABREAST Abreast<V, N> name(Abreast<V, N> a, Abreast<V, N> b) {      \
    return Abreast<V, N>::each([&](int i) { return name(a.v[i], b.v[i]); }); \
  }
#define PRUNUS_ABREAST_3(name)                                                           \
  template <typename V, int N>                                                           \
  PRUNUS_ABREAST Abreast<V, N> name(Abreast<V, N> a, Abreast<V, N> b, Abreast<V, N> c) { \
    return Abreast<V, N>::each([&](int i) { return name(a.v[i], b.v[i], c.v[i]); });     \
  }
PRUNUS_ABREAST_1(abs)
PRUNUS_ABREAST_1(round)
PRUNUS_ABREAST_1(pow2)
PRUNUS_ABREAST_1(reciprocal)
PRUNUS_ABREAST_2(operator+)
PRUNUS_ABREAST_2(operator-)
PRUNUS_ABREAST_2(operator*)
PRUNUS_ABREAST_2(operator/)
PRUNUS_ABREAST_2(at_least)
PRUNUS_ABREAST_2(at_most)
PRUNUS_ABREAST_3(fma)
PRUNUS_ABREAST_3(where_negative)

// e^x: Cephes' polynomial on [-ln2/2, ln2/2], clamped where fp32 ends.
template <typename V>
PRUNUS_ABREAST V exp_of(V x) {
  x = at_most(V::set(88.3762626647949f), at_least(V::set(-87.3365478515625f), x));
  const V n = round(x * V::set(1.44269504088896341f));
  const V r = fma(n, V::set(2.12194440e-4f), fma(n, V::set(-0.693359375f), x));
  V p = V::set(1.9875691500e-4f);
  p = fma(p, r, V::set(1.3981999507e-3f));
  p = fma(p, r, V::set(8.3334519073e-3f));
  p = fma(p, r, V::set(4.1665795894e-2f));
  p = fma(p, r, V::set(1.6666665459e-1f));
  p = fma(p, r, V::set(5.0000001201e-1f));
  return fma(p * r, r, r + V::set(1.0f)) * pow2(n);
}

// x * Phi(x); erfc(|x|/sqrt2) by Abramowitz and Stegun 7.1.26 (absolute error 1.5e-7), without cancellation.
template <typename V>
PRUNUS_ABREAST V gelu_of(V x) {
  // From 16 on erfc is 0; a reciprocal of infinity need not be.
  const V z = at_most(V::set(16.0f), abs(x) * V::set(0.70710678118654752f));
  const V t = reciprocal(fma(z, V::set(0.3275911f), V::set(1.0f)));
  V p = V::set(1.061405429f);
  p = fma(p, t, V::set(-1.453152027f));
  p = fma(p, t, V::set(1.421413741f));
  p = fma(p, t, V::set(-0.284496736f));
  p = fma(p, t, V::set(0.254829592f));
  const V erfc = p * t * exp_of(V::set(0.0f) - z * z);
  return x * V::set(0.5f) * where_negative(x, erfc, V::set(2.0f) - erfc);
}

template <typename V>
PRUNUS_ABREAST V sigmoid_of(V x) {
  return reciprocal(V::set(1.0f) + exp_of(V::set(0.0f) - x));
}

// 0.5 x (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3)
template <typename V>
PRUNUS_ABREAST V gelu_tanh_of(V x) {
  const V u = x * fma(x * x, V::set(2.0f * 0.7978845608f * 0.044715f), V::set(2.0f * 0.7978845608f));
  return x * sigmoid_of(u);
}

template <Activation A, typename V>
PRUNUS_ABREAST V activated(V x) {
  if (A == Activation::relu) return at_least(V::set(0.0f), x);
  if (A == Activation::gelu) return gelu_of(x);
  if (A == Activation::gelu_tanh) return gelu_tanh_of(x);
  if (A == Activation::silu) return x * sigmoid_of(x);
  return x;
}

// The first vectors of an array, some abreast. The steps are a loop: unrolled they would not fit where
// instructions are kept decoded.
template <Activation A, typename V, int Count>
inline void activate(V (&v)[Count], int first = Count) {
  if (A == Activation::none) return;
  constexpr int n = Count < kAbreast ? Count : kAbreast;
  static_assert(Count % n == 0, "whole steps");
#pragma GCC unroll 1
  for (int i = 0; i < first; i += n) {
    const auto some = activated<A>(Abreast<V, n>::each([&](int j) { return v[i + j]; }));
#pragma GCC unroll 8
    for (int j = 0; j < n; ++j) v[i + j] = some.v[j];
  }
}
