// The layers of a network, each with its forward and its backward, for one block of samples side by side in lanes.
//
// A layer kind is a struct like Dense: the number of its parameters, forward, and the parts of backward, which turn the
// derivative by the layer's outputs into the derivatives by its parameters and its inputs. pass.h calls them.
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

// Units [begin, end) of a layer, or samples.
struct Range {
  int64_t begin, end;
  int64_t count() const { return end - begin; }
};

// The samples of a block. Lanes past the count are padding.
struct Samples {
  int64_t count, lanes;
};

// Values of a unit's samples before the activation, after it, and after dropout: arrays (outputs, lanes) that backward
// needs. What does not differ is the same array.
template <class T>
struct Taped {
  T *z, *a, *out;
};

// The stride of an array of rows with this many numbers: whole vectors, an odd number of them, so that equal places of
// the rows are not all in the same set of a cache.
template <class T>
constexpr int64_t row_stride(int64_t count) {
  constexpr int64_t width = Vectors<T>::width;
  return ((count + width - 1) / width | 1) * width;
}

// to[c * to_stride + r] = from[r * from_stride + c] for rows x columns numbers.
template <class T>
void transpose(const T* from, int64_t from_stride, int64_t rows, int64_t columns, T* to, int64_t to_stride) {
  constexpr int64_t width = Vectors<T>::width;
  int64_t r = 0;
  for (; r + width <= rows; r += width) {
    int64_t c = 0;
    for (; c + width <= columns; c += width)
      transpose_tile(from + r * from_stride + c, from_stride, to + c * to_stride + r, to_stride);
    for (; c < columns; ++c)
      for (int64_t k = r; k < r + width; ++k) to[c * to_stride + k] = from[k * from_stride + c];
  }
  for (; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) to[c * to_stride + r] = from[r * from_stride + c];
}

// activation(W x + b), with parameters W (outputs, inputs) and then b (outputs). Every operation is done for a range of
// units, so that threads can share a layer; the sums do not depend on the range.
template <class T>
struct Dense {
  const Layer& layer;

  int64_t parameters() const { return (layer.inputs + 1) * layer.outputs; }

  // z = W x + b
  void affine(const T* w, const T* x, int64_t lanes, Range outputs, T* z) const {
    product(Product<T>{.A = w + outputs.begin * layer.inputs,
                       .row_stride = layer.inputs,
                       .depth_stride = 1,
                       .B = x,
                       .b_stride = lanes,
                       .C = z + outputs.begin * lanes,
                       .c_stride = lanes,
                       .start = w + layer.inputs * layer.outputs + outputs.begin,
                       .add = false,
                       .rows = outputs.count(),
                       .depth = layer.inputs,
                       .columns = lanes});
  }

  void activate(const T* z, int64_t lanes, Range outputs, T* a) const {
    if (layer.activation == no_activation) return;
    const int64_t first = outputs.begin * lanes;
    activation_fns<T>[layer.activation].activate(z + first, a + first, outputs.count() * lanes);
  }

  void forward(const T* w, const T* x, int64_t lanes, Range outputs, T* z, T* a) const {
    affine(w, x, lanes, outputs, z);
    activate(z, lanes, outputs, a);
  }
  void forward(const T* w, const T* x, int64_t lanes, T* z) const { forward(w, x, lanes, {0, layer.outputs}, z, z); }

  // Turns the derivative by the layer's outputs into the derivative by z; zero in lanes past the samples.
  void before_activation(const Taped<T>& tape, Samples samples, Range outputs, T* delta) const {
    const int64_t lanes = samples.lanes, first = outputs.begin * lanes;
    if (layer.activation != no_activation)
      activation_fns<T>[layer.activation].chain(tape.z + first, tape.a + first, delta + first, outputs.count() * lanes);
    // A sample of zeros may be infinite where no real one is, and its slope no number.
    for (int64_t o = outputs.begin; samples.count < lanes && o < outputs.end; ++o)
      for (int64_t s = samples.count; s < lanes; ++s) delta[o * lanes + s] = T(0);
  }

