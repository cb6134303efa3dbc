// Finding one's way in a packed weight of format warp on the device.
#pragma once
#include "cuda/products.h"
#include "cuda/warp_values.h"
#include "formats/packed.h"

namespace prunus::cuda {

constexpr float kNaN = __builtin_nanf("");

// What the header says. It is read here, not on the host: nothing waits for it, and a graph may replay the
// call with other bytes.
struct Header {
  Dtype dtype;
  int rows;  // of a tile; 0 where the bytes are no weight (n, k) of format warp
};

// Where the steps of a tile lie; NaN is the answer where `valid` is false.
struct Tile {
  const std::uint8_t* steps_at;
  int steps, start;
  bool valid;
};

__device__ __forceinline__ unsigned load_u32(const std::uint8_t* p) {
  return __ldcg(reinterpret_cast<const unsigned*>(p));
}
__device__ __forceinline__ std::uint64_t load_u64(const std::uint8_t* p) {
  return __ldcg(reinterpret_cast<const unsigned long long*>(p));
}

// All loads at once, and no branch between: each would be a wait of its own.
__device__ __forceinline__ Header read_header(const Packed& w) {
  const uint4* const p = reinterpret_cast<const uint4*>(w.data);
  const uint4 first = __ldcg(p), second = __ldcg(p + 1), third = __ldcg(p + 2);
  const auto u64 = [](unsigned low, unsigned high) { return static_cast<std::uint64_t>(high) << 32 | low; };
  const unsigned rows = third.z & 0xffff;
  const bool fits = (first.x == kPackedMagic) &
                    ((first.y >> 8 & 255) == static_cast<unsigned>(Format::warp)) &
                    (u64(first.z, first.w) == static_cast<std::uint64_t>(w.n)) &
                    (u64(second.x, second.y) == static_cast<std::uint64_t>(w.k)) &
                    (u64(third.x, third.y) == w.bytes) & (rows <= 8) & ((rows & (rows - 1)) == 0);
  return {static_cast<Dtype>(first.y >> 16 & 255), fits ? static_cast<int>(rows) : 0};
}

template <int step_bytes>
__device__ __forceinline__ Tile find_tile(const Packed& w, std::int64_t index, int lane) {
  Tile tile{};
  const std::uint64_t at = sizeof(PackedHeader) + 8 * static_cast<std::uint64_t>(index);
  if (at + 16 > w.bytes) return tile;
  const std::uint64_t begin = sizeof(PackedHeader) + load_u64(w.data + at),
                      end = sizeof(PackedHeader) + load_u64(w.data + at + 8);
  tile.valid = begin <= end && end <= w.bytes && end - begin >= WarpLayout::head && begin % 16 == 0;
  if (!tile.valid) return tile;
  tile.steps_at = w.data + begin + WarpLayout::head;
  tile.steps = static_cast<int>((end - begin - WarpLayout::head) / step_bytes);
  tile.start = __ldcg(reinterpret_cast<const std::uint16_t*>(w.data + begin) + lane);
  return tile;
}

// The scale of a row of int8 values, which are behind the offsets; 1 for others.
__device__ __forceinline__ float scale_of(const Packed& w, const Header& header, std::int64_t row) {
  if (header.dtype != Dtype::i8) return 1;
  const auto tiles = static_cast<std::uint64_t>((w.n + header.rows - 1) / header.rows);
  return __ldcg(reinterpret_cast<const float*>(w.data + sizeof(PackedHeader) + 8 * (tiles + 1)) + row);
}

// The tiles that a weight of n rows has at most: where it has fewer, warps end at once, and where it has
// more, they take several.
inline std::int64_t most_tiles(std::int64_t n) {
  const int rows = WarpLayout::least_rows(n);
  return (n + rows - 1) / rows;
}

}  // namespace prunus::cuda
