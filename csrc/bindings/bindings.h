// What the files of this folder share. Only this folder knows pybind11 and torch.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "formats/packed.h"

namespace prunus::bindings {

namespace py = pybind11;

using Bytes = py::array_t<std::uint8_t, py::array::c_style>;

// For what reads the 64 bytes only, and for what goes over the tiles (formats/packed.h).
inline PackedView header_of(const Bytes& buffer) {
  return read_header(buffer.data(), static_cast<std::size_t>(buffer.nbytes()));
}
inline PackedView open(const Bytes& buffer) {
  return open_packed(buffer.data(), static_cast<std::size_t>(buffer.nbytes()));
}

void register_core(py::module_& m);          // errors, isa, threads, build facts
void register_packed(py::module_& m);        // pack, unpack on numpy
void register_linear(py::module_& m);        // the operators on numpy
void register_pruning(py::module_& m);       // normalize, select, apply_mask on numpy
void register_torch(py::module_& m);         // torch: thread pool, dispatcher
void register_cuda(py::module_& m);          // the library of CUDA kernels
void register_cuda_pruning(py::module_& m);  // its selection, normalise and masks

}  // namespace prunus::bindings
