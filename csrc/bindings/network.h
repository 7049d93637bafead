// A multilayer perceptron behind checked Python arguments.
//   score: (name, setting), see Scoring in table.h
//   X: (rows, inputs)   y: (rows, y_width), labels as whole numbers   all float32 or all float64
#pragma once

#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "../api.h"
#include "arrays.h"
#include "perturbations.h"
#include "release.h"

namespace popgrad::bindings {

struct AnyPacked {
  std::unique_ptr<PackedData<float>> f32;
  std::unique_ptr<PackedData<double>> f64;
  int64_t inputs, y_width, samples;
};

using NamedScore = std::pair<std::string, double>;

class Network {
 public:
  Network(const std::vector<int64_t>& sizes, const std::string& activation, const std::vector<double>& dropout) {
    if (sizes.size() < 2) throw py::value_error("[_core.Network] expected at least two sizes");
    for (const int64_t size : sizes)
      if (size < 1 || size > int64_t(1) << 24) throw py::value_error("[_core.Network] a size is not in [1, 2^24]");
    const int hidden = activation_index(activation);
    if (!dropout.empty() && dropout.size() + 2 != sizes.size())
      throw py::value_error("[_core.Network] expected one rate of dropout per hidden layer");
    for (const double rate : dropout)
      if (!(rate >= 0 && rate < 1)) throw py::value_error("[_core.Network] a rate of dropout is not in [0, 1)");
    layers_ = dense_layers(sizes, hidden, dropout);
    differentiable_ = kernels().activations[hidden].differentiable;
  }

  Shape shape() const { return {layers_.data(), int(layers_.size())}; }
  int64_t inputs() const { return layers_.front().inputs; }
  int64_t outputs() const { return layers_.back().outputs; }
  int64_t n() const { return parameter_count(shape()); }

  AnyPacked pack(const py::object& X, const py::object& y, const py::object& weight, const py::object& rows,
                 bool bfloat16) const {
    return with_type("X", X, [&](auto type) {
      using T = decltype(type);
      check_bfloat16<T>("pack", bfloat16);
      const Batch<T> batch = batch_of<T>(X, y, weight, rows);
      AnyPacked packed{nullptr, nullptr, batch.inputs, batch.y_width, batch.samples};
      if constexpr (sizeof(T) == sizeof(float)) {
        const Interruptible release;
        packed.f32 = std::make_unique<PackedData<T>>(bfloat16 ? popgrad::pack_bfloat16(batch) : popgrad::pack(batch));
      } else {
        const Interruptible release;
        packed.f64 = std::make_unique<PackedData<T>>(popgrad::pack(batch));
      }
      return packed;
    });
  }

  void evaluate(const NamedScore& score, const py::object& population, const AnyPacked& packed,
                const py::object& out) const {
    const Scoring index = scoring(score);
    check_targets(index, packed.y_width);
    if (packed.inputs != inputs()) throw py::value_error("[_core.evaluate] packed for other inputs");
    with_type("population", population, [&](auto type) {
      using T = decltype(type);
      const py::ssize_t popsize = length("population", population);
      const T* const p = input<T>("population", population, {popsize, n()});
      double* const o = output<double>("out", out, {popsize});
      const PackedData<T>& data = data_of<T>(packed);
      const Interruptible release;
      popgrad::evaluate(shape(), index, p, size_t(popsize), data, o);
    });
  }

