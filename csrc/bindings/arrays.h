// The only checks of arrays: element type, shape, contiguity, writability. Nothing is ever converted: a silent
// copy would lose an in-place update.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <initializer_list>
#include <string>

namespace popgrad::bindings {

namespace py = pybind11;

// Matches any size in a shape check.
inline constexpr py::ssize_t any = -1;

inline std::string shape_text(const py::ssize_t* shape, py::ssize_t dimensions) {
  std::string text = "(";
  for (py::ssize_t d = 0; d < dimensions; ++d) {
    if (d > 0) text += ", ";
    text += shape[d] == any ? "*" : std::to_string(shape[d]);
  }
  return text + (dimensions == 1 ? ",)" : ")");
}

[[noreturn]] inline void refuse(const char* name, const std::string& expected, const std::string& got) {
  throw py::value_error(std::string("[_core] ") + name + " must be " + expected + ", got " + got);
}

template <class T>
const char* type_name() {
  if constexpr (std::is_same_v<T, float>) return "float32";
  if constexpr (std::is_same_v<T, double>) return "float64";
  if constexpr (std::is_same_v<T, int64_t>) return "int64";
  if constexpr (std::is_same_v<T, uint32_t>) return "uint32";
  if constexpr (std::is_same_v<T, uint16_t>) return "uint16";
  if constexpr (std::is_same_v<T, uint8_t>) return "uint8";
}

template <class T>
bool holds(const py::handle& object) {
  return py::isinstance<py::array_t<T>>(object);
}

// The elements of a C-contiguous array of T with this shape.
template <class T>
T* elements(const char* name, const py::handle& object, std::initializer_list<py::ssize_t> shape, bool writable) {
  if (!py::isinstance<py::array>(object)) refuse(name, "a NumPy array", std::string(py::str(py::type::of(object))));
  const auto array = py::reinterpret_borrow<py::array>(object);
  if (!holds<T>(object)) refuse(name, type_name<T>(), std::string(py::str(array.dtype())));
  bool same = array.ndim() == py::ssize_t(shape.size());
  for (size_t d = 0; same && d < shape.size(); ++d)
    same = shape.begin()[d] == any || shape.begin()[d] == array.shape(py::ssize_t(d));
  if (!same)
    refuse(name, "of shape " + shape_text(shape.begin(), py::ssize_t(shape.size())),
           shape_text(array.shape(), array.ndim()));
  if (!(array.flags() & py::array::c_style)) refuse(name, "C-contiguous", "strides");
  if (!(array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_))
    refuse(name, "aligned to its elements", "one that is not");
  if (writable && !array.writeable()) refuse(name, "writable", "a read-only array");
  return static_cast<T*>(const_cast<void*>(array.data()));
}

template <class T>
const T* input(const char* name, const py::handle& object, std::initializer_list<py::ssize_t> shape) {
  return elements<T>(name, object, shape, false);
}

template <class T>
T* output(const char* name, const py::handle& object, std::initializer_list<py::ssize_t> shape) {
  return elements<T>(name, object, shape, true);
}

template <class T>
const T* optional_input(const char* name, const py::handle& object, std::initializer_list<py::ssize_t> shape) {
  return object.is_none() ? nullptr : input<T>(name, object, shape);
}

inline py::ssize_t length(const char* name, const py::handle& object, py::ssize_t dimension = 0) {
  if (!py::isinstance<py::array>(object)) refuse(name, "a NumPy array", std::string(py::str(py::type::of(object))));
  const auto array = py::reinterpret_borrow<py::array>(object);
  if (array.ndim() <= dimension) refuse(name, "an array of more dimensions", std::to_string(array.ndim()));
  return array.shape(dimension);
}

// Calls f(T{}) with the element type of `object`, which is float32 or float64.
template <class F>
auto with_type(const char* name, const py::handle& object, const F& f) {
  if (holds<float>(object)) return f(float{});
  if (holds<double>(object)) return f(double{});
  if (!py::isinstance<py::array>(object)) refuse(name, "a NumPy array", std::string(py::str(py::type::of(object))));
  refuse(name, "float32 or float64", std::string(py::str(py::reinterpret_borrow<py::array>(object).dtype())));
}

}  // namespace popgrad::bindings
