// Forward, backward and population sums of a multilayer perceptron. Compiled once per instruction set, with
// contraction: products and activations promise the same bits per instruction set only.
//
// Samples lie side by side, `lanes` of them to a block, so a layer with three outputs fills a vector as well
// as one with three hundred. No standard headers with inline bodies here, see ARCHITECTURE.md.
#include "../kernels/random.h"
#include "blocks.h"
#include "tables.h"

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
int64_t widest(const Shape& shape) {
  int64_t widest = 0;
  for (int l = 0; l <= shape.layers; ++l) widest = widest < shape.sizes[l] ? shape.sizes[l] : widest;
  return widest;
}

// One layer for a block: z (outputs, lanes) = W x + b, weights and bias at w.
template <class T>
void layer(const T* w, int64_t inputs, int64_t outputs, const T* x, int64_t lanes, T* z) {
  product(Product<T>{.A = w,
                     .row_stride = inputs,
                     .depth_stride = 1,
                     .B = x,
                     .b_stride = lanes,
                     .C = z,
                     .c_stride = lanes,
                     .start = w + inputs * outputs,
                     .add = false,
                     .rows = outputs,
                     .depth = inputs,
                     .columns = lanes});
}

template <class T>
void pack_weight(const Batch<T>& batch, int64_t begin, int64_t count, int64_t lanes, T* to) {
  for (int64_t s = 0; s < lanes; ++s) to[s] = s < count ? T(1) : T(0);
  if (batch.weight)
    for (int64_t s = 0; s < count; ++s) to[s] = batch.weight[batch.rows ? batch.rows[begin + s] : begin + s];
}

template <class T>
void pack(const Batch<T>& batch, int64_t block, T* X, T* y, T* weight) {
  const int64_t begin = block * block_samples, count = samples_in(batch.samples, block), lanes = pad<T>(count);
  if (X) pack_lanes(batch.X, batch.rows, batch.inputs, begin, count, lanes, X + begin * batch.inputs);
  pack_lanes(batch.y, batch.rows, batch.y_width, begin, count, lanes, y + begin * batch.y_width);
  pack_weight(batch, begin, count, lanes, weight + begin);
}

// Two layers' outputs, that take turns, and a block's inputs.
template <class T>
size_t scratch(const Shape& shape) {
  return size_t(block_samples) * size_t(2 * widest(shape) + shape.sizes[0]);
}

// Every layer's z and a, one layer with dropout, rows of one layer, two deltas.
template <class T>
size_t gradient_scratch(const Shape& shape) {
  int64_t units = 0;
  for (int l = 0; l <= shape.layers; ++l) units += shape.sizes[l];
  const int64_t wide = pad<T>(widest(shape));
  return size_t(block_samples) * size_t(3 * units + 3 * wide + shape.sizes[shape.layers] + 4);
}

// Raw outputs of one block, through two buffers that take turns: the layers from `first` on, whose inputs are x and
// whose parameters are w.
template <class T>
const T* outputs_of(const Shape& shape, int first, const T* w, const T* x, int64_t lanes, T* buffer) {
  T* turn[2] = {buffer, buffer + widest(shape) * lanes};
  for (int l = first; l < shape.layers; ++l) {
    const int64_t inputs = shape.sizes[l], outputs = shape.sizes[l + 1];
    T* const z = turn[l % 2];
    layer(w, inputs, outputs, x, lanes, z);
    if (l + 1 < shape.layers) activation_fns<T>[shape.activation].activate(z, z, outputs * lanes);
    w += (inputs + 1) * outputs;
    x = z;
  }
  return x;
}

template <class T>
double evaluate(const Shape& shape, int score, const T* w, const Packed<T>& packed, int64_t first, int64_t last,
                T* scratch) {
  double total = 0;
  for (int64_t b = first; b < last; ++b) {
    const T* const x = packed.X + b * block_samples * packed.inputs;
    total += block_sum(shape, score, outputs_of(shape, 0, w, x, lanes_of(packed, b), scratch), packed, b);
  }
  return total;
}