  py::list measure(const std::vector<NamedScore>& scores, const std::vector<const AnyPacked*>& packed,
                   const py::object& w, const py::object& outputs) const {
    if (scores.empty() || scores.size() != packed.size())
      throw py::value_error("[_core.measure] expected packed data for each score");
    std::vector<Scoring> indices;
    for (size_t k = 0; k < scores.size(); ++k) {
      indices.push_back(scoring(scores[k]));
      check_targets(indices[k], packed[k]->y_width);
      if (packed[k]->inputs != inputs() || packed[k]->samples != packed[0]->samples)
        throw py::value_error("[_core.measure] packed for other inputs or samples");
      if (packed[k]->f32 && packed[k]->f32->view.words)
        throw py::value_error("[_core.measure] data in bfloat16 are for evaluate");
    }
    std::vector<double> means(scores.size());
    with_type("w", w, [&](auto type) {
      using T = decltype(type);
      const T* const parameters = input<T>("w", w, {n()});
      T* const o = outputs.is_none() ? nullptr : output<T>("outputs", outputs, {packed[0]->samples, this->outputs()});
      std::vector<const PackedData<T>*> data;
      for (const AnyPacked* one : packed) data.push_back(&data_of<T>(*one));
      const Interruptible release;
      popgrad::measure(shape(), indices, data, parameters, means.data(), o);
    });
    py::list all;
    for (const double mean : means) all.append(mean);
    return all;
  }

  void evaluate_noise(const NamedScore& score, const Noise& noise, const py::object& center, const AnyPacked& packed,
                      const py::object& out) const {
    const Scoring index = scoring(score);
    check_targets(index, packed.y_width);
    if (packed.inputs != inputs()) throw py::value_error("[_core.evaluate] packed for other inputs");
    if (noise.n() != n() || (noise.rank > 0 && !fits(noise)))
      throw py::value_error("[_core.evaluate] the noise has other shapes than the network");
    if (noise.rank > 0 && packed.f32 && packed.f32->view.words)
      throw py::value_error("[_core.evaluate] noise of low rank is not evaluated in bfloat16");
    with_type("center", center, [&](auto type) {
      using T = decltype(type);
      const T* const c = input<T>("center", center, {n()});
      double* const o = output<double>("out", out, {py::ssize_t(noise.popsize)});
      const PackedData<T>& data = data_of<T>(packed);
      const Interruptible release;
      popgrad::evaluate(shape(), index, noise.around(c), data, o);
    });
  }

  void forward(const py::object& population, const py::object& X, const py::object& out, bool bfloat16) const {
    with_type("population", population, [&](auto type) {
      using T = decltype(type);
      check_bfloat16<T>("forward", bfloat16);
      const py::ssize_t samples = length("X", X), popsize = length("population", population);
      const T* const p = input<T>("population", population, {popsize, n()});
      const Batch<T> batch{input<T>("X", X, {samples, inputs()}), nullptr, nullptr, nullptr, samples, inputs(), 0};
      T* const o = output<T>("out", out, {popsize, samples, outputs()});
      if constexpr (sizeof(T) == sizeof(float)) {
        const Interruptible release;
        if (bfloat16)
          forward_bfloat16(shape(), p, size_t(popsize), batch, o);
        else
          popgrad::forward(shape(), p, size_t(popsize), batch, o);
      } else {
        const Interruptible release;
        popgrad::forward(shape(), p, size_t(popsize), batch, o);
      }
    });
  }

  // (mean loss, mean metric, sum of weights)
  py::tuple gradient(const NamedScore& score, const py::object& w, const py::object& X, const py::object& y,
                     const py::object& weight, const py::object& rows, const py::object& out, double noise,
                     double mixup, uint64_t seed, uint32_t step, const std::optional<NamedScore>& metric,
                     bool bfloat16) const {
    const Scoring index = loss_of("gradient", score), second = metric_of(index, metric);
    const Seen seen = with_type("w", w, [&](auto type) {
      using T = decltype(type);
      const T* const parameters = input<T>("w", w, {n()});
      T* const o = output<T>("out", out, {n()});
      const Batch<T> batch = batch_of<T>(X, y, weight, rows);
      check_targets(index, batch.y_width);
      check_bfloat16<T>("gradient", bfloat16);
      const Randomness random{noise, mixup, seed, step};
      const Interruptible release;
      if constexpr (sizeof(T) == sizeof(float))
        if (bfloat16) return gradient_bfloat16(shape(), index, second, parameters, batch, random, o);
      return popgrad::gradient(shape(), index, second, parameters, batch, random, o);
    });
    return py::make_tuple(seen.loss, second.index < 0 ? std::numeric_limits<double>::quiet_NaN() : seen.metric,
                          seen.weight);
  }

