// The interface to CUDA, implemented by kernels.cu or, in a build without CUDA, by none.cpp.
#pragma once

#include <memory>

#include "../table.h"

namespace popgrad::cuda {

extern const bool built;

// CUDA devices that can be used now: zero without a device, a driver, or CUDA in this build. Asks the driver,
// so it is called when a user asks, never at import.
int device_count();

// Tensors on the device, described there once and stepped many times: one launch for all of them, three for a rule
// that sums over tensors. Errors are std::runtime_error, or std::invalid_argument for packed states.
template <class T>
class Tensors {
 public:
  // All pointers in `args` are the device's; `extras` and `noise` are not used.
  Tensors(const StepArgs<T>* args, size_t count);
  // rule: its number in Kernels::steps. fields: as for step in api.h. Returns when the work is under way.
  void step(int rule, const double* fields, const StepExtras* extras);

 private:
  std::unique_ptr<void, void (*)(void*)> memory_;
  size_t count_, pieces_;
};

// The move rules on the GPU; pointers in their arguments are device pointers. For steps it has names and sizes, but no
// functions: see Tensors. Null without CUDA.
extern const Kernels* const kernels;

}  // namespace popgrad::cuda
