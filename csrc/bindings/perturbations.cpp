// Noise(sigma, popsize, antithetic, seed, stream, rank, parts): a population around a center that is never stored.
//   rows(center, first, out): members [first, first + len(out));   combine(weights, out): the weighted sum of the noise
//   parts: (k, 2) int64, for each tensor (rows, columns) of a matrix whose noise is of low rank, or (0, numbers)
#include "perturbations.h"

#include "module.h"
#include "release.h"

namespace popgrad::bindings {

namespace {

Noise noise_of(double sigma, py::ssize_t popsize, bool antithetic, uint64_t seed, uint32_t stream, int rank,
               const py::object& parts) {
  if (popsize < 1 || popsize > py::ssize_t(UINT32_MAX) || (antithetic && popsize % 2))
    throw py::value_error("[_core.Noise] popsize must be in [1, 2^32), and even if the population is antithetic");
  if (rank < 0 || rank > 1 << 16) throw py::value_error("[_core.Noise] rank must be in [0, 2^16]");
  const py::ssize_t count = length("parts", parts);
  const int64_t* const part = input<int64_t>("parts", parts, {count, 2});
  constexpr int64_t most = int64_t(1) << 32;
  Noise noise{sigma, size_t(popsize), antithetic, seed, stream, rank, {}};
  for (py::ssize_t k = 0; k < count; ++k) {
    const int64_t rows = part[2 * k], columns = part[2 * k + 1];
    if (rows < 0 || columns < 0 || columns > most || rows > most / std::max<int64_t>(columns, 1) ||
        (rows > 0 && rank < 1))
      throw py::value_error("[_core.Noise] a part is out of range");
    noise.parts.push_back({rows, columns});
    // A coordinate's Draws have a number of 32 bits.
    if (drawn_count(noise.parts, rank) > size_t(1) << 34) throw py::value_error("[_core.Noise] too many coordinates");
  }
  return noise;
}

void rows_bound(const Noise& noise, const py::object& center, py::ssize_t first, const py::object& out) {
  with_type("center", center, [&](auto type) {
    using T = decltype(type);
    const T* const c = input<T>("center", center, {noise.n()});
    const py::ssize_t count = length("out", out);
    T* const o = output<T>("out", out, {count, noise.n()});
    if (first < 0 || first > py::ssize_t(noise.popsize) - count)
      throw py::index_error("[_core.Noise.rows] member out of range");
    const Interruptible release;
    rows(noise.around(c), size_t(first), size_t(count), o);
  });
}

void combine_bound(const Noise& noise, const py::object& weights, const py::object& out) {
  with_type("out", out, [&](auto type) {
    using T = decltype(type);
    const double* const w = input<double>("weights", weights, {py::ssize_t(noise.popsize)});
    T* const o = output<T>("out", out, {noise.n()});
    const Interruptible release;
    combine_noise(noise.around<T>(nullptr), w, o);
  });
}

}  // namespace

void bind_perturbations(py::module_& m) {
  py::class_<Noise>(m, "Noise")
      .def(py::init(&noise_of), py::arg("sigma"), py::arg("popsize"), py::arg("antithetic"), py::arg("seed"),
           py::arg("stream"), py::arg("rank"), py::arg("parts"))
      .def("rows", &rows_bound, py::arg("center"), py::arg("first"), py::arg("out"))
      .def("combine", &combine_bound, py::arg("weights"), py::arg("out"));
}

}  // namespace popgrad::bindings
