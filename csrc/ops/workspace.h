// Scratch memory that lives as long as its thread: a fresh 2 MB allocation costs 512 page faults, about 0.1
// ms.
#pragma once
#include <cstddef>
#include <cstdlib>

namespace prunus {

// 64-byte aligned, grows and never shrinks. Allocation failure aborts: it would be inside a parallel region.
class Workspace {
 public:
  Workspace() = default;
  ~Workspace() { std::free(data_); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  float* floats(std::size_t count) {
    if (count > capacity_) {
      std::free(data_);
      capacity_ = (count + 15) & ~std::size_t{15};
      data_ = static_cast<float*>(std::aligned_alloc(64, capacity_ * sizeof(float)));
      if (!data_) std::abort();
    }
    return data_;
  }

 private:
  float* data_ = nullptr;
  std::size_t capacity_ = 0;
};

}  // namespace prunus
