#include <cstring>
#include <type_traits>

#include "pruning/floats.h"
#include "pruning/keys.h"
#include "pruning/scored.h"

namespace prunus {
namespace {

// Keys of n contiguous T as those of F; both dtypes hold every T exactly.
template <class T, class F>
bool keys_as(const std::uint8_t* p, std::int64_t n, typename KeyOf<F>::Key* out) {
  if constexpr (std::is_same_v<T, F>) {
    return keys_of<T>(p, n, out);
  } else {
    bool ordered = true;
    for (std::int64_t i = 0; i < n; ++i) {
      const F value = static_cast<F>(to_double(load<T>(p, i)));
      ordered &= value == value;
      out[i] = key_of_bits(load<typename KeyOf<F>::Key>(reinterpret_cast<const std::uint8_t*>(&value), 0));
    }
    return ordered;
  }
}

template <class T, class F>
class Elements final : public Scored<typename KeyOf<F>::Key> {
 public:
  using Key = typename KeyOf<F>::Key;
  Elements(const Plane& plane, const MaskPlane& mask)
      : Scored<Key>(plane.rows, plane.cols, plane.transposed), plane_(plane), mask_(mask) {}

  bool read(std::int64_t begin, std::int64_t count, Key* keys) const override {
    bool ordered = true;
    segments(begin, count, plane_.row_stride,
             [&](std::int64_t row, std::int64_t col, std::int64_t offset, std::int64_t n) {
               ordered &= keys_as<T, F>(plane_.at(row, col), n, keys + offset);
             });
    return ordered;
  }

  bool split(std::int64_t begin, std::int64_t count, Split<Key>& s) const override {
    if constexpr (!std::is_same_v<T, F>) {
      return Scored<Key>::split(begin, count, s);
    } else {
      bool ordered = true;
      const std::int64_t stride = plane_.row_stride == mask_.row_stride ? plane_.row_stride : -1;
      segments(begin, count, stride,
               [&](std::int64_t row, std::int64_t col, std::int64_t offset, std::int64_t n) {
                 ordered &= score_kernels<T>().split(plane_.at(row, col), n, offset, mask_.at(row, col), &s);
               });
      return ordered;
    }
  }

  void pick(std::int64_t begin, const std::uint16_t* positions, std::int64_t count,
            Key* keys) const override {
    if (!std::is_same_v<T, F> || plane_.row_stride != this->cols)
      return Scored<Key>::pick(begin, positions, count, keys);
    const std::uint8_t* p = plane_.at(0, begin);
    for (std::int64_t i = 0; i < count; ++i) keys[i] = key_of_bits(load<Key>(p, positions[i]));
  }

  void mark(std::int64_t begin, const std::uint16_t* positions, const std::uint8_t* keep,
            std::int64_t count) const override {
    if (mask_.row_stride != this->cols) return Scored<Key>::mark(begin, positions, keep, count);
    std::uint8_t* mask = mask_.at(0, begin);
    for (std::int64_t i = 0; i < count; ++i) mask[positions[i]] = keep[i];
  }

  void write(std::int64_t begin, std::int64_t count, const std::uint8_t* keep) const override {
    segments(begin, count, mask_.row_stride,
             [&](std::int64_t row, std::int64_t col, std::int64_t offset, std::int64_t n) {
               std::memcpy(mask_.at(row, col), keep + offset, static_cast<std::size_t>(n));
             });
  }

 private:
  // fn(row, col, offset, n) for the contiguous pieces of [begin, begin + count).
  template <class Fn>
  void segments(std::int64_t begin, std::int64_t count, std::int64_t row_stride, Fn&& fn) const {
    if (row_stride == this->cols) return fn(0, begin, 0, count);
    std::int64_t row = begin / this->cols, col = begin % this->cols;
    for (std::int64_t done = 0; done < count; ++row, col = 0) {
      const std::int64_t n = std::min(count - done, this->cols - col);
      fn(row, col, done, n);
      done += n;
    }
  }

  const Plane plane_;
  const MaskPlane mask_;
};

}  // namespace

template <class F>
ScoredPtr<typename KeyOf<F>::Key> scored_elements(const Plane& plane, const MaskPlane& mask) {
  ScoredPtr<typename KeyOf<F>::Key> elements;
  with_float(plane.dtype, [&](auto t) {
    using T = decltype(t);
    if constexpr (std::is_same_v<T, F> || sizeof(T) < sizeof(F))
      elements = std::make_unique<Elements<T, F>>(plane, mask);
  });
  return elements;
}

template ScoredPtr<KeyOf<float>::Key> scored_elements<float>(const Plane&, const MaskPlane&);
template ScoredPtr<KeyOf<double>::Key> scored_elements<double>(const Plane&, const MaskPlane&);
template ScoredPtr<KeyOf<f16_t>::Key> scored_elements<f16_t>(const Plane&, const MaskPlane&);
template ScoredPtr<KeyOf<bf16_t>::Key> scored_elements<bf16_t>(const Plane&, const MaskPlane&);

}  // namespace prunus