template <class T>
void first_layer(const Shape& shape, const T* w, const Packed<T>& packed, int64_t block, T* z) {
  layer(w, shape.sizes[0], shape.sizes[1], packed.X + block * block_samples * packed.inputs, lanes_of(packed, block),
        z);
}

template <class T>
void project(const Shape& shape, const T* right, int64_t stride, int64_t candidates, int rank, const Packed<T>& packed,
             int64_t first, int64_t last, T* out) {
  const int64_t inputs = shape.sizes[0];
  for (int64_t b = first; b < last; ++b) {
    const int64_t lanes = lanes_of(packed, b);
    for (int q = 0; q < rank; ++q, out += candidates * block_samples)
      product(Product<T>{.A = right + q * inputs,
                         .row_stride = stride,
                         .depth_stride = 1,
                         .B = packed.X + b * block_samples * inputs,
                         .b_stride = lanes,
                         .C = out,
                         .c_stride = block_samples,
                         .start = nullptr,
                         .add = false,
                         .rows = candidates,
                         .depth = inputs,
                         .columns = lanes});
  }
}

// The first layer of one block at a candidate.
template <class T>
void move_layer(const Moved<T>& moved, int64_t outputs, int64_t block, int64_t lanes, T* z) {
  const T* const start = moved.start + block * outputs * block_samples;
  const T* const projected = moved.projected + block * moved.block_stride;
  for (int64_t o = 0; o < outputs; ++o) {
    T* const row = z + o * lanes;
    const T shift = moved.bias_scale * moved.bias[o];
    for (int64_t s = 0; s < lanes; ++s) row[s] = start[o * lanes + s] + shift;
    for (int q = 0; q < moved.rank; ++q) {
      const T factor = moved.left_scale * moved.left[q * outputs + o];
      const T* const column = projected + q * moved.column_stride;
#pragma GCC ivdep
      for (int64_t s = 0; s < lanes; ++s) row[s] += factor * column[s];
    }
  }
}

template <class T>
double evaluate_moved(const Shape& shape, int score, const Moved<T>& moved, const Packed<T>& packed, int64_t first,
                      int64_t last, T* scratch) {
  const int64_t hidden = shape.sizes[1];
  double total = 0;
  for (int64_t b = first; b < last; ++b) {
    const int64_t lanes = lanes_of(packed, b);
    move_layer(moved, hidden, b - first, lanes, scratch);
    if (shape.layers > 1) activation_fns<T>[shape.activation].activate(scratch, scratch, hidden * lanes);
    total += block_sum(shape, score, outputs_of(shape, 1, moved.rest, scratch, lanes, scratch), packed, b);
  }
  return total;
}

template <class T>
void add_product(const T* A, int64_t a_stride, const T* B, int64_t b_stride, T* C, int64_t rows, int64_t depth,
                 int64_t columns) {
  product(Product<T>{.A = A,
                     .row_stride = 1,
                     .depth_stride = a_stride,
                     .B = B,
                     .b_stride = b_stride,
                     .C = C,
                     .c_stride = columns,
                     .start = nullptr,
                     .add = true,
                     .rows = rows,
                     .depth = depth,
                     .columns = columns});
}

template <class T>
void forward(const Shape& shape, const T* population, int64_t members, int64_t n, const Batch<T>& batch, int64_t block,
             T* out, T* scratch) {
  const int64_t inputs = shape.sizes[0], outputs = shape.sizes[shape.layers], begin = block * block_samples;
  const int64_t count = samples_in(batch.samples, block), lanes = pad<T>(count);
  pack_lanes(batch.X, batch.rows, inputs, begin, count, lanes, scratch);
  for (int64_t k = 0; k < members; ++k, population += n)
    write_rows(outputs_of(shape, 0, population, scratch, lanes, scratch + inputs * lanes), outputs, count, lanes,
               out + (k * batch.samples + begin) * outputs);
}

