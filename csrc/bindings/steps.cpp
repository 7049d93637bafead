// step_rules(): {name: (index, states, field names)}
// step(rule, fields, w, g, state, extras=None): one update of all n parameters, in place, without the GIL.
//   extras: (scale, clip, l2, keep, l1), see table.h. sum_squares(x): in an order that does not depend on threads.
//   w, g: (n,)   state: (states, n)   all float32 or all float64, C-contiguous, never converted
#include <tuple>

#include "../api.h"
#include "arrays.h"
#include "module.h"

namespace popgrad::bindings {

namespace {

constexpr int most_fields = 32;

void step_bound(int index, const py::tuple& fields, const py::object& w, const py::object& g, const py::object& state,
                const py::object& extras) {
  if (index < 0 || index >= kernels().step_count) throw py::index_error("[_core.step] no such rule");
  const StepRule& rule = kernels().steps[index];
  double values[most_fields];
  const size_t count = fields.size();
  if (count > most_fields) throw py::value_error("[_core.step] too many fields");
  for (size_t k = 0; k < count; ++k) {
    values[k] = PyFloat_AsDouble(PyTuple_GET_ITEM(fields.ptr(), py::ssize_t(k)));
    if (values[k] == -1 && PyErr_Occurred()) throw py::error_already_set();
  }
  StepExtras around{};
  if (!extras.is_none()) {
    const auto [scale, clip, l2, keep, l1] = extras.cast<std::tuple<double, double, double, double, double>>();
    around = {scale, clip, l2, keep, l1};
  }
  with_type("w", w, [&](auto type) {
    using T = decltype(type);
    const py::ssize_t n = length("w", w);
    const StepArgs<T> args{output<T>("w", w, {n}), input<T>("g", g, {n}), output<T>("state", state, {rule.states, n}),
                           size_t(n), extras.is_none() ? nullptr : &around};
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
  m.def("step", &step_bound, py::arg("rule"), py::arg("fields"), py::arg("w"), py::arg("g"), py::arg("state"),
        py::arg("extras") = py::none());
  m.def(
      "sum_squares",
      [](const py::object& x) {
        return with_type("x", x, [&](auto type) {
          using T = decltype(type);
          const py::ssize_t n = length("x", x);
          const T* const values = input<T>("x", x, {n});
          const py::gil_scoped_release release;
          return sum_squares(values, size_t(n));
        });
      },
      py::arg("x"));
}

}  // namespace popgrad::bindings
