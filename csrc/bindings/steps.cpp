// StepRule: name, states, sums, kept, positive, fields; see StepRule in table.h. positive is None if the states cannot
// be stored in 8 bits.
// step_rules(): {name: StepRule}    plain_rules(): (StepRule, ...), rule k with k states and minimal arithmetic
// StepExtras(scale, clip, l2, decay, l1, mix): options that act around a rule, see StepExtras in table.h
// StepPlan(rule, fields, extras): one step; fields: {name: number}, exactly the fields of the rule
// step(plan, w, g, state, t): one update of a flat vector, in place, without the GIL.
//   w, g: (n,) float32 or float64
//   state: an object with these attributes, such as popgrad.optim.State
//     slots: (states, n) of the type of w, or of uint16 or uint8 (packed, float32 only)
//     average: (n,) or None; needs extras             scales: (states, ceil(n / 256)) float32, with uint8
//     layers: (L, 2) int64, sizes with sum n, and whether to adapt each layer    kept: (L, kept) float64
//   t: seeds the stochastic rounding
// sum_squares(x): summed in an order that does not depend on the number of threads.
#include <limits>
#include <string>
#include <vector>

#include "arrays.h"
#include "module.h"
#include "release.h"
#include "step_plan.h"

namespace popgrad::bindings {

namespace {

// One tensor per layer of a flat vector; a rule without sums treats the vector as one tensor.
template <class T>
void split(std::vector<StepArgs<T>>& tensors, const StepRule& rule, const py::object& layers, const py::object& kept) {
  const py::ssize_t count = length("layers", layers);
  const int64_t* const layer = input<int64_t>("layers", layers, {count, 2});
  double* const own = output<double>("kept", kept, {count, rule.kept});
  StepArgs<T> rest = tensors[0];
  tensors.clear();
  for (py::ssize_t k = 0; k < count; ++k) {
    const int64_t size = layer[2 * k];
    if (size < 0 || size_t(size) > rest.n) throw py::value_error("[_core.step] layers must add up to the parameters");
    StepArgs<T> one = rest;
    one.n = size_t(size);
    one.adapt = layer[2 * k + 1] != 0;
    one.kept = own + k * rule.kept;
    tensors.push_back(one);
    rest.w += size, rest.g += size, rest.n -= size_t(size);
    if (rest.average) rest.average += size;
    for (int s = 0; s < rule.states; ++s) rest.state[s] = static_cast<T*>(rest.state[s]) + size;
  }
  if (rest.n) throw py::value_error("[_core.step] layers must add up to the parameters");
}

// The arrays of a state, read by attribute name.
class Surroundings {
 public:
  explicit Surroundings(const py::object& state) : state_(state) {}
  py::object slots() const { return read(slots_); }
  py::object average() const { return read(average_); }
  py::object scales() const { return read(scales_); }
  py::object layers() const { return read(layers_); }
  py::object kept() const { return read(kept_); }

 private:
  py::object read(PyObject* name) const {
    PyObject* const found = PyObject_GetAttr(state_.ptr(), name);
    if (!found) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(found);
  }

  static inline PyObject* const slots_ = PyUnicode_InternFromString("slots");
  static inline PyObject* const average_ = PyUnicode_InternFromString("average");
  static inline PyObject* const scales_ = PyUnicode_InternFromString("scales");
  static inline PyObject* const layers_ = PyUnicode_InternFromString("layers");
  static inline PyObject* const kept_ = PyUnicode_InternFromString("kept");
  const py::object& state_;
};

// The memory and the storage type of a flat vector's states.
template <class T>
void set_states(StepArgs<T>& args, const StepRule& rule, const Surroundings& around, py::ssize_t n) {
  const py::object state = around.slots();
  const py::ssize_t states = rule.states;
  const auto rows = [&](auto* first) {
    for (py::ssize_t k = 0; k < states; ++k) args.state[k] = first + k * n;
  };
  if (sizeof(T) == sizeof(float) && holds<uint16_t>(state)) {
    args.packing = Packing::bfloat16;
    rows(output<uint16_t>("state", state, {states, n}));
  } else if (sizeof(T) == sizeof(float) && holds<uint8_t>(state)) {
    if (rule.positive < 0) throw py::value_error("[_core.step] the states of this rule do not fit in bytes");
    args.packing = Packing::bytes;
    rows(output<uint8_t>("state", state, {states, n}));
    const auto blocks = py::ssize_t((size_t(n) + packed_block - 1) / packed_block);
    float* const first = output<float>("scales", around.scales(), {states, blocks});
    for (py::ssize_t k = 0; k < states; ++k) args.scales[k] = first + k * blocks;
  } else {
    rows(output<T>("state", state, {states, n}));
  }
}

void step_bound(const StepPlan& plan, const py::object& w, const py::object& g, const py::object& state, uint32_t t) {
  const StepRule& rule = plan.rule();
  const Surroundings around(state);
  with_type("w", w, [&](auto type) {
    using T = decltype(type);
    const py::ssize_t n = length("w", w);
    StepArgs<T> args{};
    args.w = output<T>("w", w, {n});
    args.g = input<T>("g", g, {n});
    args.n = size_t(n);
    args.adapt = true;
    args.noise = t * 0x85EBCA6Bu;
    args.extras = plan.around();
    set_states(args, rule, around, n);
    if (const py::object average = around.average(); !average.is_none()) {
      if (!args.extras) throw py::value_error("[_core.step] an average needs extras");
      args.average = output<T>("average", average, {n});
    }
    if (rule.sums == 0) {
      const Released release;
      step(rule, plan.field, &args, 1);
      return;
    }
    if (args.packing != Packing::none)
      throw py::value_error("[_core.step] the states of a rule by layers are not packed");
    std::vector<StepArgs<T>> tensors{args};
    split(tensors, rule, around.layers(), around.kept());
    const Released release;
    step(rule, plan.field, tensors.data(), tensors.size());
  });
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
      .def_property_readonly("positive",
                             [](const NamedRule& r) -> py::object {
                               return r.rule->positive < 0 ? py::object(py::none()) : py::int_(r.rule->positive);
                             })
      .def_readonly("fields", &NamedRule::fields)
      .def("__repr__", [](const NamedRule& r) { return std::string("<StepRule ") + r.rule->name + ">"; });
  py::class_<StepExtras>(m, "StepExtras")
      .def(py::init([](double scale, double clip, double l2, double decay, double l1, double mix) {
             return StepExtras{scale, clip, l2, decay, l1, mix};
           }),
           py::arg("scale") = 1.0, py::arg("clip") = std::numeric_limits<double>::infinity(), py::arg("l2") = 0.0,
           py::arg("decay") = 0.0, py::arg("l1") = 0.0, py::arg("mix") = 0.0)
      .def_readonly("scale", &StepExtras::scale)
      .def_readonly("clip", &StepExtras::clip)
      .def_readonly("l2", &StepExtras::l2)
      .def_readonly("decay", &StepExtras::decay)
      .def_readonly("l1", &StepExtras::l1)
      .def_readonly("mix", &StepExtras::mix);
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
  m.def("step", &step_bound, py::arg("plan"), py::arg("w"), py::arg("g"), py::arg("state"), py::arg("t") = 0);
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
