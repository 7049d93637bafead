// The gradient of a network: one pass of a batch forward and back, cut into stages whose items are independent.
//
// The stages are: pack the samples; the layers in order; the loss; the layers in reverse order. An item is a range of
// units of a layer, or a block of samples, or both. How the stages are cut depends on the shape alone, and every number
// is summed by one item, block by block, so that neither threads nor cuts change a bit.
//
// A class derived from Pass has the products and the layouts of their factors:
//   input_size(inputs), output_size(outputs): numbers per lane for the factors that are made of the inputs, and of the
//     outputs of a layer and the derivative by them
//   weight_size(shape): numbers for the weights as factors
//   weight_items(shape), prepare(item): further items of the first stage, which make the weights factors
//   scratch(shape): numbers of scratch memory for an item
//   row_memory(block, scratch): where pack() writes the inputs sample by sample, and pack_inputs(block, rows), which
//     makes factors of them
//   affine(l, block, units, z): z = W x + b
//   pass_on(l, block, units): makes factors of the outputs of a layer for the next one
//   derived(l, block, units): makes factors of the derivative by z
//   weights_product(l, outputs, columns): the gradient by W, for some rows and columns
//   panel(l, units, scratch), inputs_product(panel, l, block, units, next): the derivative by some inputs of a layer
#pragma once

#include "layers.h"

namespace popgrad::POPGRAD_TARGET {
namespace {

// Units per item: whole tiles of the product, and whole vectors, which transposing needs.
constexpr int64_t unit_group = 48;
// Columns of a weight gradient per item: their inputs stay in the second-level cache.
constexpr int64_t column_group = 256;

// A number of things in nearly equal groups, of whole steps.
struct Groups {
  int64_t things, step, count;
  constexpr Groups(int64_t things_in, int64_t most, int64_t step_in)
      : things(things_in), step(step_in), count((things_in + most - 1) / most) {}
  Range operator[](int64_t k) const { return {edge(k), edge(k + 1)}; }

 private:
  int64_t edge(int64_t k) const {
    const int64_t steps = (things + step - 1) / step, at = (steps * k + count - 1) / count * step;
    return at < things ? at : things;
  }
};

Groups unit_groups(int64_t units) { return {units, unit_group, 16}; }
template <class T>
Groups column_groups(int64_t inputs) {
  return {inputs, column_group, POPGRAD_TILE_VECTORS * Vectors<T>::width};
}

template <class T, class Self>
class Pass {
 public:
  Pass(const PassArgs<T>& args, T* memory)
      : args_(args), shape_(args.shape), blocks_((args.samples + block_samples - 1) / block_samples), at_(memory) {
    weights_ = take(Self::weight_size(shape_));  // first, so that they stay where they are for all blocks
    y_ = take(lanes() * args.batch.y_width);
    weight_ = take(lanes());
    inputs_ = take(lanes() * Self::input_size(args.batch.inputs));
    if (!args.mixup.partners) return;
    partner_y_ = take(lanes() * args.batch.y_width);
    partner_weight_ = take(lanes());
  }

  // Elements of memory for a pass.
  static size_t memory(const Shape& shape, int64_t samples, int64_t y_width, bool mixed) {
    int64_t each = (mixed ? 2 : 1) * (y_width + 1) + Self::input_size(shape.layers[0].inputs);
    for (int l = 0; l < shape.count; ++l) each += layer_size(shape.layers[l]);
    const int64_t blocks = (samples + block_samples - 1) / block_samples;
    return size_t(Self::weight_size(shape) + blocks * block_samples * each);
  }

  static int stages(const Shape& shape) { return 2 * shape.count + 2; }

  static int64_t items(const Shape& shape, int64_t samples, int stage) {
    const int64_t blocks = (samples + block_samples - 1) / block_samples;
    const int count = shape.count;
    if (stage == 0) return blocks + Self::weight_items(shape);
    if (stage == count + 1) return blocks;
    if (stage <= count) return blocks * unit_groups(shape.layers[stage - 1].outputs).count;
    const int l = 2 * count + 1 - stage;
    const Layer& layer = shape.layers[l];
    const int64_t weights = unit_groups(layer.outputs).count * column_groups<T>(layer.inputs).count;
    return weights + (l > 0 ? unit_groups(layer.inputs).count : 0);
  }

  void run(int stage, int64_t item, T* scratch) {
    const int count = shape_.count;
    if (stage == 0) {
      if (item < blocks_)
        pack(item, scratch);
      else
        self().prepare(item - blocks_);
    } else if (stage <= count) {
      const Groups groups = unit_groups(shape_.layers[stage - 1].outputs);
      forward(stage - 1, item / groups.count, groups[item % groups.count]);
    } else if (stage == count + 1) {
      loss(item);
    } else {
      backward(2 * count + 1 - stage, item, scratch);
    }
  }

