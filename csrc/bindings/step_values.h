// What every binding of a step is given: which rule, its fields, and what surrounds it.
#pragma once

#include <tuple>

#include "../api.h"
#include "arrays.h"

namespace popgrad::bindings {

inline const StepRule& rule_at(int index) {
  if (index >= kernels().step_count || index < -1 - most_states) throw py::index_error("[_core.step] no such rule");
  return index >= 0 ? kernels().steps[index] : kernels().plain[-1 - index];
}

struct StepValues {
  double field[most_fields] = {};
  StepExtras extras{};
  bool has_extras;

  StepValues(const py::tuple& fields, const py::object& around) : has_extras(!around.is_none()) {
    if (fields.size() > most_fields) throw py::value_error("[_core.step] too many fields");
    for (size_t k = 0; k < fields.size(); ++k) {
      field[k] = PyFloat_AsDouble(PyTuple_GET_ITEM(fields.ptr(), py::ssize_t(k)));
      if (field[k] == -1 && PyErr_Occurred()) throw py::error_already_set();
    }
    if (!has_extras) return;
    const auto [scale, clip, l2, decay, l1, mix] =
        around.cast<std::tuple<double, double, double, double, double, double>>();
    extras = {scale, clip, l2, decay, l1, mix};
  }
};

}  // namespace popgrad::bindings
