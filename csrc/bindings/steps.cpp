// StepRule: name, states, sums, kept, whole, positive, fields; see StepRule in table.h. positive is None if the states
//   cannot be stored in 8 bits.
// step_rules(): {name: StepRule}    plain_rules(): (StepRule, ...), rule k with k states and minimal arithmetic
// StepExtras(scale, clip, l2, decay, l1, mix, clip_norm, skip_nonfinite, max_norm, noise, noise_seed):
//   options that act around a rule; see StepExtras in table.h.
// StepPlan(rule, fields, extras): one step; fields: {name: number}, exactly the fields of the rule
//
// step(plan, w, g, state, t): one update of a flat vector, in place, without the GIL. False if the extras skipped it.
//   w, g: (n,) float32 or float64
//   state: an object with these attributes, such as popgrad.optim.State
//     slots: (states, n) of the type of w, or of uint16 or uint8 (packed, float32 only)
//     average: (n,) or None; needs extras    scales: (states, sum over layers of ceil(size / 256)) float32, with uint8
//     layers: (L, 4) int64: sizes with sum n, whether a rule with sums adapts the layer, the number of its plan or -1
//       if it takes no step, and the inputs of a unit if it is a matrix whose rows max_norm limits, or 0. None: one
//       layer, except for rules with sums.    kept: (L, kept) float64, for rules with sums
//   t: seeds the stochastic rounding and the noise
// step_groups([plan, ...], w, g, state, t): the same with a plan for each number in the layers, all of the same rule
// sum_squares(x): summed in an order that does not depend on the number of threads.
#include <pybind11/stl.h>

#include <limits>
#include <string>
#include <vector>

#include "arrays.h"
#include "module.h"
#include "release.h"
#include "step_arrays.h"
#include "step_plan.h"

