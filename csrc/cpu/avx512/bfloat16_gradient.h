// Gradients with products of bfloat16 numbers and float sums, by AVX-512 BF16; pass.h has the stages. Weights, inputs,
// hidden values and derivatives are rounded to the nearest, ties to even. The conversions and products take denormal
// numbers for zero.
//
// A factor is made of words, each two numbers that follow one another along the sum: pairs of inputs forward, pairs of
// samples for the weight gradient, pairs of outputs for the derivative by the inputs. A missing second number is zero.
#pragma once

#include "../pass.h"
#include "words.h"

namespace popgrad::POPGRAD_TARGET {
namespace {

class Bfloat16Pass : public Pass<float, Bfloat16Pass> {
  using Base = Pass<float, Bfloat16Pass>;
  friend Base;

 public:
  using Base::Base;

  static size_t scratch(const Shape& shape) {
    int64_t most = block_samples * row_stride<float>(shape.layers[0].inputs);
    for (int l = 1; l < shape.count; ++l) {
      const int64_t panel = words_of(shape.layers[l].outputs) * unit_group + 16;  // written by 32 words
      most = most < panel ? panel : most;
    }
    return size_t(most);
  }

 private:
  // --- Memory: a word takes the place of a float

  // Of n inputs: (blocks, words of n, lanes), and (pairs of samples, row_stride(n)).
  static int64_t input_size(int64_t n) { return words_of(n) + row_stride<float>(n) / 2; }
  // Of n outputs: the same, and of the derivative (n, pairs of samples) and (blocks, words of n, lanes).
  static int64_t output_size(int64_t n) { return input_size(n) + 2 * words_of(n); }
  static int64_t weight_stride(const Layer& layer) { return row_stride<float>(words_of(layer.inputs)); }
  static int64_t weight_size(const Shape& shape) {
    int64_t size = 16;  // a panel reads past the last row
    for (int l = 0; l < shape.count; ++l) size += shape.layers[l].outputs * weight_stride(shape.layers[l]);
    return size;
  }

  uint32_t* weights(int l) const {
    uint32_t* at = reinterpret_cast<uint32_t*>(weights_);
    for (int k = 0; k < l; ++k) at += shape_.layers[k].outputs * weight_stride(shape_.layers[k]);
    return at;
  }
  // The inputs of layer l.
  struct Inputs {
    uint32_t *columns, *rows;  // of one block; of all samples
  };
  Inputs inputs(int l, int64_t block) const {
    const int64_t words = words_of(shape_.layers[l].inputs);
    uint32_t* const all = reinterpret_cast<uint32_t*>(l > 0 ? arrays(l - 1, block).factors : inputs_);
    return {all + block * block_samples * words, all + lanes() * words};
  }
  // The derivative by z of layer l.
  struct Delta {
    uint32_t *columns, *rows;  // of one block; of all samples
  };
  Delta delta(int l, int64_t block) const {
    const int64_t outputs = shape_.layers[l].outputs, words = words_of(outputs);
    uint32_t* const all = reinterpret_cast<uint32_t*>(arrays(l, block).factors) + lanes() * input_size(outputs);
    return {all + block * block_samples * words, all + lanes() * words};
  }
  int64_t pairs() const { return lanes() / 2; }  // the stride of Delta::rows

  // --- Factors

  static int64_t weight_items(const Shape& shape) {
    int64_t items = 0;
    for (int l = 0; l < shape.count; ++l) items += unit_groups(shape.layers[l].outputs).count;
    return items;
  }
  void prepare(int64_t item) const {
    int l = 0;
    for (; item >= unit_groups(shape_.layers[l].outputs).count; ++l)
      item -= unit_groups(shape_.layers[l].outputs).count;
    const Range units = unit_groups(shape_.layers[l].outputs)[item];
    const int64_t inputs = shape_.layers[l].inputs, stride = weight_stride(shape_.layers[l]);
    for (int64_t o = units.begin; o < units.end; ++o)
      round_row(args_.w + parameters_before(l) + o * inputs, inputs, weights(l) + o * stride, stride);
  }

  float* row_memory(int64_t, float* scratch) const { return scratch; }
  void pack_inputs(int64_t block, float* rows) const {
    const int64_t count = shape_.layers[0].inputs, stride = row_stride<float>(count);
    const auto [samples, lanes] = this->samples(block);
    for (int64_t s = samples; s < lanes; ++s)
      for (int64_t i = 0; i < stride; ++i) rows[s * stride + i] = 0;
    const Inputs to = inputs(0, block);
    for (int64_t s = 0; s < lanes; s += 16)
      for (int64_t k = 0; k < words_of(count); k += 16)
        turn_pairs(rows + s * stride + 2 * k, stride, count - 2 * k, to.columns + k * lanes + s, lanes);
    for (int64_t s = 0; s < lanes; s += 2) {
      uint32_t* const pair = to.rows + (block * block_samples + s) / 2 * stride;
      for (int64_t i = 0; i < stride; i += 16)
        store_words(rows + s * stride + i, rows + (s + 1) * stride + i, pair + i);
    }
  }

