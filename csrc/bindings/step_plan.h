// The arguments of every binding of a step: a rule with the names of its fields, and a plan of one step.
#pragma once

#include <memory>
#include <string>

#include "../api.h"
#include "arrays.h"

namespace popgrad::bindings {

// A rule and the names of its fields, as interned Python strings. It is never freed, since plans point to it.
struct NamedRule {
  const StepRule* rule;
  py::tuple fields;

  explicit NamedRule(const StepRule& rule) : rule(&rule) {
    for (const py::handle word : py::str(rule.fields).attr("split")()) {
      PyObject* name = word.inc_ref().ptr();
      PyUnicode_InternInPlace(&name);
      fields = fields + py::make_tuple(py::reinterpret_steal<py::object>(name));
    }
  }
};

// The rule, the values of its fields, and the options around it: all arguments of a step except the arrays.
struct StepPlan {
  const NamedRule& named;
  double field[most_fields] = {};
  bool has_extras;
  StepExtras extras;

  // `around` is a StepExtras or None. If it were a pointer, pybind11 would try another overload for every None.
  StepPlan(const NamedRule& rule, const py::dict& fields, const py::object& around)
      : named(rule), has_extras(!around.is_none()), extras(has_extras ? checked(around) : StepExtras{}) {
    const size_t count = rule.fields.size();
    for (size_t k = 0; k < count; ++k) {
      PyObject* const name = PyTuple_GET_ITEM(rule.fields.ptr(), py::ssize_t(k));
      PyObject* const value = PyDict_GetItemWithError(fields.ptr(), name);
      if (!value) refuse_fields(fields);
      field[k] = PyFloat_AsDouble(value);
      if (field[k] == -1 && PyErr_Occurred()) throw py::error_already_set();
    }
    if (fields.size() != count) refuse_fields(fields);
  }

  const StepRule& rule() const { return *named.rule; }
  const StepExtras* around() const { return has_extras ? &extras : nullptr; }
  Plan view() const { return {field, around()}; }

 private:
  static const StepExtras& checked(const py::object& around) {
    if (!py::isinstance<StepExtras>(around)) throw py::type_error("[_core.StepPlan] extras must be StepExtras or None");
    return around.cast<const StepExtras&>();
  }
  [[noreturn]] void refuse_fields(const py::dict& got) const {
    if (PyErr_Occurred()) throw py::error_already_set();
    throw py::value_error(std::string("[_core.StepPlan] the fields of ") + rule().name + " are " +
                          std::string(py::str(named.fields)) + ", got " + std::string(py::str(py::tuple(got))));
  }
};

}  // namespace popgrad::bindings