  // All stages of one block after the other, for the samples [begin, begin + samples) of the batch.
  static void run_blocks(const PassArgs<T>& args, T* memory, T* scratch) {
    PassArgs<T> one = args;
    for (int64_t done = 0; done < args.samples; done += block_samples) {
      one.begin = args.begin + done;
      one.samples = args.samples - done < block_samples ? args.samples - done : block_samples;
      Self pass(one, memory);
      for (int stage = 0; stage < stages(args.shape); ++stage) {
        const int64_t all = stage == 0 && done > 0 ? 1 : items(args.shape, one.samples, stage);  // weights only once
        for (int64_t item = 0; item < all; ++item) pass.run(stage, item, scratch);
      }
      one.add = true, ++one.losses, ++one.metrics;
    }
  }

  static void run_item(const PassArgs<T>& args, int stage, int64_t item, T* memory, T* scratch) {
    Self(args, memory).run(stage, item, scratch);
  }

 protected:
  // The arrays of a layer, each for all blocks.
  struct Arrays {
    Taped<T> tape;
    T* delta;    // the derivative by the outputs, then by z
    T* spare;    // (outputs, lanes), free in the last layer
    T* factors;  // of all blocks
  };

  T* take(int64_t count) { return at_ += count, at_ - count; }
  int64_t lanes() const { return blocks_ * block_samples; }

  static int64_t layer_size(const Layer& layer) { return 4 * layer.outputs + Self::output_size(layer.outputs); }

  // The arrays of a layer; those of the tape and delta for one block.
  Arrays arrays(int l, int64_t block) const {
    T* at = at_;
    for (int k = 0; k < l; ++k) at += lanes() * layer_size(shape_.layers[k]);
    const int64_t size = lanes() * shape_.layers[l].outputs;
    T* const z = at + block * block_samples * shape_.layers[l].outputs;
    T* const a = shape_.layers[l].activation == no_activation ? z : z + size;
    return {{z, a, drops(l) ? z + 2 * size : a}, z + 3 * size, z + 2 * size, at + 4 * size};
  }

  Samples samples(int64_t block) const {
    const int64_t count = samples_in(args_.samples, block);
    return {count, pad<T>(count)};
  }

  bool drops(int l) const { return args_.random.step > 0 && shape_.layers[l].dropout > 0; }
  // The place in the batch of a block's first sample.
  int64_t place(int64_t block) const { return args_.begin + block * block_samples; }

  int64_t parameters_before(int l) const {
    int64_t n = 0;
    for (int k = 0; k < l; ++k) n += Dense<T>{shape_.layers[k]}.parameters();
    return n;
  }

  Self& self() { return static_cast<Self&>(*this); }

  void pack(int64_t block, T* scratch) {
    const Batch<T>& batch = args_.batch;
    const auto [count, lanes] = samples(block);
    const int64_t first = block * block_samples, begin = place(block);
    const int64_t stride = row_stride<T>(batch.inputs);
    T* const rows = self().row_memory(block, scratch);
    const bool noisy = args_.random.step > 0 && args_.random.noise > 0;
    for (int64_t s = 0; s < count; ++s) {
      const T* const from = batch.X + row_of(begin + s) * batch.inputs;
      T* const to = rows + s * stride;
      for (int64_t i = 0; i < batch.inputs; ++i) to[i] = from[i];
      if (args_.mixup.partners) mix(batch.X + row_of(args_.mixup.partners[begin + s]) * batch.inputs, to);
      if (noisy) add_noise(args_.random, begin + s, batch.inputs, to);
      for (int64_t i = batch.inputs; i < stride; ++i) to[i] = T(0);
    }
    self().pack_inputs(block, rows);
    pack_lanes(batch.y, batch.rows, batch.y_width, begin, count, lanes, y_ + first * batch.y_width);
    pack_weight(batch, begin, count, lanes, weight_ + first);
    if (args_.mixup.partners) pack_partners(first, begin, {count, lanes});
  }

  // The row of X that is at a place of the batch.
  int64_t row_of(int64_t place) const { return args_.batch.rows ? args_.batch.rows[place] : place; }

  // Mixes the inputs of a partner into a sample.
  void mix(const T* partner, T* x) const {
    const T share = T(args_.mixup.share), rest = T(1 - args_.mixup.share);
    for (int64_t i = 0; i < args_.batch.inputs; ++i) x[i] = share * x[i] + rest * partner[i];
  }

  // The targets and weights of the partners of a block.
  void pack_partners(int64_t first, int64_t begin, Samples samples) {
    int64_t rows[block_samples];
    for (int64_t s = 0; s < samples.count; ++s) rows[s] = row_of(args_.mixup.partners[begin + s]);
    Batch<T> partners = args_.batch;
    partners.rows = rows;
    pack_lanes(partners.y, rows, partners.y_width, 0, samples.count, samples.lanes,
               partner_y_ + first * partners.y_width);
    pack_weight(partners, 0, samples.count, samples.lanes, partner_weight_ + first);
  }