  void pass_on(int l, int64_t block, Range units) const {
    const int64_t outputs = shape_.layers[l].outputs, stride = row_stride<float>(outputs);
    const auto [count, lanes] = samples(block);
    const float* const out = arrays(l, block).tape.out;
    const Inputs to = inputs(l + 1, block);
    pair_units(out, units, outputs, lanes, to.columns);
    alignas(64) uint32_t rounded[unit_group * block_samples / 2];
    for (int64_t u = units.begin; u < units.end; ++u) {
      uint32_t* const row = rounded + (u - units.begin) * lanes / 2;
      round_row(out + u * lanes, lanes, row, lanes / 2);
      if (count % 2) row[count / 2] &= 0xFFFFu;  // the lane beside the last sample may hold any number
    }
    uint32_t* const rows = to.rows + block * block_samples / 2 * stride;
    transpose(rounded, lanes / 2, units.count(), (count + 1) / 2, rows + units.begin, stride);
    for (int64_t s = 0; units.end == outputs && s < (count + 1) / 2; ++s)
      for (int64_t i = outputs; i < stride; ++i) rows[s * stride + i] = 0;
  }

  void derived(int l, int64_t block, Range units) const {
    const int64_t lanes = samples(block).lanes;
    const float* const by_z = arrays(l, block).delta;
    const Delta to = delta(l, block);
    if (l > 0) pair_units(by_z, units, shape_.layers[l].outputs, lanes, to.columns);
    for (int64_t u = units.begin; u < units.end; ++u)
      round_row(by_z + u * lanes, lanes, to.rows + u * pairs() + block * block_samples / 2, lanes / 2);
  }

  // The words of pairs of units, from a whole pair on; units are whole pairs, except at the end of the layer.
  static void pair_units(const float* from, Range units, int64_t outputs, int64_t lanes, uint32_t* to) {
    alignas(64) static constexpr float zeros[block_samples] = {};
    for (int64_t u = units.begin; u < units.end; u += 2) {
      const float* const first = from + u * lanes;
      const float* const second = u + 1 < outputs ? first + lanes : zeros;
      for (int64_t s = 0; s < lanes; s += 16) store_words(first + s, second + s, to + u / 2 * lanes + s);
    }
  }

  // --- Products

  void affine(int l, int64_t block, Range units, float* z) const {
    const Layer& layer = shape_.layers[l];
    const int64_t lanes = samples(block).lanes, stride = weight_stride(layer);
    product(Product<float, Words>{.A = weights(l) + units.begin * stride,
                                  .row_stride = stride,
                                  .depth_stride = 1,
                                  .B = inputs(l, block).columns,
                                  .b_stride = lanes,
                                  .C = z + units.begin * lanes,
                                  .c_stride = lanes,
                                  .start = args_.w + parameters_before(l) + layer.inputs * layer.outputs + units.begin,
                                  .add = false,
                                  .rows = units.count(),
                                  .depth = words_of(layer.inputs),
                                  .columns = lanes});
  }

  void weights_product(int l, Range outputs, Range columns) const {
    const int64_t inputs = shape_.layers[l].inputs;
    product(Product<float, Words>{.A = delta(l, 0).rows + outputs.begin * pairs(),
                                  .row_stride = pairs(),
                                  .depth_stride = 1,
                                  .B = this->inputs(l, 0).rows + columns.begin,
                                  .b_stride = row_stride<float>(inputs),
                                  .C = args_.gradient + parameters_before(l) + outputs.begin * inputs + columns.begin,
                                  .c_stride = inputs,
                                  .start = nullptr,
                                  .add = args_.add,
                                  .rows = outputs.count(),
                                  .depth = (args_.samples + 1) / 2,
                                  .columns = columns.count()});
  }

  // Columns of W, as pairs of outputs: (words of the outputs, unit_group).
  const uint32_t* panel(int l, Range units, float* scratch) const {
    const Layer& layer = shape_.layers[l];
    const int64_t stride = weight_stride(layer);
    uint32_t* const to = reinterpret_cast<uint32_t*>(scratch);
    for (int64_t o = 0; o < layer.outputs; o += 2) {
      const uint32_t* const first = weights(l) + o * stride + units.begin / 2;
      for (int64_t k = 0; 2 * k < units.count(); k += 16)
        cross_pairs(first + k, o + 1 < layer.outputs ? first + stride + k : nullptr, to + o / 2 * unit_group + 2 * k);
    }
    return to;
  }

  void inputs_product(const uint32_t* panel, int l, int64_t block, Range units, float* next) const {
    const int64_t lanes = samples(block).lanes;
    product(Product<float, Words>{.A = panel,
                                  .row_stride = 1,
                                  .depth_stride = unit_group,
                                  .B = delta(l, block).columns,
                                  .b_stride = lanes,
                                  .C = next + units.begin * lanes,
                                  .c_stride = lanes,
                                  .start = nullptr,
                                  .add = false,
                                  .rows = units.count(),
                                  .depth = words_of(shape_.layers[l].outputs),
                                  .columns = lanes});
  }
};

}  // namespace
}  // namespace popgrad::POPGRAD_TARGET