// Rows (lanes, pad(units)) from columns (units, lanes): the right-hand side of a weight gradient.
template <class T>
void to_rows(const T* columns, int64_t units, int64_t lanes, T* rows) {
  const int64_t stride = pad<T>(units);
  for (int64_t i = 0; i < units; ++i)
    for (int64_t s = 0; s < lanes; ++s) rows[s * stride + i] = columns[i * lanes + s];
  for (int64_t s = 0; s < lanes; ++s)
    for (int64_t i = units; i < stride; ++i) rows[s * stride + i] = T(0);
}

// Inverted dropout: the mask of unit u of sample s is a function of (seed, step, layer, s, u) alone.
template <class T>
void drop(const Dropout& dropout, int l, int64_t begin, int64_t units, int64_t lanes, T* a) {
  const float rate = float(dropout.rate);
  const T keep = T(1 / (1 - dropout.rate));
  for (int64_t u = 0; u < units; ++u)
#pragma GCC ivdep
    for (int64_t s = 0; s < lanes; ++s) {
      const Draws draws(dropout.seed, 0xD0000000u + uint32_t(l), dropout.step, uint32_t(begin + s), uint32_t(u));
      a[u * lanes + s] *= draws.uniform(0) < rate ? T(0) : keep;
    }
}

template <class T>
double gradient(const Shape& shape, int score, const T* w, const Batch<T>& batch, int64_t begin, int64_t end,
                double scale, const Dropout& dropout, T* gradient, T* scratch) {
  const int layers = shape.layers;
  const int64_t* const sizes = shape.sizes;
  const ActivationFns<T>& act = activation_fns<T>[shape.activation];
  const int64_t wide = pad<T>(widest(shape));
  double total = 0;
  for (int64_t b = begin; b < end; b += block_samples) {
    const int64_t count = end - b < block_samples ? end - b : block_samples, lanes = pad<T>(count);
    // Forward. z[l] and a[l] of all layers follow one another; a[0] is the batch itself.
    T* free = scratch;
    const auto take = [&free, lanes](int64_t rows) { return free += rows * lanes, free - rows * lanes; };
    T* const value = take(1);
    T* const weight = take(1);
    T* const y = take(batch.y_width);
    T* const x = take(sizes[0]);
    pack_lanes(batch.X, batch.rows, batch.inputs, b, count, lanes, x);
    pack_lanes(batch.y, batch.rows, batch.y_width, b, count, lanes, y);
    pack_weight(batch, b, count, lanes, weight);
    T* const z0 = free;  // z, a and (with dropout) the masked a of layer l begin at 3 * (units before it)
    const T* in = x;
    const T* wl = w;
    int64_t before = 0;
    for (int l = 0; l < layers; ++l) {
      T* const z = z0 + 3 * before * lanes;
      const int64_t units = sizes[l + 1];
      layer(wl, sizes[l], units, in, lanes, z);
      if (l + 1 == layers) break;
      T* const a = z + units * lanes;
      act.activate(z, a, units * lanes);
      in = a;
      if (dropout.rate > 0) {
        T* const masked = a + units * lanes;
        for (int64_t i = 0; i < units * lanes; ++i) masked[i] = a[i];
        drop(dropout, l, b, units, lanes, masked);
        in = masked;
      }
      wl += (sizes[l] + 1) * units;
      before += units;
    }
    const T* const z = z0 + 3 * before * lanes;
    free = z0 + 3 * (before + sizes[layers]) * lanes;
    T* const rows = take(wide);
    T* delta = take(wide);
    T* next = take(wide);
    score_fns<T>[score](z, y, int(sizes[layers]), int(lanes), value, delta);
    for (int64_t s = 0; s < lanes; ++s) value[s] = s < count ? value[s] * weight[s] : T(0);
    total += double(sum_lanes(value, lanes));
    for (int64_t s = 0; s < lanes; ++s) weight[s] *= T(scale);
    for (int64_t o = 0; o < sizes[layers]; ++o)
      for (int64_t s = 0; s < lanes; ++s) delta[o * lanes + s] = s < count ? delta[o * lanes + s] * weight[s] : T(0);
    // Backward, from the last layer to the first; wl is at the last layer's weights.
    for (int l = layers - 1;; --l) {
      const int64_t inputs = sizes[l], outputs = sizes[l + 1];
      T* const gl = gradient + (wl - w);
      const T* const zl = l > 0 ? z0 + 3 * (before - inputs) * lanes : nullptr;
      const T* const al = l > 0 ? zl + inputs * lanes : x;
      to_rows(l > 0 && dropout.rate > 0 ? al + inputs * lanes : al, inputs, lanes, rows);
      product(Product<T>{.A = delta,
                         .row_stride = lanes,
                         .depth_stride = 1,
                         .B = rows,
                         .b_stride = pad<T>(inputs),
                         .C = gl,
                         .c_stride = inputs,
                         .start = nullptr,
                         .add = true,
                         .rows = outputs,
                         .depth = count,
                         .columns = inputs});
      for (int64_t o = 0; o < outputs; ++o) gl[inputs * outputs + o] += sum_lanes(delta + o * lanes, lanes);
      if (l == 0) break;
      product(Product<T>{.A = wl,
                         .row_stride = 1,
                         .depth_stride = inputs,
                         .B = delta,
                         .b_stride = lanes,
                         .C = next,
                         .c_stride = lanes,
                         .start = nullptr,
                         .add = false,
                         .rows = inputs,
                         .depth = outputs,
                         .columns = lanes});
      if (dropout.rate > 0) drop(dropout, l - 1, b, inputs, lanes, next);
      act.chain(zl, al, next, inputs * lanes);
      // A sample of zeros may be infinite where no real one is, and its slope no number.
      for (int64_t i = 0; count < lanes && i < inputs; ++i)
        for (int64_t s = count; s < lanes; ++s) next[i * lanes + s] = T(0);
      T* const done = delta;
      delta = next;
      next = done;
      before -= inputs;
      wl -= (sizes[l - 1] + 1) * inputs;
    }
  }
  return total;
}

