// Scratch memory that lives as long as its thread: a fresh 2 MB allocation costs 512 page faults, about 0.1
// ms.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace prunus {

// 64-byte aligned. Grows, and gives back what is more than kKept when a call is done with it.
class Workspace {
 public:
  static constexpr std::size_t kKept = std::size_t{64} << 20;  // all strips of 64 threads and 4096 columns

  Workspace() = default;
  ~Workspace() { std::free(data_); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // Throws std::bad_alloc, also in a parallel region (core/parallel.h).
  std::uint8_t* bytes(std::size_t count) {
    if (count > capacity_) {
      release();
      const std::size_t size = (count + 63) & ~std::size_t{63};
      data_ = static_cast<std::uint8_t*>(std::aligned_alloc(64, size));
      if (!data_) throw std::bad_alloc();
      capacity_ = size;
    }
    return data_;
  }

  // At the end of a call, or of a thread's part in it.
  struct Trim {
    Workspace& of;
    ~Trim() {
      if (of.capacity_ > kKept) of.release();
    }
  };

 private:
  void release() {
    std::free(data_);
    data_ = nullptr;
    capacity_ = 0;
  }
  std::uint8_t* data_ = nullptr;
  std::size_t capacity_ = 0;
};

}  // namespace prunus
