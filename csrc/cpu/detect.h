// Which tables this build holds and this processor can run.
#pragma once

#include <string>
#include <vector>

#include "../table.h"

namespace popgrad {

struct Target {
  const char* name;
  const Kernels* kernels;
  const Bfloat16Fns* bfloat16;  // null where products of bfloat16 numbers are not faster than those of floats
  bool supported;               // by this processor and, as far as was asked, its system
};

const std::vector<Target>& targets();  // built into this library, in increasing order of preference

// The best supported target, or the one that POPGRAD_ISA names; throws std::runtime_error where that one was
// not built or does not run here.
const Target& pick_target();

}  // namespace popgrad