template <class T>
constexpr NetworkFns<T> network = {.scratch = scratch<T>,
                                   .pack = pack<T>,
                                   .evaluate = evaluate<T>,
                                   .first_layer = first_layer<T>,
                                   .project = project<T>,
                                   .evaluate_moved = evaluate_moved<T>,
                                   .add_product = add_product<T>,
                                   .forward = forward<T>,
                                   .gradient_scratch = gradient_scratch<T>,
                                   .gradient = gradient<T>};

#define X(F, name, differentiable) {name, differentiable},
constexpr Activation activations[] = {ACTIVATIONS(X)};
#undef X
#define X(F, name) {name, F<float>::labels, F<float>::differentiable},
constexpr Score scores[] = {SCORES(X)};
#undef X

}  // namespace

#define POPGRAD_STRING(x) #x
#define POPGRAD_NAME(x) POPGRAD_STRING(x)
extern constinit const Kernels kernels = {
    .name = POPGRAD_NAME(POPGRAD_TARGET),
    .steps = step_rules,
    .step_count = step_count,
    .plain = plain_rules,
    .moves = move_rules,
    .move_count = move_count,
    .activations = activations,
    .activation_count = activation_count,
    .scores = scores,
    .score_count = score_count,
    .network_f32 = &network<float>,
    .network_f64 = &network<double>,
    .rows_f32 = &rows_f32,
    .rows_f64 = &rows_f64,
    .noise_f32 = &noise_f32,
    .noise_f64 = &noise_f64,
};

}  // namespace popgrad::POPGRAD_TARGET
