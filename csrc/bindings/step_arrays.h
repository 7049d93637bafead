// The arrays of a step: a flat vector of parameters, its gradient, and the state of an optimizer.
#pragma once

#include <string>
#include <vector>

#include "../api.h"
#include "arrays.h"

namespace popgrad::bindings {

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
  const py::object state_;
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

// The checked arguments of popgrad::step, apart from the plan. The arrays must outlive the object.
template <class T>
class StepArrays {
 public:
  StepArrays(const StepRule& rule, const py::object& w, const py::object& g, const py::object& state) {
    const Surroundings around(state);
    const py::ssize_t n = length("w", w);
    whole_.w = output<T>("w", w, {n});
    whole_.g = input<T>("g", g, {n});
    whole_.n = size_t(n);
    whole_.adapt = true;
    set_states(whole_, rule, around, n);
    if (const py::object average = around.average(); !average.is_none())
      whole_.average = output<T>("average", average, {n});
    if (rule.sums == 0) return;
    if (whole_.packing != Packing::none)
      throw py::value_error("[_core.step] the states of a rule by layers are not packed");
    layers_.push_back(whole_);
    split(layers_, rule, around.layers(), around.kept());
  }

  // For step t, which seeds the stochastic rounding, with these extras or null.
  void prepare(uint32_t t, const StepExtras* extras) {
    if (whole_.average && !extras) throw py::value_error("[_core.step] an average needs extras");
    for (size_t k = 0; k < count(); ++k) {
      tensors()[k].noise = t * 0x85EBCA6Bu;
      tensors()[k].extras = extras;
    }
  }

  StepArgs<T>* tensors() { return layers_.empty() ? &whole_ : layers_.data(); }
  size_t count() const { return layers_.empty() ? 1 : layers_.size(); }

 private:
  StepArgs<T> whole_{};
  std::vector<StepArgs<T>> layers_;  // of a rule with sums
};

}  // namespace popgrad::bindings
