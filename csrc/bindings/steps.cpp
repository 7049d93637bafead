// step_rules(): {name: (index, states, sums, kept, positive, field names)}, see table.h; the index -1 - k is plain[k].
// step(...): one update of a flat vector, in place, without the GIL.
//   w, g: (n,) float32 or float64    state: (states, n) of the same type, or of uint16 or uint8 (packed, float32 only)
//   extras: (scale, clip, l2, decay, l1, mix), see table.h    average: (n,), needs extras
//   scales: (states, ceil(n / 256)) float32, with uint8       layers: (L, 2) int64, lengths that add up to n and
//   whether each is adapted    kept: (L, kept) float64                t: what rounding by chance depends on
// sum_squares(x): in an order that does not depend on threads.
#include <vector>

#include "arrays.h"
#include "module.h"
#include "release.h"
#include "step_values.h"

namespace popgrad::bindings {

namespace {

// Where the states of a flat vector lie, and how they are stored.
template <class T>
void set_states(StepArgs<T>& args, const StepRule& rule, const py::object& state, const py::object& scales,
                py::ssize_t n) {
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
    float* const first = output<float>("scales", scales, {states, blocks});
    for (py::ssize_t k = 0; k < states; ++k) args.scales[k] = first + k * blocks;
  } else {
    rows(output<T>("state", state, {states, n}));
  }
}

// One tensor for each layer of a flat vector; layers do not part the work of a rule that sums over nothing.
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

void step_bound(int index, const py::tuple& fields, const py::object& w, const py::object& g, const py::object& state,
                const py::object& extras, const py::object& average, const py::object& scales, const py::object& layers,
                const py::object& kept, uint32_t t) {
  const StepRule& rule = rule_at(index);
  const StepValues values(fields, extras);
  with_type("w", w, [&](auto type) {
    using T = decltype(type);
    const py::ssize_t n = length("w", w);
    StepArgs<T> args{};
    args.w = output<T>("w", w, {n});
    args.g = input<T>("g", g, {n});
    args.n = size_t(n);
    args.adapt = true;
    args.noise = t * 0x85EBCA6Bu;
    args.extras = values.has_extras ? &values.extras : nullptr;
    set_states(args, rule, state, scales, n);
    if (!average.is_none()) {
      if (!args.extras) throw py::value_error("[_core.step] an average needs extras");
      args.average = output<T>("average", average, {n});
    }
    if (rule.sums == 0) {
      const Released release;
      step(rule, values.field, &args, 1);
      return;
    }
    if (args.packing != Packing::none)
      throw py::value_error("[_core.step] the states of a rule by layers are not packed");
    std::vector<StepArgs<T>> tensors{args};
    split(tensors, rule, layers, kept);
    const Released release;
    step(rule, values.field, tensors.data(), tensors.size());
  });
}

py::tuple split_words(const char* words) { return py::tuple(py::str(words).attr("split")()); }

}  // namespace

void bind_steps(py::module_& m) {
  m.def("step_rules", [] {
    py::dict rules;
    for (int k = 0; k < kernels().step_count; ++k) {
      const StepRule& rule = kernels().steps[k];
      rules[rule.name] = py::make_tuple(k, rule.states, rule.sums, rule.kept, rule.positive, split_words(rule.fields));
    }
    return rules;
  });
  m.def("step", &step_bound, py::arg("rule"), py::arg("fields"), py::arg("w"), py::arg("g"), py::arg("state"),
        py::arg("extras") = py::none(), py::arg("average") = py::none(), py::arg("scales") = py::none(),
        py::arg("layers") = py::none(), py::arg("kept") = py::none(), py::arg("t") = 0);
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
