// What the rest of the library knows of CUDA; kernels.cu or, in a build without it, none.cpp.
#pragma once

#include "../table.h"

namespace popgrad::cuda {

extern const bool built;

// CUDA devices that can be used now: zero without a device, a driver, or CUDA in this build. Asks the driver,
// so it is called when a user asks, never at import.
int device_count();

// The step and move rules on the GPU; pointers in their arguments are device pointers. Null without CUDA.
extern const Kernels* const kernels;

}  // namespace popgrad::cuda
