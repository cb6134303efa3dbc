// Joins a loaded torch: its thread pool becomes parallel_for's, its dispatcher gets the CPU kernels.
#include "bindings/bindings.h"
#include "bindings/torch_kernels.h"
#include "bindings/torch_shim.h"
#include "core/parallel.h"

namespace prunus::bindings {
namespace {

int torch_threads() {
  std::uint32_t threads = 1;
  return torch_shim::functions.torch_get_num_threads(&threads) == 0 ? static_cast<int>(threads) : 1;
}

void torch_run(std::int64_t tasks, RangeFn fn, void* context) {
  // fn does not throw, so an error means that torch could not start its threads. Tasks may run twice.
  if (torch_shim::functions.torch_parallel_for(0, tasks, 1, fn, context)) fn(0, tasks, context);
}

const ParallelBackend kTorchPool{"torch", torch_threads, torch_run};

// True where the dispatcher refused one.
bool give_operators(const char* key, const Operators& of, TorchLibraryHandle* library) {
  const auto& torch = torch_shim::functions;
  return torch.aoti_torch_library_init_impl("prunus", key, "prunus", 1, library) ||
         torch.torch_library_impl(*library, "linear", of.linear, torch_shim::kAbiVersion) ||
         torch.torch_library_impl(*library, "linear_add", of.linear_add, torch_shim::kAbiVersion) ||
         torch.torch_library_impl(*library, "gated", of.gated, torch_shim::kAbiVersion) ||
         torch.torch_library_impl(*library, "linear_many", of.linear_many, torch_shim::kAbiVersion);
}

// Idempotent. The schemas are defined in Python (prunus/ops/registered.py), before.
void join_torch(const std::string& version) {
  static bool joined = false;
  if (joined) return;
  const std::string missing = torch_shim::load(version);
  if (!missing.empty()) throw py::import_error(missing);
  TorchLibraryHandle cpu = nullptr, cuda = nullptr;  // live as long as the process, like their kernels
  const auto& torch = torch_shim::functions;
  if (give_operators("CPU", kCpuOperators, &cpu) || give_operators("CUDA", kCudaOperators, &cuda) ||
      torch.torch_library_impl(cpu, "with_values", with_values_kernel, torch_shim::kAbiVersion) ||
      torch.torch_library_impl(cpu, "values_gradient", values_gradient_kernel, torch_shim::kAbiVersion) ||
      torch.torch_library_impl(cpu, "attention", attention_kernel, torch_shim::kAbiVersion))
    throw py::import_error("torch " + version + ": the dispatcher refused the kernels of prunus");
  set_parallel_backend(&kTorchPool);
  joined = true;
}

}  // namespace

void register_torch(py::module_& m) {
  m.def("join_torch", &join_torch, py::arg("version"));
  m.def(
      "gradient_sentence", [](const std::string& argument) { return gradient_sentence(argument.c_str()); },
      py::arg("argument"));
}

}  // namespace prunus::bindings