  // The samples, with the checks of shapes and rows.
  template <class T>
  Batch<T> batch_of(const py::object& X, const py::object& y, const py::object& weight, const py::object& rows) const {
    const py::ssize_t have = length("X", X);
    Batch<T> batch{input<T>("X", X, {have, inputs()}),
                   input<T>("y", y, {have, any}),
                   optional_input<T>("weight", weight, {have}),
                   nullptr,
                   have,
                   inputs(),
                   length("y", y, 1)};
    if (!rows.is_none()) {
      batch.samples = length("rows", rows);
      batch.rows = input<int64_t>("rows", rows, {any});
      for (int64_t i = 0; i < batch.samples; ++i)
        if (batch.rows[i] < 0 || batch.rows[i] >= have) throw py::index_error("[_core.Network] row out of range");
    }
    if (batch.samples < 1) throw py::value_error("[_core.Network] no samples");
    return batch;
  }

  // A loss that has a gradient in this network.
  Scoring loss_of(const std::string& operation, const NamedScore& named) const {
    const Scoring loss = scoring(named);
    if (!kernels().scores[loss.index].differentiable || !differentiable_)
      throw py::value_error("[_core." + operation + "] this network or loss has no gradient");
    return loss;
  }

  // A metric that is summed along with a loss, or -1 without one.
  static Scoring metric_of(Scoring loss, const std::optional<NamedScore>& named) {
    if (!named) return -1;
    const Scoring metric = scoring(*named);
    if (kernels().scores[metric.index].labels != kernels().scores[loss.index].labels)
      throw py::value_error("[_core.Network] the metric has other targets than the loss");
    return metric;
  }

  template <class T>
  static void check_bfloat16(const std::string& operation, bool wanted) {
    if (wanted && !bfloat16_kernels())
      throw py::value_error("[_core." + operation + "] no instructions for bfloat16 are in use");
    if (wanted && sizeof(T) != sizeof(float))
      throw py::type_error("[_core." + operation + "] bfloat16 needs float32 data");
  }

  void check_targets(Scoring score, int64_t y_width) const {
    const int64_t wanted = kernels().scores[score.index].labels ? 1 : outputs();
    if (y_width != wanted)
      throw py::value_error("[_core.Network] y must have " + std::to_string(wanted) + " columns, got " +
                            std::to_string(y_width));
  }

 private:
  static int activation_index(const std::string& name) {
    for (int k = 0; k < kernels().activation_count; ++k)
      if (name == kernels().activations[k].name) return k;
    throw py::value_error("[_core.Network] unknown activation " + name);
  }

  static Scoring scoring(const NamedScore& named) {
    for (int k = 0; k < kernels().score_count; ++k)
      if (named.first == kernels().scores[k].name) return {k, named.second};
    throw py::value_error("[_core.Network] unknown score " + named.first);
  }

  // Whether the parts are a weight and a bias for each layer.
  bool fits(const Noise& noise) const {
    bool same = noise.parts.size() == 2 * layers_.size();
    for (size_t l = 0; same && l < layers_.size(); ++l) {
      const NoisePart &weight = noise.parts[2 * l], &bias = noise.parts[2 * l + 1];
      same = weight.rows == layers_[l].outputs && weight.columns == layers_[l].inputs && bias.rows == 0 &&
             bias.columns == layers_[l].outputs;
    }
    return same;
  }

  template <class T>
  static const PackedData<T>& data_of(const AnyPacked& packed) {
    const PackedData<T>* data;
    if constexpr (sizeof(T) == sizeof(float))
      data = packed.f32.get();
    else
      data = packed.f64.get();
    if (!data) throw py::value_error("[_core.evaluate] population and packed data differ in type");
    return *data;
  }

  std::vector<Layer> layers_;
  bool differentiable_;
};

}  // namespace popgrad::bindings
