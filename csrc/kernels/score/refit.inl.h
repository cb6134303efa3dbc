// The weights of one row that fit best: what the row keeps of a symmetric matrix, and conjugate gradients on
// that. One text for every isa.

constexpr int kRefitVectors = kRefitPanel / Vec::lanes;

// out: panels [padded / kRefitPanel][count][kRefitPanel], zero behind `count` columns.
void refit_gather(const float* matrix, std::int64_t stride, const std::int32_t* index, int count,
                  float* out) {
  for (int first = 0; first < count; first += kRefitPanel) {
    const int here = count - first < kRefitPanel ? count - first : kRefitPanel;
    const std::int32_t* columns = index + first;
    for (int i = 0; i < count; ++i, out += kRefitPanel) {
      const float* row = matrix + index[i] * stride;
      for (int j = 0; j < here; ++j) out[j] = row[columns[j]];
      for (int j = here; j < kRefitPanel; ++j) out[j] = 0;
    }
  }
}

// y = A x, padded floats. Two rows at a time, a panel's sums in registers: no sum over lanes.
inline void refit_multiply(const float* panels, int count, const float* x, float* y) {
  for (int first = 0; first < count; first += kRefitPanel, y += kRefitPanel) {
    Vec even[kRefitVectors], odd[kRefitVectors];
    for (int v = 0; v < kRefitVectors; ++v) even[v] = odd[v] = Vec::set(0);
    int i = 0;
    for (; i + 2 <= count; i += 2, panels += 2 * kRefitPanel) {
      const Vec a = Vec::set(x[i]), b = Vec::set(x[i + 1]);
      for (int v = 0; v < kRefitVectors; ++v) {
        even[v] = fma(a, Vec::load(panels + v * Vec::lanes), even[v]);
        odd[v] = fma(b, Vec::load(panels + kRefitPanel + v * Vec::lanes), odd[v]);
      }
    }
    if (i < count) {
      const Vec a = Vec::set(x[i]);
      for (int v = 0; v < kRefitVectors; ++v) even[v] = fma(a, Vec::load(panels + v * Vec::lanes), even[v]);
      panels += kRefitPanel;
    }
    for (int v = 0; v < kRefitVectors; ++v) (even[v] + odd[v]).store(y + v * Vec::lanes);
  }
}

// Eight sums in an order fixed by n alone; n is a multiple of eight.
inline double refit_dot(const float* a, const float* b, int n) {
  double sums[8] = {};
  for (int i = 0; i < n; i += 8)
    for (int l = 0; l < 8; ++l) sums[l] += static_cast<double>(a[i + l]) * b[i + l];
  return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

// Every iteration brings x closer in the norm of A, so that stopping early never harms.
int refit_solve(const float* panels, int count, const float* b, float* x, float* room, int iterations,
                double tolerance) {
  const int n = (count + kRefitPanel - 1) / kRefitPanel * kRefitPanel;
  float *residual = room, *direction = room + n, *ahead = room + 2 * n;
  refit_multiply(panels, count, x, ahead);
  for (int i = 0; i < n; ++i) direction[i] = residual[i] = b[i] - ahead[i];
  double size = refit_dot(residual, residual, n);
  const double goal = size * tolerance * tolerance;
  int done = 0;
  for (; done < iterations && size > goal; ++done) {
    refit_multiply(panels, count, direction, ahead);
    const double curvature = refit_dot(direction, ahead, n);
    if (!(curvature > 0)) break;  // not positive definite in float32, or no longer a number
    const float step = static_cast<float>(size / curvature);
    for (int i = 0; i < n; ++i) {
      x[i] += step * direction[i];
      residual[i] -= step * ahead[i];
    }
    const double before = size;
    size = refit_dot(residual, residual, n);
    const float back = static_cast<float>(size / before);
    for (int i = 0; i < n; ++i) direction[i] = residual[i] + back * direction[i];
  }
  return done;
}
