// Shared by the sources of the narrow waist: memory, kernels by type, and how samples are cut.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>

#include "api.h"

namespace popgrad {

// Memory aligned to a cache line.
template <class T>
std::unique_ptr<T[], void (*)(T*)> allocate(size_t count) {
  constexpr auto line = std::align_val_t{64};
  return {static_cast<T*>(::operator new(std::max<size_t>(count, 1) * sizeof(T), line)),
          [](T* p) { ::operator delete(p, line); }};
}

// This thread's scratch memory. It grows and is kept, so that a step on a small network does not pay for an allocation.
// A call that needs memory for the items that it runs and, at the same time, for itself uses two places.
template <class T, int place = 0>
T* scratch(size_t count) {
  static thread_local auto memory = allocate<T>(0);
  static thread_local size_t size = 0;
  if (count > size) {
    memory = allocate<T>(count);
    size = count;
  }
  return memory.get();
}

// Returns the one of a pair of functions or tables that is for T.
template <class T, class F32, class F64>
inline auto of_type(F32 f32, F64 f64) {
  if constexpr (sizeof(T) == sizeof(float))
    return f32;
  else
    return f64;
}

template <class T>
inline const NetworkFns<T>& network() {
  return *of_type<T>(kernels().network_f32, kernels().network_f64);
}

template <class T>
inline const GradientFns<T>& gradients() {
  return *of_type<T>(kernels().gradient_f32, kernels().gradient_f64);
}

// A part of the samples: blocks whose scores are summed in one go. The sums of the parts are added in order, wherever
// the parameters come from.
inline constexpr int64_t part_blocks = 16;

inline int64_t block_count(int64_t samples) { return (samples + block_samples - 1) / block_samples; }
inline int64_t part_count(int64_t blocks) { return (blocks + part_blocks - 1) / part_blocks; }

// Elements of an array that fills whole cache lines and leaves a vector past its end, which matrix products may read.
inline size_t padded(size_t count) { return (count + 31) / 16 * 16; }

}  // namespace popgrad
