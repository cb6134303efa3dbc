// CUDA's words on the host, for tests: the text of a kernel runs unchanged, thread after thread. Every thread
// of a block is a fiber, which runs until it waits for others (a barrier, a shuffle); blocks follow one
// another. What this cannot show is a race between threads that no barrier orders, and speed.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
// Blocks run one at a time, so what a block shares may be static.
#define __shared__ static
#define __constant__ static const

#define PRUNUS_DYNAMIC_SHARED(type, name) \
  type* const name = reinterpret_cast<type*>(::prunus::on_host::block().shared.data())

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
using uint3 = dim3;
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
using cudaStream_t = void*;
struct cudaDeviceProp {
  char name[256];
  int major, minor, multiProcessorCount;
  std::size_t totalGlobalMem;
};
struct cudaFuncAttributes {};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  std::strcpy(p->name, "host");
  p->major = 9, p->minor = 0, p->multiProcessorCount = 3, p->totalGlobalMem = std::size_t{1} << 30;
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t e) { return e ? "an error" : "no error"; }
template <typename Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel) {
  return cudaSuccess;
}
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int) {
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* p, int value, std::size_t bytes, void*) {
  return std::memset(p, value, bytes), cudaSuccess;
}

namespace prunus::on_host {

struct Warp {
  int arrived = 0, generation = 0;
  unsigned long long values[2][32] = {};  // two, so that one barrier is enough for an exchange
};

struct Fiber {
  ucontext_t context{};
  std::unique_ptr<char[]> stack;
  uint3 thread{0, 0, 0};
  int lane = 0, exchanges = 0;
  Warp* warp = nullptr;
  const int* waits_for = nullptr;  // goes on when this is no longer `seen`
  int seen = 0;
  bool done = false;
};

struct Block {
  dim3 grid, size;
  uint3 index{0, 0, 0};
  int arrived = 0, generation = 0, alive = 0;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<uint4> shared;
  std::function<void()> kernel;
  ucontext_t scheduler{};
  Fiber* running = nullptr;
};

inline Block& block() {
  static Block one;
  return one;
}
inline Fiber& fiber() { return *block().running; }

inline void wait(const int* generation) {
  Fiber& me = fiber();
  me.waits_for = generation, me.seen = *generation;
  swapcontext(&me.context, &block().scheduler);
}

inline void sync_block() {
  Block& b = block();
  if (++b.arrived == b.alive) {
    b.arrived = 0, ++b.generation;
  } else {
    wait(&b.generation);
  }
}

inline void sync_warp(unsigned mask) {
  Warp& w = *fiber().warp;
  if (++w.arrived == __builtin_popcount(mask)) {
    w.arrived = 0, ++w.generation;
  } else {
    wait(&w.generation);
  }
}

// Every lane of the mask gives a value and sees those of all.
inline const unsigned long long* exchange(unsigned mask, unsigned long long mine) {
  Fiber& me = fiber();
  unsigned long long* values = me.warp->values[me.exchanges++ & 1];
  values[me.lane] = mine;
  sync_warp(mask);
  return values;
}

template <typename T>
unsigned long long to_bits(T value) {
  static_assert(sizeof(T) <= 8);
  unsigned long long all = 0;
  std::memcpy(&all, &value, sizeof value);
  return all;
}
template <typename T>
T from_bits(unsigned long long all) {
  T value;
  std::memcpy(&value, &all, sizeof value);
  return value;
}
template <typename T>
T shuffle(unsigned mask, T value, int from) {
  const unsigned long long* values = exchange(mask, to_bits(value));
  return from_bits<T>(values[from]);
}

inline void fiber_main() {
  Block& b = block();
  b.kernel();
  b.running->done = true;
  --b.alive;
  if (b.alive > 0 && b.arrived == b.alive) b.arrived = 0, ++b.generation;  // the others wait no longer
  swapcontext(&b.running->context, &b.scheduler);
}

inline void start(Block& b, std::size_t i) {
  constexpr std::size_t bytes = 64 << 10;
  Fiber& f = b.fibers[i];
  if (!f.stack) f.stack = std::make_unique<char[]>(bytes);
  f.thread = {static_cast<unsigned>(i) % b.size.x, static_cast<unsigned>(i) / b.size.x % b.size.y,
              static_cast<unsigned>(i) / b.size.x / b.size.y};
  f.lane = static_cast<int>(i % 32), f.exchanges = 0, f.warp = &b.warps[i / 32];
  f.waits_for = nullptr, f.done = false;
  getcontext(&f.context);
  f.context.uc_stack.ss_sp = f.stack.get();
  f.context.uc_stack.ss_size = bytes;
  f.context.uc_link = nullptr;
  makecontext(&f.context, fiber_main, 0);
}

inline void run_block(Block& b) {
  const std::size_t threads = std::size_t{b.size.x} * b.size.y * b.size.z;
  b.arrived = b.generation = 0, b.alive = static_cast<int>(threads);
  b.warps.assign((threads + 31) / 32, Warp());
  if (b.fibers.size() < threads) b.fibers.resize(threads);
  for (std::size_t i = 0; i < threads; ++i) start(b, i);
  while (b.alive > 0) {
    bool moved = false;
    for (std::size_t i = 0; i < threads; ++i) {
      Fiber& f = b.fibers[i];
      if (f.done || (f.waits_for && *f.waits_for == f.seen)) continue;
      f.waits_for = nullptr;
      b.running = &f;
      moved = true;
      swapcontext(&b.scheduler, &f.context);
    }
    if (!moved) {
      std::fprintf(stderr, "cuda_on_host: every thread of block (%u, %u, %u) waits for another\n", b.index.x,
                   b.index.y, b.index.z);
      std::abort();
    }
  }
}

template <typename T, typename Change>
T atomic(T* at, Change change) {
  const T before = *at;
  *at = change(before);
  return before;
}

}  // namespace prunus::on_host

