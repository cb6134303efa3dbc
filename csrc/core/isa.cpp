#include "core/isa.h"

#include <atomic>
#include <cstdlib>

#include "core/check.h"

namespace prunus {
namespace {

constexpr int kUnset = -1;
std::atomic<int> forced{kUnset};

std::vector<Isa> detect() {
  std::vector<Isa> found{Isa::scalar};
#if defined(__x86_64__)
  __builtin_cpu_init();
  // libgcc's cpuid check includes the OS bits (XGETBV), so a kernel without AVX-512 state is not fooled.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
  if (avx2) found.push_back(Isa::avx2);
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx512) found.push_back(Isa::avx512);
  if (avx512 && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") &&
      __builtin_cpu_supports("avx512vnni"))
    found.push_back(Isa::avx512icl);
#elif defined(__aarch64__)
  found.push_back(Isa::neon);
#endif
  return found;
}

Isa isa_from_name(const char* argument, const std::string& name) {
  std::string words;
  for (Isa isa : available_isas()) {
    if (name == isa_name(isa)) return isa;
    words += (words.empty() ? "" : ", ") + std::string(isa_name(isa));
  }
  throw ValueError(
      expected_got(argument, "one of " + words + " (what this CPU and build can run)", "'" + name + "'"));
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::scalar:
      return "scalar";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512icl:
      return "avx512icl";
    case Isa::neon:
      return "neon";
  }
  return "?";
}

const std::vector<Isa>& available_isas() {
  static const std::vector<Isa> found = detect();
  return found;
}

Isa active_isa() {
  const int f = forced.load(std::memory_order_relaxed);
  if (f != kUnset) return static_cast<Isa>(f);
  const char* env = std::getenv("PRUNUS_ISA");
  const Isa isa = env && *env ? isa_from_name("PRUNUS_ISA", env) : available_isas().back();
  forced.store(static_cast<int>(isa), std::memory_order_relaxed);
  return isa;
}

void set_isa(const std::string& name) {
  forced.store(name == "auto" ? kUnset : static_cast<int>(isa_from_name("isa", name)),
               std::memory_order_relaxed);
}

}  // namespace prunus
