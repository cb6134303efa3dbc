// The operators of training on the packed weight, for torch: boxed CPU kernels.
#include <cstring>
#include <string>
#include <vector>

#include "bindings/torch_arguments.h"
#include "core/parallel.h"
#include "formats/value_index.h"
#include "ops/sampled.h"

namespace prunus::bindings {
namespace {

void copy_bytes(const std::uint8_t* from, std::int64_t size, std::uint8_t* to) {
  constexpr std::int64_t piece = 1 << 18;
  parallel_for((size + piece - 1) / piece, [&](std::int64_t i) {
    const std::int64_t begin = i * piece, left = size - begin;
    std::memcpy(to + begin, from + begin, static_cast<std::size_t>(left < piece ? left : piece));
  });
}

// A copy of the packed weight with these values in its places.
Tensor with_values_torch(const Tensor& packed, Tensor values, const Tensor& places) {
  const PackedView w = read_packed("packed", packed);
  if (w.header.dtype != Dtype::f32)
    throw ValueError(expected_got("packed", "float32 values", dtype_name(w.header.dtype)));
  const Operand given = values.operand("values"), place = read_list("places", places, "int32");
  check_float("values", given);
  refuse_gradient("values", values);
  const auto nnz = static_cast<std::int64_t>(w.header.nnz);
  if (given.dims != 1 || given.sizes[0] != nnz)
    throw ValueError(expected_got("values", shape_text(&nnz, 1), shape_text(given.sizes, given.dims)));
  if (place.sizes[0] != nnz)
    throw ValueError(expected_got("places", shape_text(&nnz, 1), shape_text(place.sizes, place.dims)));
  if (nnz > 1 && given.strides[0] != 1) values = values.contiguous_copy();
  const auto bytes = static_cast<std::int64_t>(w.header.bytes);
  Tensor fresh = Tensor::empty(1, &bytes, torch_shim::functions.aoti_torch_dtype_uint8());
  auto* const to = static_cast<std::uint8_t*>(fresh.mutable_data());
  copy_bytes(w.bytes, bytes, to);
  write_values(values.data(), dtype_from_name(given.dtype), static_cast<const std::int32_t*>(places.data()),
               nnz, to, static_cast<std::size_t>(bytes));
  return fresh;
}

// `first` of n rows ascends from 0 to the number of columns.
void check_first(const std::int32_t* first, std::int64_t count, std::int64_t entries) {
  bool ascending = first[0] == 0 && first[count - 1] == entries;
  for (std::int64_t i = 1; i < count; ++i) ascending &= first[i - 1] <= first[i];
  if (!ascending)
    throw ValueError(
        expected_got("first", "numbers that ascend from 0 to " + std::to_string(entries), "others"));
}

Tensor values_gradient_torch(Tensor grad, Tensor x, const Tensor& first, const Tensor& columns) {
  const Operand g = grad.operand("grad"), given = x.operand("x");
  check_float("grad", g);
  if (given.dtype != g.dtype) throw ValueError(expected_got("x", g.dtype + " as grad", given.dtype));
  refuse_gradient("grad", grad);
  refuse_gradient("x", x);
  bool same = given.dims == g.dims && g.dims >= 1;
  for (std::int64_t d = 0; same && d + 1 < g.dims; ++d) same = g.sizes[d] == given.sizes[d];
  if (!same)
    throw ValueError(expected_got("x", "the leading dimensions of grad " + shape_text(g.sizes, g.dims),
                                  shape_text(given.sizes, given.dims)));
  const std::int64_t n = g.sizes[g.dims - 1], k = given.sizes[g.dims - 1];
  const Operand f = read_list("first", first, "int32"), c = read_list("columns", columns, "uint8");
  const std::int64_t count = n * index_tiles(k) + 1;
  if (f.sizes[0] != count)
    throw ValueError(expected_got("first", shape_text(&count, 1), shape_text(f.sizes, f.dims)));
  SampledProduct p{};
  p.first = static_cast<const std::int32_t*>(first.data());
  check_first(p.first, count, c.sizes[0]);
  Tensor out = Tensor::empty(1, c.sizes, torch_shim::functions.aoti_torch_dtype_float32());
  const Rows grad_rows = as_rows(grad, g), x_rows = as_rows(x, given);
  p.dtype = dtype_from_name(g.dtype);
  p.m = grad_rows.count, p.n = n, p.k = k;
  p.grad = grad.data(), p.grad_stride = grad_rows.stride;
  p.x = x.data(), p.x_stride = x_rows.stride;
  p.column = static_cast<const std::uint8_t*>(columns.data());
  p.out = static_cast<float*>(out.mutable_data());
  sampled_product(p);
  return out;
}

}  // namespace

void with_values_kernel(StableIValue* stack, std::uint64_t, std::uint64_t) {
  Tensor packed = take(stack[0]), values = take(stack[1]), places = take(stack[2]);
  answer(stack, [&] { return with_values_torch(packed, std::move(values), places); });
}

void values_gradient_kernel(StableIValue* stack, std::uint64_t, std::uint64_t) {
  Tensor grad = take(stack[0]), x = take(stack[1]), first = take(stack[2]), columns = take(stack[3]);
  answer(stack, [&] { return values_gradient_torch(std::move(grad), std::move(x), first, columns); });
}

}  // namespace prunus::bindings
