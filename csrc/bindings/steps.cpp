// step_rules(): {name: (index, states, field names)}
// step(rule, fields, w, g, state): one update of all n parameters, in place, without the GIL.
//   w, g: (n,)   state: (states, n)   all float32 or all float64, C-contiguous, never converted
#include "../api.h"
#include "arrays.h"
#include "module.h"

namespace popgrad::bindings {

namespace {

constexpr int most_fields = 32;

void step_bound(int index, const py::tuple& fields, const py::object& w, const py::object& g, const py::object& state) {
  if (index < 0 || index >= kernels().step_count) throw py::index_error("[_core.step] no such rule");
  const StepRule& rule = kernels().steps[index];
  double values[most_fields];
  const size_t count = fields.size();
  if (count > most_fields) throw py::value_error("[_core.step] too many fields");
  for (size_t k = 0; k < count; ++k) {
    values[k] = PyFloat_AsDouble(PyTuple_GET_ITEM(fields.ptr(), py::ssize_t(k)));
    if (values[k] == -1 && PyErr_Occurred()) throw py::error_already_set();
  }
  with_type("w", w, [&](auto type) {
    using T = decltype(type);
    const py::ssize_t n = length("w", w);
    const StepArgs<T> args{output<T>("w", w, {n}), input<T>("g", g, {n}), output<T>("state", state, {rule.states, n}),
                           size_t(n)};
    const py::gil_scoped_release release;
    step(rule, values, args);
  });
}

py::tuple split(const char* words) { return py::tuple(py::str(words).attr("split")()); }

}  // namespace

void bind_steps(py::module_& m) {
  m.def("step_rules", [] {
    py::dict rules;
    for (int k = 0; k < kernels().step_count; ++k) {
      const StepRule& rule = kernels().steps[k];
      rules[rule.name] = py::make_tuple(k, rule.states, split(rule.fields));
    }
    return rules;
  });
  m.def("step", &step_bound, py::arg("rule"), py::arg("fields"), py::arg("w"), py::arg("g"), py::arg("state"));
}

}  // namespace popgrad::bindings
