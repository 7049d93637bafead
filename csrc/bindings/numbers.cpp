// power(base, exponent, out), cosine(x, out): the C library's functions over (n,) float64, so that a column of numbers
// has the bits that Python's floats have; NumPy's vectorized functions differ in the last bit.
//   base, exponent: numbers, or (n,) float64
#include <cmath>

#include "arrays.h"
#include "module.h"

namespace popgrad::bindings {

namespace {

// A number, or one number per element of an array.
class Operand {
 public:
  Operand(const char* name, const py::object& given, py::ssize_t n)
      : number_(is_array(given) ? 0 : given.cast<double>()),
        array_(is_array(given) ? input<double>(name, given, {n}) : nullptr) {}
  double operator[](py::ssize_t i) const { return array_ ? array_[i] : number_; }

 private:
  static bool is_array(const py::object& given) { return py::isinstance<py::array>(given); }
  const double number_;
  const double* const array_;
};

void power(const py::object& base, const py::object& exponent, const py::object& out) {
  const py::ssize_t n = length("out", out);
  const Operand bases("base", base, n), exponents("exponent", exponent, n);
  double* const result = output<double>("out", out, {n});
  for (py::ssize_t i = 0; i < n; ++i) result[i] = std::pow(bases[i], exponents[i]);
}

void cosine(const py::object& x, const py::object& out) {
  const py::ssize_t n = length("out", out);
  const double* const angle = input<double>("x", x, {n});
  double* const result = output<double>("out", out, {n});
  for (py::ssize_t i = 0; i < n; ++i) result[i] = std::cos(angle[i]);
}

}  // namespace

void bind_numbers(py::module_& m) {
  m.def("power", &power, py::arg("base"), py::arg("exponent"), py::arg("out"));
  m.def("cosine", &cosine, py::arg("x"), py::arg("out"));
}

}  // namespace popgrad::bindings
