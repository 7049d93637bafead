// What Network and the functions of perturbations.cpp are given: a population but for its centre.
#pragma once

#include "../api.h"
#include "arrays.h"

namespace popgrad::bindings {

struct Noise {
  double sigma;
  size_t members;
  bool mirrored;
  uint64_t seed;
  uint32_t stream;
  int rank;
  std::vector<NoisePart> parts;

  template <class T>
  Perturbations<T> around(const T* centre) const {
    return {centre, sigma, members, mirrored, seed, stream, rank, parts};
  }
  py::ssize_t n() const { return py::ssize_t(parameter_count(parts)); }
};

}  // namespace popgrad::bindings
