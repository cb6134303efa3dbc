// Opens libprunus_cuda.so: a plain table of functions, so that this extension links nothing of CUDA.
#include "bindings/cuda_library.h"

#include <dlfcn.h>

#include <stdexcept>

#include "bindings/bindings.h"
#include "core/check.h"

namespace prunus::bindings {
namespace {

const cuda::Api* api = nullptr;

// Replaces the table that was open before: tests put the kernels' model on the host in its place.
void open_library(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) throw std::runtime_error("prunus_cuda: " + std::string(dlerror()));
  const auto table = reinterpret_cast<const cuda::Api* (*)()>(dlsym(library, "prunus_cuda_api"));
  if (!table)
    throw std::runtime_error("prunus_cuda: expected the function prunus_cuda_api in " + path + ", got none");
  const cuda::Api* found = table();
  if (found->version != cuda::kApiVersion)
    throw std::runtime_error(
        expected_got("prunus_cuda", "a library of this build, version " + std::to_string(cuda::kApiVersion),
                     std::to_string(found->version)));
  api = found;
}

py::object info() {
  if (!api) return py::none();
  int count = 0;
  const int error = api->device_count(&count);
  py::list devices;
  for (int i = 0; !error && i < count; ++i) {
    cuda::DeviceInfo device{};
    check_cuda(api->describe(i, &device), "describe");
    py::dict d;
    d["name"] = device.name;
    d["capability"] = py::make_tuple(device.major, device.minor);
    d["multiprocessors"] = device.multiprocessors;
    d["memory"] = device.memory;
    d["has_code"] = device.has_code != 0;
    devices.append(d);
  }
  py::dict all;
  all["architectures"] = api->architectures;
  all["devices"] = devices;
  all["error"] = error ? py::object(py::str(api->error_text(error))) : py::none();
  return all;
}

}  // namespace

const cuda::Api& cuda_api() {
  if (!api)
    throw std::runtime_error(
        "prunus_cuda: no library of CUDA kernels was opened (pip install . -C cmake.define.PRUNUS_CUDA=ON)");
  return *api;
}

void check_cuda(int error, const char* what) {
  if (error)
    throw std::runtime_error(std::string("prunus_cuda: ") + what + ": " + cuda_api().error_text(error));
}

void register_cuda(py::module_& m) {
  m.def("cuda_open", &open_library, py::arg("path"));
  m.def("cuda_info", &info);
}

}  // namespace prunus::bindings
