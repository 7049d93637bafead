// Population sums and outputs of a network, whose layers are those of layers.h. Compiled once per
// instruction set, with contraction: products and activations promise the same bits per instruction set only.
//
// Samples lie side by side, `lanes` of them to a block, so a layer with three outputs fills a vector as well
// as one with three hundred. No standard headers with inline bodies here, see csrc/README.md.
#include "layers.h"
#include "tables.h"

namespace popgrad::POPGRAD_TARGET {
namespace {

int64_t inputs_of(const Shape& shape) { return shape.layers[0].inputs; }

int64_t widest(const Shape& shape) {
  int64_t widest = inputs_of(shape);
  for (int l = 0; l < shape.count; ++l) widest = widest < shape.layers[l].outputs ? shape.layers[l].outputs : widest;
  return widest;
}

template <class T>
void pack(const Batch<T>& batch, int64_t block, T* X, T* y, T* weight) {
  const int64_t begin = block * block_samples, count = samples_in(batch.samples, block), lanes = pad<T>(count);
  if (X) pack_lanes(batch.X, batch.rows, batch.inputs, begin, count, lanes, X + begin * batch.inputs);
  pack_lanes(batch.y, batch.rows, batch.y_width, begin, count, lanes, y + begin * batch.y_width);
  pack_weight(batch, begin, count, lanes, weight + begin);
}

// The outputs of two layers, which take turns, and a block's inputs.
template <class T>
size_t scratch(const Shape& shape) {
  return size_t(block_samples) * size_t(2 * widest(shape) + inputs_of(shape));
}

// Raw outputs of one block, through two buffers that take turns: the layers from `first` on, whose inputs are x and
// whose parameters are w.
template <class T>
const T* outputs_of(const Shape& shape, int first, const T* w, const T* x, int64_t lanes, T* buffer) {
  T* turn[2] = {buffer, buffer + widest(shape) * lanes};
  for (int l = first; l < shape.count; ++l) {
    const Dense<T> dense{shape.layers[l]};
    T* const z = turn[l % 2];
    dense.forward(w, x, lanes, z);
    w += dense.parameters();
    x = z;
  }
  return x;
}

template <class T>
double evaluate(const Shape& shape, Scoring score, const T* w, const Packed<T>& packed, int64_t first, int64_t last,
                T* scratch) {
  double total = 0;
  for (int64_t b = first; b < last; ++b) {
    const T* const x = packed.X + b * block_samples * packed.inputs;
    total += block_sum(shape, score, outputs_of(shape, 0, w, x, lanes_of(packed, b), scratch), packed, b);
  }
  return total;
}

template <class T>
void measure(const Shape& shape, const Scoring* scores, const Packed<T>* data, int count, const T* w, int64_t first,
             int64_t last, double* sums, T* out, T* scratch) {
  const int64_t outputs = outputs_of(shape);
  for (int k = 0; k < count; ++k) sums[k] = 0;
  for (int64_t b = first; b < last; ++b) {
    const int64_t begin = b * block_samples, lanes = lanes_of(data[0], b);
    const T* const z = outputs_of(shape, 0, w, data[0].X + begin * data[0].inputs, lanes, scratch);
    for (int k = 0; k < count; ++k) sums[k] += block_sum(shape, scores[k], z, data[k], b);
    if (out) write_rows(z, outputs, samples_in(data[0].samples, b), lanes, out + begin * outputs);
  }
}

template <class T>
void first_layer(const Shape& shape, const T* w, const Packed<T>& packed, int64_t block, T* z) {
  const Layer& layer = shape.layers[0];
  const T* const x = packed.X + block * block_samples * packed.inputs;
  Dense<T>{layer}.affine(w, x, lanes_of(packed, block), {0, layer.outputs}, z);
}

template <class T>
void project(const Shape& shape, const T* right, int64_t stride, int64_t candidates, int rank, const Packed<T>& packed,
             int64_t first, int64_t last, T* out) {
  const int64_t inputs = inputs_of(shape);
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

// The first layer of one block at a candidate, before its activation.
template <class T>
void moved_affine(const Moved<T>& moved, int64_t outputs, int64_t block, int64_t lanes, T* z) {
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
double evaluate_moved(const Shape& shape, Scoring score, const Moved<T>& moved, const Packed<T>& packed, int64_t first,
                      int64_t last, T* scratch) {
  const Dense<T> dense{shape.layers[0]};
  double total = 0;
  for (int64_t b = first; b < last; ++b) {
    const int64_t lanes = lanes_of(packed, b);
    moved_affine(moved, dense.layer.outputs, b - first, lanes, scratch);
    dense.activate(scratch, lanes, {0, dense.layer.outputs}, scratch);
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
void forward(const Shape& shape, const T* population, int64_t popsize, int64_t n, const Batch<T>& batch, int64_t block,
             T* out, T* scratch) {
  const int64_t inputs = inputs_of(shape), outputs = outputs_of(shape), begin = block * block_samples;
  const int64_t count = samples_in(batch.samples, block), lanes = pad<T>(count);
  pack_lanes(batch.X, batch.rows, inputs, begin, count, lanes, scratch);
  for (int64_t k = 0; k < popsize; ++k, population += n)
    write_rows(outputs_of(shape, 0, population, scratch, lanes, scratch + inputs * lanes), outputs, count, lanes,
               out + (k * batch.samples + begin) * outputs);
}

template <class T>
constexpr NetworkFns<T> network = {.scratch = scratch<T>,
                                   .pack = pack<T>,
                                   .evaluate = evaluate<T>,
                                   .measure = measure<T>,
                                   .first_layer = first_layer<T>,
                                   .project = project<T>,
                                   .evaluate_moved = evaluate_moved<T>,
                                   .add_product = add_product<T>,
                                   .forward = forward<T>};

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
    .gradient_f32 = &gradient_f32,
    .gradient_f64 = &gradient_f64,
    .rows_f32 = &rows_f32,
    .rows_f64 = &rows_f64,
    .noise_f32 = &noise_f32,
    .noise_f64 = &noise_f64,
    .shuffle = shuffle,
    .beta = beta,
};

}  // namespace popgrad::POPGRAD_TARGET
