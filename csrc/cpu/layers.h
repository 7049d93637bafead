// The layers of a network, each with its forward and its backward, for one block of samples side by side in lanes.
//
// A layer kind is a struct like Dense: the number of its parameters, forward, and backward. Forward writes what the
// tape keeps; backward turns the derivative by the layer's outputs into the derivatives by its parameters and its
// inputs.
#pragma once

#include "../kernels/activations.h"
#include "../kernels/random.h"
#include "../streams.h"
#include "blocks.h"

namespace popgrad::POPGRAD_TARGET {
namespace {

template <template <class> class F, class T>
void activate(const T* z, T* a, int64_t count) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) a[i] = F<T>::value(z[i]);
}

template <template <class> class F, class T>
void chain(const T* z, const T* a, T* delta, int64_t count) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) delta[i] *= F<T>::slope(z[i], a[i]);
}

template <class T>
struct ActivationFns {
  void (*activate)(const T*, T*, int64_t);
  void (*chain)(const T*, const T*, T*, int64_t);
};

#define X(F, name, differentiable) {activate<F, T>, chain<F, T>},
template <class T>
constexpr ActivationFns<T> activation_fns[] = {ACTIVATIONS(X)};
#undef X

// Where forward leaves what backward needs, for one layer and one block: arrays (outputs, lanes). Evaluation needs no
// tape: there all three are the same array.
template <class T>
struct Taped {
  static constexpr int arrays = 3;
  T* z;    // before the activation
  T* a;    // after it
  T* out;  // after dropout: the inputs of the next layer
};

// The samples of a block. Lanes past the count are padding.
struct Samples {
  int64_t count, lanes;
};

// What backward may overwrite.
template <class T>
struct BackwardScratch {
  T* delta;  // in: the derivative by the layer's outputs (outputs, lanes), zero in lanes past the samples
  T* next;   // out: the derivative by its inputs (inputs, lanes)
  T* rows;   // the inputs, sample by sample (lanes, pad(inputs))
};

// Rows (lanes, pad(units)) from columns (units, lanes): the right-hand side of a weight gradient.
template <class T>
void to_rows(const T* columns, int64_t units, int64_t lanes, T* rows) {
  const int64_t stride = pad<T>(units);
  for (int64_t i = 0; i < units; ++i)
    for (int64_t s = 0; s < lanes; ++s) rows[s * stride + i] = columns[i * lanes + s];
  for (int64_t s = 0; s < lanes; ++s)
    for (int64_t i = units; i < stride; ++i) rows[s * stride + i] = T(0);
}

// activation(W x + b), with parameters W (outputs, inputs) and then b (outputs).
template <class T>
struct Dense {
  const Layer& layer;

  int64_t parameters() const { return (layer.inputs + 1) * layer.outputs; }

  // z = W x + b
  void affine(const T* w, const T* x, int64_t lanes, T* z) const {
    product(Product<T>{.A = w,
                       .row_stride = layer.inputs,
                       .depth_stride = 1,
                       .B = x,
                       .b_stride = lanes,
                       .C = z,
                       .c_stride = lanes,
                       .start = w + layer.inputs * layer.outputs,
                       .add = false,
                       .rows = layer.outputs,
                       .depth = layer.inputs,
                       .columns = lanes});
  }

  void activate(const T* z, int64_t lanes, T* a) const {
    if (layer.activation != no_activation) activation_fns<T>[layer.activation].activate(z, a, layer.outputs * lanes);
  }

  void forward(const T* w, const T* x, int64_t lanes, T* z, T* a) const {
    affine(w, x, lanes, z);
    activate(z, lanes, a);
  }

  // Adds the derivative by the parameters to `gradient`. Without at.next, no derivative by the inputs x is computed.
  void backward(const T* w, const T* x, const Taped<T>& tape, Samples samples, const BackwardScratch<T>& at,
                T* gradient) const {
    before_activation(tape, samples, at.delta);
    to_rows(x, layer.inputs, samples.lanes, at.rows);
    add_by_parameters(at.delta, at.rows, samples, gradient);
    if (at.next) by_inputs(w, at.delta, samples.lanes, at.next);
  }

 private:
  void before_activation(const Taped<T>& tape, Samples samples, T* delta) const {
    if (layer.activation == no_activation) return;
    const int64_t lanes = samples.lanes;
    activation_fns<T>[layer.activation].chain(tape.z, tape.a, delta, layer.outputs * lanes);
    // A sample of zeros may be infinite where no real one is, and its slope no number.
    for (int64_t o = 0; samples.count < lanes && o < layer.outputs; ++o)
      for (int64_t s = samples.count; s < lanes; ++s) delta[o * lanes + s] = T(0);
  }

  void add_by_parameters(const T* delta, const T* rows, Samples samples, T* gradient) const {
    product(Product<T>{.A = delta,
                       .row_stride = samples.lanes,
                       .depth_stride = 1,
                       .B = rows,
                       .b_stride = pad<T>(layer.inputs),
                       .C = gradient,
                       .c_stride = layer.inputs,
                       .start = nullptr,
                       .add = true,
                       .rows = layer.outputs,
                       .depth = samples.count,
                       .columns = layer.inputs});
    T* const bias = gradient + layer.inputs * layer.outputs;
    for (int64_t o = 0; o < layer.outputs; ++o) bias[o] += sum_lanes(delta + o * samples.lanes, samples.lanes);
  }

  void by_inputs(const T* w, const T* delta, int64_t lanes, T* next) const {
    product(Product<T>{.A = w,
                       .row_stride = 1,
                       .depth_stride = layer.inputs,
                       .B = delta,
                       .b_stride = lanes,
                       .C = next,
                       .c_stride = lanes,
                       .start = nullptr,
                       .add = false,
                       .rows = layer.inputs,
                       .depth = layer.outputs,
                       .columns = lanes});
  }
};

// Inverted dropout of what layer l passes on, and of the derivative by it: the mask of unit u of sample s is a function
// of (seed, step, layer, s, u) alone.
template <class T>
void drop(const Dropout& dropout, int l, int64_t first_sample, int64_t units, int64_t lanes, T* a) {
  const float rate = float(dropout.rate);
  const T keep = T(1 / (1 - dropout.rate));
  const uint32_t stream = uint32_t(Stream::DROPOUT) + uint32_t(l);
  for (int64_t u = 0; u < units; ++u)
#pragma GCC ivdep
    for (int64_t s = 0; s < lanes; ++s) {
      const Draws draws(dropout.seed, stream, dropout.step, uint32_t(first_sample + s), uint32_t(u));
      a[u * lanes + s] *= draws.uniform(0) < rate ? T(0) : keep;
    }
}

}  // namespace
}  // namespace popgrad::POPGRAD_TARGET
