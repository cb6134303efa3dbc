// Instruction sets: the words a user can type, what this CPU has, and which one is active.
#pragma once
#include <string>
#include <vector>

namespace prunus {

enum class Isa {
#define X(word, number, below) word = number,
#include "core/isas.def"
#undef X
};

const char* isa_name(Isa isa);

// The isa whose kernels serve where this one has none; scalar is below itself.
Isa isa_below(Isa isa);

// Isas that this binary holds and this CPU (and its OS) can run, worst first; always has scalar.
const std::vector<Isa>& available_isas();

// A sentence about an isa that the CPU has and the system refuses, or "".
std::string refused_isa();

// The isa in use: set_isa(), else PRUNUS_ISA, else the best available.
// Throws ValueError when PRUNUS_ISA names an unknown or unavailable isa: no silent fallback.
Isa active_isa();

// "auto" returns to PRUNUS_ISA or the best. Throws ValueError on an unknown or unavailable name.
void set_isa(const std::string& name);

}  // namespace prunus
