// Two numbers that bound every kernel on this machine: fused multiply-adds per second out of registers, and
// bytes per second read from memory. Compiled by bench/roofline.py with -march=native, run as a program of its
// own: no runtime or allocator of another library takes part.
// usage: machine THREADS MEGABYTES -> one line of JSON
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
typedef float Vector __attribute__((vector_size(kBytes)));
constexpr int kLanes = kBytes / 4, kChains = 12;  // 12 chains hide a latency of 4..5 at two per cycle

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void fma_loop(long steps, float* sink) {
  Vector acc[kChains], a, b;
  for (int i = 0; i < kLanes; ++i) {
    a[i] = 0.999f;
    b[i] = 1e-3f;
    for (int c = 0; c < kChains; ++c) acc[c][i] = *sink + c;  // equal chains would be merged into one
  }
  for (long s = 0; s < steps; ++s)
    for (int c = 0; c < kChains; ++c) acc[c] = acc[c] * a + b;
  for (int c = 0; c < kChains; ++c) *sink += acc[c][0];
}

void read_loop(const float* data, std::size_t count, float* sink) {
  Vector acc[8] = {};
  for (std::size_t i = 0; i + 8 * kLanes <= count; i += 8 * kLanes)
    for (int c = 0; c < 8; ++c) acc[c] += *reinterpret_cast<const Vector*>(data + i + c * kLanes);
  for (int c = 0; c < 8; ++c) *sink += acc[c][0];
}

void copy_loop(const float* from, float* to, std::size_t count) {
  for (std::size_t i = 0; i + kLanes <= count; i += kLanes)
    *reinterpret_cast<Vector*>(to + i) = *reinterpret_cast<const Vector*>(from + i);
}

// Best of `rounds` parallel runs, in seconds.
double best_of(int rounds, int threads, const std::function<void(int)>& work) {
  double best = 1e9;
  for (int r = 0; r < rounds; ++r) {
    std::vector<std::thread> pool;
    const double start = seconds();
    for (int t = 0; t < threads; ++t) pool.emplace_back(work, t);
    for (std::thread& t : pool) t.join();
    best = std::min(best, seconds() - start);
  }
  return best;
}

float* zeroed(std::size_t count) {
  float* p = static_cast<float*>(std::aligned_alloc(64, count * sizeof(float)));
  std::fill(p, p + count, 0.0f);
  return p;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const int threads = std::atoi(argv[1]);
  const std::size_t count = static_cast<std::size_t>(std::atol(argv[2])) * (1 << 20) / 4 / threads / 1024 * 1024;
  std::vector<float> sink(64 * threads);
  std::vector<float*> from, to;
  for (int t = 0; t < threads; ++t) {
    from.push_back(zeroed(count));
    to.push_back(zeroed(count));
  }
  const long steps = 10'000'000;
  const double fma = best_of(5, threads, [&](int t) { fma_loop(steps, &sink[64 * t]); });
  const double read = best_of(9, threads, [&](int t) { read_loop(from[t], count, &sink[64 * t]); });
  const double copy = best_of(9, threads, [&](int t) { copy_loop(from[t], to[t], count); });
  const double bytes = 4.0 * count * threads;
  std::printf("{\"threads\": %d, \"gflops\": %.2f, \"read_gbs\": %.2f, \"copy_gbs\": %.2f, \"lanes\": %d, \"sink\": %g}\n",
              threads, 2.0 * kLanes * kChains * steps * threads / fma / 1e9, bytes / read / 1e9,
              2 * bytes / copy / 1e9, kLanes, sink[0]);
}
