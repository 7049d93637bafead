// The stand-in of a build without CUDA.
#include "cuda.h"

namespace popgrad::cuda {

extern constinit const bool built = false;
int device_count() { return 0; }
extern constinit const Kernels* const kernels = nullptr;

}  // namespace popgrad::cuda
