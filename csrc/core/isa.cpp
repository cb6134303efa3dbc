#include "core/isa.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#if defined(__x86_64__)
#  include <cpuid.h>
#endif
#if defined(__linux__)
#  include <sys/syscall.h>
#  include <unistd.h>
#endif

#include "core/check.h"

namespace prunus {
namespace {

constexpr Isa kAllIsas[] = {
#define X(word, number, below) Isa::word,
#include "core/isas.def"
#undef X
};

constexpr int kUnset = -1;
std::atomic<int> forced{kUnset};

#if defined(__x86_64__)
#  if defined(PRUNUS_PLAIN_TILES)
constexpr bool kPlainTiles = true;  // what isa amx multiplies with, to test it without AMX (isa_amx.cpp)
#  else
constexpr bool kPlainTiles = false;
#  endif

struct Cpuid {
  unsigned eax, ebx, ecx, edx;
};
Cpuid cpuid7(unsigned leaf) {
  Cpuid id{};
  __get_cpuid_count(7, leaf, &id.eax, &id.ebx, &id.ecx, &id.edx);
  return id;
}

// Tiles, and their products of bf16 and of bytes.
bool cpu_has_tiles() {
  const unsigned edx = cpuid7(0).edx;
  return (edx >> 22 & 1) && (edx >> 24 & 1) && (edx >> 25 & 1);
}

// The system saves 8 KB of tiles for each thread of a process that asks for it, once. PRUNUS_PLAIN_TILES:
// none are used.
bool tiles_allowed() {
#  if defined(PRUNUS_PLAIN_TILES)
  return true;
#  elif defined(__linux__)
  constexpr long ask = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA
  return syscall(SYS_arch_prctl, ask, tile_data) == 0;
#  else
  return false;
#  endif
}
#endif

// libgcc's cpuid check includes the OS bits (XGETBV), so a kernel without AVX-512 state is not fooled.
bool cpu_has(Isa isa) {
  switch (isa) {
    case Isa::scalar:
      return true;
#if defined(__x86_64__)
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
    case Isa::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    case Isa::avxvnni:
      return cpuid7(1).eax >> 4 & 1;
    case Isa::avx512icl:
      return __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") &&
             __builtin_cpu_supports("avx512vnni");
    case Isa::avx512bf16:
      return __builtin_cpu_supports("avx512bf16");
    case Isa::amx:
      return kPlainTiles || (cpu_has_tiles() && tiles_allowed());
    case Isa::neon:
      return false;
#else
    case Isa::avx2:
    case Isa::avxvnni:
    case Isa::avx512:
    case Isa::avx512icl:
    case Isa::avx512bf16:
    case Isa::amx:
      return false;
    case Isa::neon:
#  if defined(__aarch64__)
      return true;
#  else
      return false;
#  endif
#endif
  }
  return false;
}

std::vector<Isa> detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
  std::vector<Isa> found;
  const auto has = [&](Isa isa) { return std::find(found.begin(), found.end(), isa) != found.end(); };
  for (const Isa isa : kAllIsas)  // an isa counts only on top of those below it
    if (cpu_has(isa) && (isa == Isa::scalar || has(isa_below(isa)))) found.push_back(isa);
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
#define X(word, number, below) \
  case Isa::word:              \
    return #word;
#include "core/isas.def"
#undef X
  }
  __builtin_unreachable();
}

Isa isa_below(Isa isa) {
  switch (isa) {
#define X(word, number, below) \
  case Isa::word:              \
    return Isa::below;
#include "core/isas.def"
#undef X
  }
  __builtin_unreachable();
}

const std::vector<Isa>& available_isas() {
  static const std::vector<Isa> found = detect();
  return found;
}

std::string refused_isa() {
#if defined(__x86_64__)
  const std::vector<Isa>& found = available_isas();
  if (!kPlainTiles && cpu_has_tiles() && std::find(found.begin(), found.end(), Isa::amx) == found.end())
    return "amx: the CPU has it, the system does not let this process use it";
#endif
  return "";
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