#define threadIdx (::prunus::on_host::fiber().thread)
#define blockIdx (::prunus::on_host::block().index)
#define blockDim (::prunus::on_host::block().size)
#define gridDim (::prunus::on_host::block().grid)

inline void __syncthreads() { ::prunus::on_host::sync_block(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { ::prunus::on_host::sync_warp(mask); }
inline void __threadfence() {}
inline void __threadfence_block() {}
template <typename T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
  const int lane = ::prunus::on_host::fiber().lane;
  return ::prunus::on_host::shuffle(mask, value, lane / width * width + from % width);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
  const int lane = ::prunus::on_host::fiber().lane;
  const bool inside = lane % width >= static_cast<int>(by);
  return ::prunus::on_host::shuffle(mask, value, inside ? lane - static_cast<int>(by) : lane);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
  const int lane = ::prunus::on_host::fiber().lane;
  const bool inside = lane % width + static_cast<int>(by) < width;
  return ::prunus::on_host::shuffle(mask, value, inside ? lane + static_cast<int>(by) : lane);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int with, int = 32) {
  return ::prunus::on_host::shuffle(mask, value, ::prunus::on_host::fiber().lane ^ with);
}
inline unsigned __ballot_sync(unsigned mask, bool vote) {
  const unsigned long long* values = ::prunus::on_host::exchange(mask, vote);
  unsigned bits = 0;
  for (int i = 0; i < 32; ++i)
    if (mask >> i & 1) bits |= static_cast<unsigned>(values[i] & 1) << i;
  return bits;
}
inline bool __any_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) != 0; }
inline bool __all_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) == mask; }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __ffsll(long long v) { return __builtin_ffsll(v); }
inline int __clz(int v) { return v ? __builtin_clz(static_cast<unsigned>(v)) : 32; }
template <typename T>
T __ldg(const T* p) {
  return *p;
}
template <typename T>
T __ldcg(const T* p) {
  return *p;
}
inline unsigned __float_as_uint(float v) {
  return prunus::on_host::from_bits<unsigned>(prunus::on_host::to_bits(v));
}
inline float __uint_as_float(unsigned v) { return prunus::on_host::from_bits<float>(v); }
inline int __float_as_int(float v) { return static_cast<int>(__float_as_uint(v)); }
inline float __int_as_float(int v) { return __uint_as_float(static_cast<unsigned>(v)); }
inline long long __double_as_longlong(double v) {
  return prunus::on_host::from_bits<long long>(prunus::on_host::to_bits(v));
}
inline double __longlong_as_double(long long v) {
  return prunus::on_host::from_bits<double>(static_cast<unsigned long long>(v));
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
  return static_cast<unsigned>(((static_cast<unsigned long long>(high) << 32) | low) >> (by & 31));
}
inline unsigned __funnelshift_rc(unsigned low, unsigned high, unsigned by) {
  return static_cast<unsigned>(((static_cast<unsigned long long>(high) << 32) | low) >> std::min(by, 32u));
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const unsigned long long all = (static_cast<unsigned long long>(b) << 32) | a;
  unsigned out = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned pick = selector >> (4 * i) & 15;
    unsigned byte = static_cast<unsigned>(all >> (8 * (pick & 7))) & 255;
    if (pick & 8) byte = byte & 128 ? 255 : 0;
    out |= byte << (8 * i);
  }
  return out;
}
template <typename T, typename U>
T atomicAdd(T* at, U value) {
  return ::prunus::on_host::atomic(at, [&](T was) { return static_cast<T>(was + static_cast<T>(value)); });
}
template <typename T, typename U>
T atomicOr(T* at, U value) {
  return ::prunus::on_host::atomic(at, [&](T was) { return static_cast<T>(was | static_cast<T>(value)); });
}
template <typename T, typename U>
T atomicMax(T* at, U value) {
  return ::prunus::on_host::atomic(at, [&](T was) { return std::max(was, static_cast<T>(value)); });
}
template <typename T, typename U>
T atomicMin(T* at, U value) {
  return ::prunus::on_host::atomic(at, [&](T was) { return std::min(was, static_cast<T>(value)); });
}
template <typename T>
T atomicExch(T* at, T value) {
  return ::prunus::on_host::atomic(at, [&](T) { return value; });
}

namespace prunus::cuda {

template <typename... Parameters, typename... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, dim3 size, std::size_t shared_bytes, void*,
           Arguments... arguments) {
  on_host::Block& b = on_host::block();
  b.grid = grid, b.size = size;
  b.kernel = [&] { kernel(arguments...); };
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        b.index = {x, y, z};
        // Of the asked size and full of another block's leavings, as on a device.
        b.shared.assign((shared_bytes + 15) / 16 + 1, uint4{0xdeadbeef, 0xdeadbeef, 0x7fc00000, 0xffffffff});
        on_host::run_block(b);
      }
  return 0;
}

}  // namespace prunus::cuda