namespace popgrad::bindings {

namespace {

bool step_with(const StepRule& rule, const Plan* plans, size_t count, const py::object& w, const py::object& g,
               const py::object& state, uint32_t t) {
  return with_type("w", w, [&](auto type) {
    StepArrays<decltype(type)> arrays(rule, w, g, state);
    arrays.prepare(t, plans, count);
    const Released release;
    return step(rule, arrays.tensors(), arrays.count());
  });
}

bool step_one(const StepPlan& plan, const py::object& w, const py::object& g, const py::object& state, uint32_t t) {
  const Plan view = plan.view();
  return step_with(plan.rule(), &view, 1, w, g, state, t);
}

bool step_several(const std::vector<const StepPlan*>& plans, const py::object& w, const py::object& g,
                  const py::object& state, uint32_t t) {
  std::vector<Plan> views;
  for (const StepPlan* plan : plans) {
    views.push_back(plan->view());
    if (&plan->rule() != &plans[0]->rule()) throw py::value_error("[_core.step] plans must have the same rule");
  }
  if (views.empty()) throw py::value_error("[_core.step] needs a plan");
  return step_with(plans[0]->rule(), views.data(), views.size(), w, g, state, t);
}

// Created at the first call, not at import, since the call selects the instruction set. Never freed: plans point to it.
const std::vector<NamedRule>& named(const StepRule* first, int count) {
  auto* const rules = new std::vector<NamedRule>;
  for (int k = 0; k < count; ++k) rules->emplace_back(first[k]);
  return *rules;
}

py::dict step_rules() {
  static const std::vector<NamedRule>& all = named(kernels().steps, kernels().step_count);
  py::dict rules;
  for (const NamedRule& each : all) rules[each.rule->name] = py::cast(&each, py::return_value_policy::reference);
  return rules;
}

py::tuple plain_rules() {
  static const std::vector<NamedRule>& all = named(kernels().plain, most_states + 1);
  py::tuple rules(all.size());
  for (size_t k = 0; k < all.size(); ++k) rules[k] = py::cast(&all[k], py::return_value_policy::reference);
  return rules;
}

py::dict fields_of(const StepPlan& plan) {
  py::dict fields;
  for (size_t k = 0; k < plan.named.fields.size(); ++k) fields[plan.named.fields[k]] = plan.field[k];
  return fields;
}

void bind_plans(py::module_& m) {
  py::class_<NamedRule>(m, "StepRule")
      .def_property_readonly("name", [](const NamedRule& r) { return r.rule->name; })
      .def_property_readonly("states", [](const NamedRule& r) { return r.rule->states; })
      .def_property_readonly("sums", [](const NamedRule& r) { return r.rule->sums; })
      .def_property_readonly("kept", [](const NamedRule& r) { return r.rule->kept; })
      .def_property_readonly("whole", [](const NamedRule& r) { return r.rule->whole; })
      .def_property_readonly("positive",
                             [](const NamedRule& r) -> py::object {
                               return r.rule->positive < 0 ? py::object(py::none()) : py::int_(r.rule->positive);
                             })
      .def_readonly("fields", &NamedRule::fields)
      .def("__repr__", [](const NamedRule& r) { return std::string("<StepRule ") + r.rule->name + ">"; });
  py::class_<StepExtras>(m, "StepExtras")
      .def(py::init([](double scale, double clip, double l2, double decay, double l1, double mix, double clip_norm,
                       bool skip_nonfinite, double max_norm, double noise, uint64_t noise_seed) {
             return StepExtras{scale, clip, l2, decay, l1, mix, clip_norm, skip_nonfinite, max_norm, noise, noise_seed};
           }),
           py::arg("scale") = 1.0, py::arg("clip") = std::numeric_limits<double>::infinity(), py::arg("l2") = 0.0,
           py::arg("decay") = 0.0, py::arg("l1") = 0.0, py::arg("mix") = 0.0,
           py::arg("clip_norm") = std::numeric_limits<double>::infinity(), py::arg("skip_nonfinite") = false,
           py::arg("max_norm") = std::numeric_limits<double>::infinity(), py::arg("noise") = 0.0,
           py::arg("noise_seed") = 0)
      .def_readonly("scale", &StepExtras::scale)
      .def_readonly("clip", &StepExtras::clip)
      .def_readonly("l2", &StepExtras::l2)
      .def_readonly("decay", &StepExtras::decay)
      .def_readonly("l1", &StepExtras::l1)
      .def_readonly("mix", &StepExtras::mix)
      .def_readonly("clip_norm", &StepExtras::clip_norm)
      .def_readonly("skip_nonfinite", &StepExtras::skip_nonfinite)
      .def_readonly("max_norm", &StepExtras::max_norm)
      .def_readonly("noise", &StepExtras::noise)
      .def_readonly("noise_seed", &StepExtras::noise_seed);
  py::class_<StepPlan>(m, "StepPlan")
      .def(py::init<const NamedRule&, const py::dict&, const py::object&>(), py::arg("rule"), py::arg("fields"),
           py::arg("extras") = py::none())
      .def_property_readonly(
          "rule", [](const StepPlan& plan) -> const NamedRule& { return plan.named; },
          py::return_value_policy::reference)
      .def_property_readonly("fields", &fields_of)
      .def_property_readonly("extras", &StepPlan::around, py::return_value_policy::copy);
}

}  // namespace

void bind_steps(py::module_& m) {
  bind_plans(m);
  m.def("step_rules", &step_rules);
  m.def("plain_rules", &plain_rules);
  m.def("step", &step_one, py::arg("plan"), py::arg("w"), py::arg("g"), py::arg("state"), py::arg("t") = 0);
  m.def("step_groups", &step_several, py::arg("plans"), py::arg("w"), py::arg("g"), py::arg("state"), py::arg("t") = 0);
  m.def(
      "sum_squares",
      [](const py::object& x) {
        return with_type("x", x, [&](auto type) {
          using T = decltype(type);
          const py::ssize_t n = length("x", x);
          const T* const values = input<T>("x", x, {n});
          const Released release;
          return sum_squares(values, size_t(n));
        });
      },
      py::arg("x"));
}

}  // namespace popgrad::bindings
