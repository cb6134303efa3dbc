// Activations on eight lanes, fp32 to about 2 units in the last place of the result's scale; NaN stays NaN.

// e^x: Cephes' polynomial on [-ln2/2, ln2/2], clamped where fp32 ends.
inline Vec8 exp8(Vec8 x) {
  x = at_most(Vec8::set(88.3762626647949f), at_least(Vec8::set(-87.3365478515625f), x));
  const Vec8 n = round(x * Vec8::set(1.44269504088896341f));
  const Vec8 r = fma(n, Vec8::set(2.12194440e-4f), fma(n, Vec8::set(-0.693359375f), x));
  Vec8 p = Vec8::set(1.9875691500e-4f);
  p = fma(p, r, Vec8::set(1.3981999507e-3f));
  p = fma(p, r, Vec8::set(8.3334519073e-3f));
  p = fma(p, r, Vec8::set(4.1665795894e-2f));
  p = fma(p, r, Vec8::set(1.6666665459e-1f));
  p = fma(p, r, Vec8::set(5.0000001201e-1f));
  return fma(p * r, r, r + Vec8::set(1.0f)) * pow2(n);
}

// x * Phi(x); erfc(|x|/sqrt2) by Abramowitz and Stegun 7.1.26 (absolute error 1.5e-7), without cancellation.
inline Vec8 gelu8(Vec8 x) {
  const Vec8 z = abs(x) * Vec8::set(0.70710678118654752f);
  const Vec8 t = Vec8::set(1.0f) / fma(z, Vec8::set(0.3275911f), Vec8::set(1.0f));
  Vec8 p = Vec8::set(1.061405429f);
  p = fma(p, t, Vec8::set(-1.453152027f));
  p = fma(p, t, Vec8::set(1.421413741f));
  p = fma(p, t, Vec8::set(-0.284496736f));
  p = fma(p, t, Vec8::set(0.254829592f));
  const Vec8 erfc = p * t * exp8(Vec8::set(0.0f) - z * z);
  return x * Vec8::set(0.5f) * where_negative(x, erfc, Vec8::set(2.0f) - erfc);
}

inline Vec8 sigmoid8(Vec8 x) { return Vec8::set(1.0f) / (Vec8::set(1.0f) + exp8(Vec8::set(0.0f) - x)); }

// 0.5 x (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3)
inline Vec8 gelu_tanh8(Vec8 x) {
  const Vec8 u = x * fma(x * x, Vec8::set(2.0f * 0.7978845608f * 0.044715f), Vec8::set(2.0f * 0.7978845608f));
  return x * sigmoid8(u);
}

template <Activation A>
inline Vec8 activate8(Vec8 x) {
  if (A == Activation::relu) return at_least(Vec8::set(0.0f), x);
  if (A == Activation::gelu) return gelu8(x);
  if (A == Activation::gelu_tanh) return gelu_tanh8(x);
  if (A == Activation::silu) return x * sigmoid8(x);
  return x;
}
