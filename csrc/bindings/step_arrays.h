// The arrays of a step: a flat vector of parameters, its gradient, and the state of an optimizer.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "../api.h"
#include "arrays.h"

namespace popgrad::bindings {

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

// The layers of a state, (L, 4) int64 or None; see popgrad.optim.State.
class Layers {
 public:
  Layers(const py::object& layers, size_t n) : n_(n) {
    if (layers.is_none()) return;
    const py::ssize_t count = length("layers", layers);
    row_ = input<int64_t>("layers", layers, {count, width});
    count_ = size_t(count);
    size_t total = 0;
    for (size_t k = 0; k < count_; ++k) {
      if (size(k) > n - total || row_[k * width] < 0) refuse_sum();
      if (columns(k) && size(k) % columns(k)) throw py::value_error("[_core.step] columns must divide a layer");
      total += size(k);
    }
    if (total != n) refuse_sum();
  }
  explicit operator bool() const { return row_; }
  size_t count() const { return count_; }
  size_t size(size_t k) const { return size_t(row_[k * width]); }
  bool adapt(size_t k) const { return row_[k * width + 1] != 0; }
  bool rests(size_t k) const { return row_[k * width + 2] < 0; }
  int plan(size_t k) const { return int(row_[k * width + 2]); }
  size_t columns(size_t k) const { return size_t(row_[k * width + 3]); }
  // The blocks of 8-bit states; each layer begins with a new one.
  size_t blocks() const {
    size_t total = row_ ? 0 : blocks_of(n_);
    for (size_t k = 0; k < count_; ++k) total += blocks_of(size(k));
    return total;
  }
  static size_t blocks_of(size_t n) { return (n + packed_block - 1) / packed_block; }

 private:
  [[noreturn]] static void refuse_sum() { throw py::value_error("[_core.step] layers must add up to the parameters"); }

  static constexpr size_t width = 4;
  size_t n_, count_ = 0;
  const int64_t* row_ = nullptr;
};

// The memory and the storage type of a flat vector's states.
template <class T>
void set_states(StepArgs<T>& args, const StepRule& rule, const Surroundings& around, const Layers& layers) {
  const py::object state = around.slots();
  const py::ssize_t states = rule.states, n = py::ssize_t(args.n);
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
    const auto blocks = py::ssize_t(layers.blocks());
    float* const first = output<float>("scales", around.scales(), {states, blocks});
    for (py::ssize_t k = 0; k < states; ++k) args.scales[k] = first + k * blocks;
  } else {
    rows(output<T>("state", state, {states, n}));
  }
}

// Moves the pointers of a tensor, which has not `n` elements yet, past them.
template <class T>
void advance(StepArgs<T>& rest, int states, size_t n) {
  const size_t width = rest.packing == Packing::bfloat16 ? 2 : rest.packing == Packing::bytes ? 1 : sizeof(T);
  rest.w += n, rest.g += n, rest.n -= n, rest.offset += n;
  if (rest.average) rest.average += n;
  for (int s = 0; s < states; ++s) {
    rest.state[s] = static_cast<char*>(rest.state[s]) + n * width;
    if (rest.packing == Packing::bytes) rest.scales[s] += Layers::blocks_of(n);
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
    const Layers layers(around.layers(), whole_.n);
    set_states(whole_, rule, around, layers);
    if (const py::object average = around.average(); !average.is_none())
      whole_.average = output<T>("average", average, {n});
    if (rule.sums && !layers) refuse("layers", "a NumPy array", "None");
    if (rule.sums && whole_.packing != Packing::none)
      throw py::value_error("[_core.step] the states of a rule by layers are not packed");
    if (layers) split(rule, layers, around);
  }

  // For step t, which seeds the random numbers, with these plans.
  void prepare(uint32_t t, const Plan* plans, size_t plan_count) {
    if (highest_ >= int(plan_count)) throw py::value_error("[_core.step] layers name a plan that is not there");
    for (size_t k = 0; k < plan_count; ++k)
      if (whole_.average && !plans[k].extras) throw py::value_error("[_core.step] an average needs extras");
    set_plans(tensors(), count(), plans, t);
  }

  StepArgs<T>* tensors() { return in_layers_ ? layers_.data() : &whole_; }
  size_t count() const { return in_layers_ ? layers_.size() : 1; }

 private:
  void split(const StepRule& rule, const Layers& layers, const Surroundings& around) {
    in_layers_ = true;
    const auto count = py::ssize_t(layers.count());
    double* const kept = rule.sums ? output<double>("kept", around.kept(), {count, rule.kept}) : nullptr;
    StepArgs<T> rest = whole_;
    for (size_t k = 0; k < layers.count(); ++k) {
      if (!layers.rests(k)) {
        StepArgs<T>& one = layers_.emplace_back(rest);
        one.n = layers.size(k);
        one.adapt = layers.adapt(k);
        one.plan = layers.plan(k);
        one.columns = layers.columns(k);
        one.kept = kept ? kept + k * size_t(rule.kept) : nullptr;
        highest_ = std::max(highest_, one.plan);
      }
      advance(rest, rule.states, layers.size(k));
    }
  }

  StepArgs<T> whole_{};
  bool in_layers_ = false;
  int highest_ = 0;
  std::vector<StepArgs<T>> layers_;  // those that take steps
};

}  // namespace popgrad::bindings
