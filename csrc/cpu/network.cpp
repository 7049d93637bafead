// Population sums, outputs and gradients of a network, whose layers are those of layers.h. Compiled once per
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
    dense.forward(w, x, lanes, z, z);
    w += dense.parameters();
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
void measure(const Shape& shape, const int* scores, const Packed<T>* data, int count, const T* w, int64_t first,
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
  Dense<T>{shape.layers[0]}.affine(w, packed.X + block * block_samples * packed.inputs, lanes_of(packed, block), z);
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
double evaluate_moved(const Shape& shape, int score, const Moved<T>& moved, const Packed<T>& packed, int64_t first,
                      int64_t last, T* scratch) {
  const Dense<T> dense{shape.layers[0]};
  double total = 0;
  for (int64_t b = first; b < last; ++b) {
    const int64_t lanes = lanes_of(packed, b);
    moved_affine(moved, dense.layer.outputs, b - first, lanes, scratch);
    dense.activate(scratch, lanes, scratch);
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

// The tape of all layers, the data of a block, the inputs of one layer as rows, and two deltas.
template <class T>
size_t gradient_scratch(const Shape& shape) {
  int64_t units = inputs_of(shape);
  for (int l = 0; l < shape.count; ++l) units += shape.layers[l].outputs;
  const int64_t wide = pad<T>(widest(shape));
  return size_t(block_samples) * size_t(Taped<T>::arrays * units + 3 * wide + outputs_of(shape) + 4);
}

// One block of samples on its way through the network and back, in the scratch memory of a thread.
template <class T>
class Pass {
 public:
  // The samples [begin, begin + count) of the batch.
  Pass(const Shape& shape, const Dropout& dropout, const Batch<T>& batch, int64_t begin, int64_t count, T* scratch)
      : shape_(shape), dropout_(dropout), begin_(begin), samples_{count, pad<T>(count)} {
    const int64_t lanes = samples_.lanes, wide = pad<T>(widest(shape));
    const auto take = [&scratch, lanes](int64_t rows) { return scratch += rows * lanes, scratch - rows * lanes; };
    value_ = take(1);
    weight_ = take(1);
    y_ = take(batch.y_width);
    x_ = take(batch.inputs);
    rows_ = take(wide);
    delta_ = take(wide);
    next_ = take(wide);
    tape_ = scratch;
    pack_lanes(batch.X, batch.rows, batch.inputs, begin, count, lanes, x_);
    pack_lanes(batch.y, batch.rows, batch.y_width, begin, count, lanes, y_);
    pack_weight(batch, begin, count, lanes, weight_);
  }

  void forward(const T* w) {
    const T* x = x_;
    for (int l = 0; l < shape_.count; ++l) {
      const Dense<T> dense{shape_.layers[l]};
      const Taped<T> at = taped(l);
      const int64_t size = dense.layer.outputs * samples_.lanes;
      dense.forward(w, x, samples_.lanes, at.z, at.a);
      if (drops(l)) {
        for (int64_t i = 0; i < size; ++i) at.out[i] = at.a[i];
        drop(dropout_, l, begin_, dense.layer.outputs, samples_.lanes, at.out);
      }
      w += dense.parameters();
      if (l + 1 < shape_.count) tape_ += Taped<T>::arrays * size;
      x = at.out;
    }
    outputs_ = x;
  }

  // The sum of weight * loss. Leaves scale times its derivative by the raw outputs in delta.
  double loss(int score, double scale) {
    const int64_t lanes = samples_.lanes, count = samples_.count, outputs = outputs_of(shape_);
    score_fns<T>[score](outputs_, y_, int(outputs), int(lanes), value_, delta_);
    for (int64_t s = 0; s < lanes; ++s) value_[s] = s < count ? value_[s] * weight_[s] : T(0);
    for (int64_t s = 0; s < lanes; ++s) weight_[s] *= T(scale);
    for (int64_t o = 0; o < outputs; ++o)
      for (int64_t s = 0; s < lanes; ++s) {
        T& delta = delta_[o * lanes + s];
        delta = s < count ? delta * weight_[s] : T(0);
      }
    return double(sum_lanes(value_, lanes));
  }

  // Adds the derivative by the parameters to `gradient`. `end` is their number.
  void backward(const T* w, int64_t end, T* gradient) {
    for (int l = shape_.count - 1; l >= 0; --l) {
      const Dense<T> dense{shape_.layers[l]};
      end -= dense.parameters();
      const Taped<T> at = taped(l);
      if (drops(l)) drop(dropout_, l, begin_, dense.layer.outputs, samples_.lanes, delta_);
      if (l > 0) tape_ -= Taped<T>::arrays * dense.layer.inputs * samples_.lanes;
      const T* const x = l > 0 ? taped(l - 1).out : x_;
      dense.backward(w + end, x, at, samples_, {delta_, l > 0 ? next_ : nullptr, rows_}, gradient + end);
      T* const done = delta_;
      delta_ = next_;
      next_ = done;
    }
  }

 private:
  bool drops(int l) const { return dropout_.rate > 0 && l + 1 < shape_.count; }

  // The arrays of layer l, at which the tape stands.
  Taped<T> taped(int l) const {
    const Layer& layer = shape_.layers[l];
    const int64_t size = layer.outputs * samples_.lanes;
    T* const a = layer.activation == no_activation ? tape_ : tape_ + size;
    return {tape_, a, drops(l) ? a + size : a};
  }

  const Shape& shape_;
  const Dropout& dropout_;
  const int64_t begin_;
  const Samples samples_;
  T *value_, *weight_, *y_, *x_, *rows_, *delta_, *next_;
  T* tape_;  // of all layers, one after the other; stands at one of them
  const T* outputs_ = nullptr;
};

template <class T>
double gradient(const Shape& shape, int score, const T* w, const Batch<T>& batch, int64_t begin, int64_t end,
                double scale, const Dropout& dropout, T* gradient, T* scratch) {
  int64_t n = 0;
  for (int l = 0; l < shape.count; ++l) n += Dense<T>{shape.layers[l]}.parameters();
  double total = 0;
  for (int64_t b = begin; b < end; b += block_samples) {
    Pass<T> pass(shape, dropout, batch, b, end - b < block_samples ? end - b : block_samples, scratch);
    pass.forward(w);
    total += pass.loss(score, scale);
    pass.backward(w, n, gradient);
  }
  return total;
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
