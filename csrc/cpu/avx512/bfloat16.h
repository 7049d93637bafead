// Population sums with products of bfloat16 numbers. A Unit multiplies them:
//   depth_step, row_step: inputs and outputs of a layer are padded with zeros to multiples of these
//   layer(W, bias, words, outputs, x, lanes, z): z (outputs, lanes) = bias + W x, where W is (outputs, words) and x
//     (words, lanes), each word two inputs that follow one another; z has room for the padding
//   Unit() prepares a thread before the first layer; ~Unit() cleans up after the last
#pragma once

#include "../../kernels/activations.h"
#include "../../kernels/packing.h"
#include "../blocks.h"
#include "bfloat16_gradient.h"
#include "words.h"

namespace popgrad::POPGRAD_TARGET {
namespace {

constexpr int64_t round_up(int64_t count, int64_t step) { return (count + step - 1) / step * step; }

POPGRAD_HD uint32_t word_of(float first, float second) {
  return uint32_t(to_bfloat16(first)) | uint32_t(to_bfloat16(second)) << 16;
}

// Hidden outputs z (outputs, lanes) through the activation, as the words of the next layer's inputs; z has room for the
// padding.
template <template <class> class F>
void pass_on(float* z, int64_t outputs, int64_t depth, int64_t lanes, uint32_t* x) {
#pragma GCC ivdep
  for (int64_t i = 0; i < outputs * lanes; ++i) z[i] = F<float>::value(z[i]);
  for (int64_t i = outputs * lanes; i < depth * lanes; ++i) z[i] = 0;
  for (int64_t o = 0; o < depth; o += 2)
    for (int64_t s = 0; s < lanes; s += 16)
      store_words(z + o * lanes + s, z + (o + 1) * lanes + s, x + o / 2 * lanes + s);
}

#define X(F, name, differentiable) pass_on<F>,
constexpr void (*pass_on_fns[])(float*, int64_t, int64_t, int64_t, uint32_t*) = {ACTIVATIONS(X)};
#undef X

template <class Unit>
struct Bfloat16Network {
  static int64_t depth_of(int64_t inputs) { return round_up(inputs, Unit::depth_step); }
  static int64_t rows_of(int64_t outputs) { return round_up(outputs, Unit::row_step); }

  static int64_t words_of(int64_t inputs) { return depth_of(inputs) / 2; }
  static int64_t matrix_words(int64_t inputs, int64_t outputs) {
    return round_up(rows_of(outputs) * depth_of(inputs) / 2, 16);
  }

  struct Room {  // floats, or words of two numbers
    int64_t weights, z, x;
  };
  static Room room(const Shape& shape) {
    Room room{0, 0, 0};
    for (int l = 0; l < shape.count; ++l) {
      const int64_t inputs = shape.layers[l].inputs, outputs = shape.layers[l].outputs;
      const int64_t depth = depth_of(inputs), rows = rows_of(outputs);
      room.weights += matrix_words(inputs, outputs);
      const int64_t padded = depth_of(outputs), most = rows < padded ? padded : rows;
      room.z = room.z < most ? most : room.z;
      room.x = room.x < depth / 2 ? depth / 2 : room.x;
    }
    room.z *= block_samples, room.x *= block_samples;
    return room;
  }

  static size_t scratch(const Shape& shape) {
    const Room need = room(shape);
    return size_t(need.weights + need.z + 2 * need.x);  // forward() has inputs beside those of the hidden layers
  }

  static void pack(const Batch<float>& batch, int64_t block, uint32_t* to) {
    pack_block(batch, block, to + block * block_samples * words_of(batch.inputs));
  }
  static void pack_block(const Batch<float>& batch, int64_t block, uint32_t* to) {
    const int64_t begin = block * block_samples, count = samples_in(batch.samples, block), lanes = pad<float>(count);
    const int64_t words = words_of(batch.inputs);
    for (int64_t i = 0; i < words; ++i)
      for (int64_t s = 0; s < lanes; ++s) {
        const float* const x =
            batch.X + (s < count ? batch.rows ? batch.rows[begin + s] : begin + s : 0) * batch.inputs;
        to[i * lanes + s] =
            s >= count || 2 * i >= batch.inputs ? 0 : word_of(x[2 * i], 2 * i + 1 < batch.inputs ? x[2 * i + 1] : 0);
      }
  }

  // Rounds every matrix of w, row by row. Each matrix begins at a multiple of 64 bytes.
  static void round_weights(const Shape& shape, const float* w, uint32_t* to) {
    for (int l = 0; l < shape.count; ++l) {
      const int64_t inputs = shape.layers[l].inputs, outputs = shape.layers[l].outputs, words = words_of(inputs);
      for (int64_t r = 0; r < rows_of(outputs); ++r) {
        const float* const from = w + r * inputs;
        uint32_t* const row = to + r * words;
        const int64_t pairs = r < outputs ? inputs / 2 : 0;
        for (int64_t i = 0; i < pairs; ++i) row[i] = word_of(from[2 * i], from[2 * i + 1]);
        for (int64_t i = pairs; i < words; ++i) row[i] = 0;
        if (r < outputs && inputs % 2) row[pairs] = word_of(from[inputs - 1], 0);
      }
      to += matrix_words(inputs, outputs);
      w += (inputs + 1) * outputs;
    }
  }

