// Selection, normalise and masks on CUDA tensors. Python (masks/on_device.py) has checked shapes, strides and
// devices, and hands over the addresses of contiguous memory, its own and torch's current stream.
#include <string>
#include <tuple>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/cuda_library.h"
#include "core/dtype.h"
#include "pruning/cut.h"

namespace prunus::bindings {
namespace {

using Address = std::uintptr_t;
// Scores, mask, dtype, entries.
using Scores = std::tuple<Address, Address, std::string, std::int64_t>;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}
int number_of(Dtype dtype) { return static_cast<int>(dtype); }
void* stream_at(Address stream) { return at<void>(stream); }

const cuda::PruningApi& pruning() { return *cuda_api().pruning; }

cuda::ScoreArray array_of(const Scores& s, Address nan) {
  const auto& [scores, mask, dtype, size] = s;
  return {at<void>(scores), at<std::uint8_t>(mask), at<int>(nan), size, number_of(dtype_from_name(dtype))};
}

std::vector<cuda::ScoreArray> arrays_of(const std::vector<Scores>& all, Address nan) {
  std::vector<cuda::ScoreArray> arrays;
  for (const Scores& s : all) arrays.push_back(array_of(s, nan + arrays.size() * sizeof(int)));
  return arrays;
}

// The narrowest float that holds every value of every array.
int common_dtype(const std::vector<Scores>& all) {
  Dtype common = dtype_from_name(std::get<2>(all.front()));
  for (const Scores& s : all) {
    const Dtype d = dtype_from_name(std::get<2>(s));
    if (d != common) common = d == Dtype::f64 || common == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  }
  return number_of(common);
}

std::int64_t select_bytes(const std::vector<std::int64_t>& sizes) {
  std::vector<cuda::ScoreArray> arrays;
  for (const std::int64_t size : sizes) arrays.push_back({nullptr, nullptr, nullptr, size, 0});
  return pruning().select_bytes(arrays.data(), static_cast<int>(arrays.size()));
}

void select(const std::vector<Scores>& all, Address nan, std::int64_t prune, Address workspace,
            Address stream) {
  const std::vector<cuda::ScoreArray> arrays = arrays_of(all, nan);
  check_cuda(pruning().select(arrays.data(), static_cast<int>(arrays.size()), common_dtype(all), prune,
                              at<void>(workspace), stream_at(stream)),
             "select");
}

void select_lines(const Scores& s, Address nan, std::int64_t length, std::int64_t prune, Address workspace,
                  Address stream) {
  check_cuda(pruning().select_lines(array_of(s, nan), length, prune, at<void>(workspace), stream_at(stream)),
             "select_lines");
}

void select_nm(const Scores& s, Address nan, std::int64_t n, std::int64_t m, Address stream) {
  check_cuda(pruning().select_nm(array_of(s, nan), n, m, stream_at(stream)), "select_nm");
}

// Memory, rows, columns, elements from row to row, dtype.
using Rows = std::tuple<Address, std::int64_t, std::int64_t, std::int64_t, std::string>;

cuda::Matrix matrix_of(const Rows& r) {
  const auto& [data, rows, cols, row_stride, dtype] = r;
  return {at<void>(data), rows, cols, row_stride, number_of(dtype_from_name(dtype))};
}

using Shape = std::pair<std::int64_t, std::int64_t>;

void block_sums(const Rows& scores, Shape block, Address sums, Address stream) {
  check_cuda(
      pruning().block_sums(matrix_of(scores), block.first, block.second, at<double>(sums), stream_at(stream)),
      "block_sums");
}

void expand_blocks(Address keep, Shape shape, Shape block, Address mask, Address stream) {
  check_cuda(pruning().expand_blocks(at<std::uint8_t>(keep), shape.first, shape.second, block.first,
                                     block.second, at<std::uint8_t>(mask), stream_at(stream)),
             "expand_blocks");
}

std::int64_t normalize_bytes(Shape shape, bool by_row) {
  return pruning().normalize_bytes(shape.first, shape.second, by_row);
}

void normalize(const Rows& w, bool by_row, Address out, Address workspace, Address stream) {
  check_cuda(pruning().normalize(matrix_of(w), by_row, at<void>(out), at<void>(workspace), stream_at(stream)),
             "normalize");
}

void apply_mask(const Rows& w, Address mask, Shape strides, Address stream) {
  check_cuda(pruning().apply_mask(matrix_of(w), at<std::uint8_t>(mask), strides.first, strides.second,
                                  stream_at(stream)),
             "apply_mask");
}

}  // namespace

void register_cuda_pruning(py::module_& m) {
  m.def("cuda_select_bytes", &select_bytes, py::arg("sizes"));
  m.def("cuda_select", &select, py::arg("scores"), py::arg("nan"), py::arg("prune"), py::arg("workspace"),
        py::arg("stream"));
  m.def("cuda_select_lines", &select_lines, py::arg("scores"), py::arg("nan"), py::arg("length"),
        py::arg("prune"), py::arg("workspace"), py::arg("stream"));
  m.def("cuda_select_nm", &select_nm, py::arg("scores"), py::arg("nan"), py::arg("n"), py::arg("m"),
        py::arg("stream"));
  m.def("cuda_block_sums", &block_sums, py::arg("scores"), py::arg("block"), py::arg("sums"),
        py::arg("stream"));
  m.def("cuda_expand_blocks", &expand_blocks, py::arg("keep"), py::arg("shape"), py::arg("block"),
        py::arg("mask"), py::arg("stream"));
  m.def("cuda_normalize_bytes", &normalize_bytes, py::arg("shape"), py::arg("by_row"));
  m.def("cuda_normalize", &normalize, py::arg("w"), py::arg("by_row"), py::arg("out"), py::arg("workspace"),
        py::arg("stream"));
  m.def("cuda_apply_mask", &apply_mask, py::arg("w"), py::arg("mask"), py::arg("strides"), py::arg("stream"));
  m.def("pruned_count", &pruned_count, py::arg("sparsity"), py::arg("entries"));
}

}  // namespace prunus::bindings
