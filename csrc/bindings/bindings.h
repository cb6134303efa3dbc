// What the files of this folder share. Only this folder knows pybind11 and torch.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace prunus::bindings {

namespace py = pybind11;

void register_core(py::module_& m);     // errors, isa, threads, build facts
void register_packed(py::module_& m);   // pack, unpack, linear on numpy
void register_pruning(py::module_& m);  // normalize, select, apply_mask on numpy
void register_torch(py::module_& m);    // torch: thread pool, dispatcher

}  // namespace prunus::bindings
