// The weight is read once and in order, but by kernels whose decoding fills the out-of-order window: without
// a word the next misses start late, and the time to read and the time to compute add up.

constexpr int kPrefetch = 2560;  // bytes ahead

// Asks for what comes kPrefetch behind the `bytes` from p on, which are about to be read.
inline void fetch_ahead(const std::uint8_t* p, int bytes) {
  for (int b = 0; b < bytes; b += 64) __builtin_prefetch(p + b + kPrefetch);
}
