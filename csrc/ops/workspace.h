// Scratch memory that lives as long as its thread: a fresh 2 MB allocation costs 512 page faults, about 0.1
// ms.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>

namespace prunus {

// 64-byte aligned, grows and never shrinks. Allocation failure aborts: it would be inside a parallel region.
class Workspace {
 public:
  Workspace() = default;
  ~Workspace() { std::free(data_); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  std::uint8_t* bytes(std::size_t count) {
    if (count > capacity_) {
      std::free(data_);
      capacity_ = (count + 63) & ~std::size_t{63};
      data_ = static_cast<std::uint8_t*>(std::aligned_alloc(64, capacity_));
      if (!data_) std::abort();
    }
    return data_;
  }

 private:
  std::uint8_t* data_ = nullptr;
  std::size_t capacity_ = 0;
};

}  // namespace prunus
