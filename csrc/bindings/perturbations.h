// A population that is not stored, without its center. Network and Noise share it.
#pragma once

#include "../api.h"
#include "arrays.h"

namespace popgrad::bindings {

struct Noise {
  double sigma;
  size_t popsize;
  bool antithetic;
  uint64_t seed;
  uint32_t stream;
  int rank;
  std::vector<NoisePart> parts;

  template <class T>
  Perturbations<T> around(const T* center) const {
    return {center, sigma, popsize, antithetic, seed, stream, rank, parts};
  }
  py::ssize_t n() const { return py::ssize_t(parameter_count(parts)); }
};

}  // namespace popgrad::bindings
