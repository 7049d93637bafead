// What the sources of the narrow waist share: memory, and the network's kernels by type.
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

// This thread's scratch memory, which grows and is kept: a step on a small network must not pay for it.
template <class T>
T* scratch(size_t count) {
  static thread_local auto memory = allocate<T>(0);
  static thread_local size_t size = 0;
  if (count > size) {
    memory = allocate<T>(count);
    size = count;
  }
  return memory.get();
}

// Of a pair of functions or tables, the one for T.
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

// What sums up the score of one candidate, in the precision that the data were packed for.
template <class T>
struct Evaluator {
  size_t (*scratch)(const Shape&);
  double (*evaluate)(const Shape&, int score, const T* w, const Packed<T>&, int64_t first, int64_t last, T* scratch);
};
template <class T>
inline Evaluator<T> evaluator([[maybe_unused]] const Packed<T>& packed) {
  if constexpr (sizeof(T) == sizeof(float))
    if (packed.words) return {bfloat16_kernels()->scratch, bfloat16_kernels()->evaluate};
  return {network<T>().scratch, network<T>().evaluate};
}

// Blocks of samples whose scores are summed in one go; the sums of longer data are added in order, wherever the
// parameters come from.
inline constexpr int64_t part_blocks = 16;

inline int64_t block_count(int64_t samples) { return (samples + block_samples - 1) / block_samples; }

}  // namespace popgrad
