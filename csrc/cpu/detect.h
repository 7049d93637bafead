// Which tables this build holds and this processor can run.
#pragma once

#include <string>
#include <vector>

#include "../table.h"

namespace popgrad {

struct Target {
  const char* name;
  const Kernels* kernels;
  const Bfloat16Fns* bfloat16;  // null if products of bfloat16 numbers are not faster than products of floats
  bool supported;               // by this processor and, for targets that need it, by the system
};

const std::vector<Target>& targets();  // built into this library, in increasing order of preference

// The best supported target, or the one that POPGRAD_ISA names. Throws std::runtime_error if that target was not built
// or does not run on this processor.
const Target& pick_target();

}  // namespace popgrad