  // The gradient by W, or its sum with what `gradient` holds: some rows and columns, from delta (outputs, lanes), the
  // derivative by z, and the inputs sample by sample (samples, row_stride(inputs)).
  void by_weights(const T* delta, const T* rows, Samples samples, Range outputs, Range inputs, bool add,
                  T* gradient) const {
    product(Product<T>{.A = delta + outputs.begin * samples.lanes,
                       .row_stride = samples.lanes,
                       .depth_stride = 1,
                       .B = rows + inputs.begin,
                       .b_stride = row_stride<T>(layer.inputs),
                       .C = gradient + outputs.begin * layer.inputs + inputs.begin,
                       .c_stride = layer.inputs,
                       .start = nullptr,
                       .add = add,
                       .rows = outputs.count(),
                       .depth = samples.count,
                       .columns = inputs.count()});
  }

  void by_biases(const T* delta, Samples samples, Range outputs, bool add, T* gradient) const {
    T* const bias = gradient + layer.inputs * layer.outputs;
    for (int64_t o = outputs.begin; o < outputs.end; ++o)
      bias[o] = sum_lanes(delta + o * samples.lanes, samples.lanes) + (add ? bias[o] : T(0));
  }

  // Columns of W side by side (outputs, columns): input c of output o is at weights[o * stride + c]. W itself, or a
  // copy in `panel`: walking down a wide matrix touches a page of memory for every row.
  struct Columns {
    const T* weights;
    int64_t stride;
  };
  int64_t panel_size(int64_t inputs) const {
    return layer.inputs * int64_t(sizeof(T)) > 1024 ? inputs * layer.outputs : 0;
  }
  Columns columns(const T* w, Range inputs, T* panel) const {
    const int64_t count = inputs.count();
    if (!panel_size(count)) return {w + inputs.begin, layer.inputs};
    for (int64_t o = 0; o < layer.outputs; ++o)
      for (int64_t i = 0; i < count; ++i) panel[o * count + i] = w[o * layer.inputs + inputs.begin + i];
    return {panel, count};
  }

  // The derivative by some of the inputs.
  void by_inputs(const Columns& w, const T* delta, int64_t lanes, Range inputs, T* next) const {
    product(Product<T>{.A = w.weights,
                       .row_stride = 1,
                       .depth_stride = w.stride,
                       .B = delta,
                       .b_stride = lanes,
                       .C = next + inputs.begin * lanes,
                       .c_stride = lanes,
                       .start = nullptr,
                       .add = false,
                       .rows = inputs.count(),
                       .depth = layer.outputs,
                       .columns = lanes});
  }
};

// Inverted dropout of what layer l passes on, and of the derivative by it: the mask of unit u of sample s is a function
// of (seed, step, layer, s, u) alone.
template <class T>
void drop(const Randomness& random, double probability, int l, int64_t first_sample, Range units, int64_t lanes, T* a) {
  const float rate = float(probability);
  const T keep = T(1 / (1 - probability));
  const uint32_t stream = uint32_t(Stream::DROPOUT) + uint32_t(l);
  for (int64_t u = units.begin; u < units.end; ++u)
#pragma GCC ivdep
    for (int64_t s = 0; s < lanes; ++s) {
      const Draws draws(random.seed, stream, random.step, uint32_t(first_sample + s), uint32_t(u));
      a[u * lanes + s] *= draws.uniform(0) < rate ? T(0) : keep;
    }
}

// Adds noise to the inputs of a sample, a function of (seed, step, sample, input) alone, in the layout of random.h.
template <class T>
void add_noise(const Randomness& random, int64_t sample, int64_t inputs, T* x) {
  for (int64_t first = 0; first < inputs; first += noise_block) {
    const int64_t count = inputs - first < noise_block ? inputs - first : noise_block;
    const uint32_t lanes = uint32_t(count < noise_lanes ? count : noise_lanes), index = uint32_t(first / 4);
    alignas(64) float z[noise_block];
#pragma GCC ivdep
    for (uint32_t lane = 0; lane < lanes; ++lane) {
      const Draws draws(random.seed, uint32_t(Stream::NOISE), random.step, uint32_t(sample), index + lane);
      const Draws::Pair low = draws.normals(0), high = draws.normals(1);
      z[lane] = low.first, z[lane + noise_lanes] = low.second;
      z[lane + 2 * noise_lanes] = high.first, z[lane + 3 * noise_lanes] = high.second;
    }
    for (int64_t i = 0; i < count; ++i) x[first + i] += T(random.noise) * T(z[i]);
  }
}

}  // namespace
}  // namespace popgrad::POPGRAD_TARGET