  void forward(int l, int64_t block, Range units) {
    const Dense<T> dense{shape_.layers[l]};
    const Arrays at = arrays(l, block);
    const int64_t lanes = samples(block).lanes;
    self().affine(l, block, units, at.tape.z);
    dense.activate(at.tape.z, lanes, units, at.tape.a);
    if (drops(l)) {
      for (int64_t i = units.begin * lanes; i < units.end * lanes; ++i) at.tape.out[i] = at.tape.a[i];
      drop(args_.random, dense.layer.dropout, l, place(block), units, lanes, at.tape.out);
    }
    if (l + 1 < shape_.count) self().pass_on(l, block, units);
  }

  void loss(int64_t block) {
    const int last = shape_.count - 1;
    const int64_t outputs = outputs_of(shape_), first = block * block_samples;
    const auto [count, lanes] = samples(block);
    const Arrays at = arrays(last, block);
    const T* const y = y_ + first * args_.batch.y_width;
    T* const weight = weight_ + first;
    alignas(64) T value[block_samples];
    if (args_.metric.index >= 0) {
      score_fns<T>[args_.metric.index](at.tape.out, y, int(outputs), int(lanes), T(args_.metric.setting), value,
                                       nullptr);
      args_.metrics[block] = weighted(value, weight, count, lanes);
    }
    double& sum = args_.losses[block];
    const double share = args_.mixup.partners ? args_.mixup.share : 1;
    sum = loss_by(y, weight, share, {count, lanes}, at.tape.out, at.delta);
    if (args_.mixup.partners) {
      const T* const partner_y = partner_y_ + first * args_.batch.y_width;
      const double other =
          loss_by(partner_y, partner_weight_ + first, 1 - share, {count, lanes}, at.tape.out, at.spare);
      sum = share * sum + (1 - share) * other;
      for (int64_t i = 0; i < outputs * lanes; ++i) at.delta[i] += at.spare[i];
    }
    Dense<T>{shape_.layers[last]}.before_activation(at.tape, {count, lanes}, {0, outputs}, at.delta);
    self().derived(last, block, {0, outputs});
  }

  // The sum of weight * loss over the samples of a block; writes `share` of its slope, scaled, and scales the weights.
  double loss_by(const T* y, T* weight, double share, Samples samples, const T* z, T* slope) const {
    const auto [count, lanes] = samples;
    const int64_t outputs = outputs_of(shape_);
    alignas(64) T value[block_samples];
    score_fns<T>[args_.score.index](z, y, int(outputs), int(lanes), T(args_.score.setting), value, slope);
    const double sum = weighted(value, weight, count, lanes);
    for (int64_t s = 0; s < lanes; ++s) weight[s] *= T(args_.scale * share);
    for (int64_t o = 0; o < outputs; ++o)
      for (int64_t s = 0; s < lanes; ++s) {
        T& d = slope[o * lanes + s];
        d = s < count ? d * weight[s] : T(0);
      }
    return sum;
  }

  static double weighted(T* value, const T* weight, int64_t count, int64_t lanes) {
    for (int64_t s = 0; s < lanes; ++s) value[s] = s < count ? value[s] * weight[s] : T(0);
    return double(sum_lanes(value, lanes));
  }

  void backward(int l, int64_t item, T* scratch) {
    const Layer& layer = shape_.layers[l];
    const Groups outputs = unit_groups(layer.outputs), columns = column_groups<T>(layer.inputs);
    if (item < outputs.count * columns.count)
      by_parameters(l, outputs[item % outputs.count], columns[item / outputs.count]);
    else
      by_inputs(l, unit_groups(layer.inputs)[item - outputs.count * columns.count], scratch);
  }

  void by_parameters(int l, Range outputs, Range columns) {
    const Dense<T> dense{shape_.layers[l]};
    self().weights_product(l, outputs, columns);
    for (int64_t b = 0; columns.begin == 0 && b < blocks_; ++b)
      dense.by_biases(arrays(l, b).delta, samples(b), outputs, args_.add || b > 0,
                      args_.gradient + parameters_before(l));
  }

  // The derivative by some units of the layer below, before its activation.
  void by_inputs(int l, Range units, T* scratch) {
    const Dense<T> below{shape_.layers[l - 1]};
    const auto panel = self().panel(l, units, scratch);
    for (int64_t b = 0; b < blocks_; ++b) {
      const Arrays at = arrays(l - 1, b);
      self().inputs_product(panel, l, b, units, at.delta);
      if (drops(l - 1)) drop(args_.random, below.layer.dropout, l - 1, place(b), units, samples(b).lanes, at.delta);
      below.before_activation(at.tape, samples(b), units, at.delta);
      self().derived(l - 1, b, units);
    }
  }

  const PassArgs<T>& args_;
  const Shape& shape_;
  const int64_t blocks_;
  T* at_;  // the arrays of the layers
  T *weights_, *y_, *weight_, *inputs_;
  T *partner_y_ = nullptr, *partner_weight_ = nullptr;  // of mixup
};

template <class T, class Self>
constexpr GradientFns<T> pass_fns = {.memory = Self::memory,
                                     .scratch = Self::scratch,
                                     .stages = Self::stages,
                                     .items = Self::items,
                                     .run = Self::run_item,
                                     .run_blocks = Self::run_blocks};

}  // namespace
}  // namespace popgrad::POPGRAD_TARGET