  struct Scratch {
    uint32_t* weights;
    float* z;
    uint32_t* x;
    Scratch(const Room& need, float* scratch)
        : weights(reinterpret_cast<uint32_t*>(scratch + need.z + need.x)),
          z(scratch),
          x(reinterpret_cast<uint32_t*>(scratch + need.z)) {}
  };

  // Writes the raw outputs of a block to at.z: of inputs x, weights as rounded, biases as in w.
  static void propagate(const Unit& unit, const Shape& shape, const float* w, const uint32_t* x, int64_t lanes,
                        const Scratch& at) {
    const uint32_t* W = at.weights;
    for (int l = 0; l < shape.count; ++l) {
      const auto [inputs, outputs, activation, dropout] = shape.layers[l];
      unit.layer(W, w + inputs * outputs, words_of(inputs), outputs, x, lanes, at.z);
      if (l + 1 == shape.count) break;
      pass_on_fns[activation](at.z, outputs, depth_of(outputs), lanes, at.x);
      x = at.x;
      w += (inputs + 1) * outputs;
      W += matrix_words(inputs, outputs);
    }
  }

  // Computes a layer of small whole numbers, whose sums are exact in every order. Few machines have such a unit, so a
  // wrong one must be noticed at run time.
  static bool works() {
    constexpr int64_t outputs = 33, words = 32, lanes = 48;  // whole tiles, and more
    alignas(64) uint32_t W[48 * words] = {}, x[words * lanes];
    alignas(64) float z[48 * lanes], bias[outputs];
    const auto number = [](int64_t i) { return float(i * i % 7 - 3); };
    for (int64_t i = 0; i < outputs * words; ++i) W[i] = word_of(number(i), number(i + 2));
    for (int64_t i = 0; i < words * lanes; ++i) x[i] = word_of(number(3 * i + 1), number(5 * i));
    for (int64_t i = 0; i < outputs; ++i) bias[i] = number(i);
    const Unit unit;
    unit.layer(W, bias, words, outputs, x, lanes, z);
    bool right = true;
    for (int64_t o = 0; o < outputs; ++o)
      for (int64_t s = 0; s < lanes; ++s) {
        float sum = bias[o];
        for (int64_t k = 0; k < words; ++k)
          sum += number(o * words + k) * number(3 * (k * lanes + s) + 1) +
                 number(o * words + k + 2) * number(5 * (k * lanes + s));
        right = right && z[o * lanes + s] == sum;
      }
    return right;
  }

  static double evaluate(const Shape& shape, Scoring score, const float* w, const Packed<float>& packed, int64_t first,
                         int64_t last, float* scratch) {
    const Scratch at(room(shape), scratch);
    round_weights(shape, w, at.weights);
    const Unit unit;
    double total = 0;
    for (int64_t b = first; b < last; ++b) {
      const uint32_t* const x = packed.words + b * block_samples * words_of(packed.inputs);
      propagate(unit, shape, w, x, lanes_of(packed, b), at);
      total += block_sum(shape, score, at.z, packed, b);
    }
    return total;
  }

  static void forward(const Shape& shape, const float* population, int64_t popsize, int64_t n,
                      const Batch<float>& batch, int64_t block, float* out, float* scratch) {
    const Room need = room(shape);
    const Scratch at(need, scratch);
    uint32_t* const x = reinterpret_cast<uint32_t*>(scratch + need.z + need.x + need.weights);
    const int64_t begin = block * block_samples, count = samples_in(batch.samples, block), lanes = pad<float>(count);
    pack_block(batch, block, x);
    const Unit unit;
    for (int64_t k = 0; k < popsize; ++k, population += n) {
      round_weights(shape, population, at.weights);
      propagate(unit, shape, population, x, lanes, at);
      write_rows(at.z, outputs_of(shape), count, lanes, out + (k * batch.samples + begin) * outputs_of(shape));
    }
  }
};

template <class Unit>
constexpr Bfloat16Fns bfloat16_fns = {Bfloat16Network<Unit>::works,    Bfloat16Network<Unit>::words_of,
                                      Bfloat16Network<Unit>::scratch,  Bfloat16Network<Unit>::pack,
                                      Bfloat16Network<Unit>::evaluate, Bfloat16Network<Unit>::forward,
                                      &pass_fns<float, Bfloat16Pass>};

}  // namespace
}  // namespace popgrad::POPGRAD_TARGET
