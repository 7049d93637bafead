// The interface of a backend: one constant table of function pointers, filled from the lists in csrc/kernels.
// Only plain pointers and plain structs cross this boundary.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace popgrad {

// Options that act around a rule in its sweep, in this order: g *= scale; g is clipped to [-clip, clip]; g += l2 * w;
// w -= decay * w; the rule; w moves toward zero by l1, but not past zero; the average of the weights, if there is one,
// moves toward w by the share mix. Before the sweep, popgrad::step scales gradients down whose norm, times |scale|, is
// above clip_norm, and takes no step if the norm is not finite and skip_nonfinite is set; normal numbers times `noise`
// are added after the clipping. After the sweep, rows of matrices are scaled down to the norm max_norm; the average
// then follows.
struct StepExtras {
  double scale, clip, l2, decay, l1, mix, clip_norm = __builtin_inf();
  bool skip_nonfinite = false;
  double max_norm = __builtin_inf(), noise = 0;
  uint64_t noise_seed = 0;
};

inline constexpr int most_states = 4;
inline constexpr size_t packed_block = 256;  // 8-bit values that share one scale

// Storage of a tensor's states: as T, or (float only) in fewer bits with stochastic rounding.
enum class Packing { none, bfloat16, bytes };

// One tensor to update in place.
template <class T>
struct StepArgs {
  T* w;
  const T* g;
  void* state[most_states];    // n values each
  float* scales[most_states];  // 8-bit states: one per packed_block values
  T* average;                  // of the weights, or null
  double* kept;                // the numbers that the rule keeps per tensor
  size_t n;
  const double* fields;      // most_fields numbers; the rule names the first ones
  const StepExtras* extras;  // or null
  Packing packing;
  bool adapt;      // false: a rule with sums gets zeros in place of the sums
  uint32_t noise;  // seeds the stochastic rounding, together with the element's index
  int plan;        // which of the plans of a step gives fields and extras
  size_t offset;   // index of the first element in the flat vector, for noise of the gradient
  size_t columns;  // inputs of a unit in a matrix (units, inputs), whose rows max_norm limits; 0 for other tensors
};

template <class T>
using StepFn = void (*)(const double* fields, const StepArgs<T>&, size_t begin, size_t end);
template <class T>
using MeasureFn = void (*)(const double* fields, const StepArgs<T>&, size_t begin, size_t end, double* sums);

// Rules with `sums` > 0 take two sweeps. The first computes sums over a tensor (or over all tensors), from which
// `settle` computes the fields of the second. The first `kept` fields persist between steps, in StepArgs::kept.
struct StepRule {
  const char* name;
  const char* fields;
  int states, sums, kept;
  bool whole;    // the sums are over all tensors
  int positive;  // bit k: state k is never negative; -1: the states cannot be stored in 8 bits
  StepFn<float> f32;
  StepFn<double> f64;
  MeasureFn<float> measure_f32;
  MeasureFn<double> measure_f64;
  void (*settle)(double* fields, const double* sums);
};

inline constexpr int most_fields = 32, most_sums = 2;

// One move of a population with n coordinates.
template <class T>
struct MoveArgs {
  T* out[2];
  const T* source[4];
  size_t source_stride[4];  // n, or 0 if all members share one row
  const int64_t* row[4];    // row of the source that each member uses; null: row k for member k
  const double* fields;
  size_t field_stride;       // fields per member, or 0 if all members share the fields
  const int64_t* chosen;     // one coordinate per member, or null
  const uint32_t* identity;  // member index that seeds the random numbers; null: k for member k
  uint64_t seed;
  uint32_t stream, generation;
  size_t n;
};

template <class T>
using MoveFn = void (*)(const MoveArgs<T>&, size_t member, size_t begin, size_t end);

struct MoveRule {
  const char* name;
  const char* fields;
  int outputs, sources;
  MoveFn<float> f32;
  MoveFn<double> f64;
};

// One layer of a network: activation(W x + b).
struct Layer {
  int64_t inputs, outputs;
  int activation;      // index into Kernels::activations, or no_activation
  double dropout = 0;  // probability with which a training gradient drops an output
};
inline constexpr int no_activation = -1;

// The layers from the inputs to the raw outputs. Their parameters are consecutive, in the same order.
struct Shape {
  const Layer* layers;
  int count;
};

// Samples, read in place: sample i is row rows[i] of X and y, or row i if rows is null.
template <class T>
struct Batch {
  const T* X;
  const T* y;       // (., y_width): a class index as a number, or one target per output
  const T* weight;  // one per row of X, or null
  const int64_t* rows;
  int64_t samples, inputs, y_width;
};

// What a training gradient draws, besides the dropout of layers, as a function of (seed, step): nothing at step 0.
struct Randomness {
  double noise;  // standard deviation of the normal numbers that are added to the inputs
  double mixup;  // the parameter of the Beta distribution of mixup, or 0
  uint64_t seed;
  uint32_t step;
};

// Every sample of a batch is mixed with its partner, and so are their losses.
struct Mixup {
  const int64_t* partners;  // places in the batch, or null
  double share;             // of the sample; the partner has the rest
};

// Samples for evaluating a population, packed in blocks of block_samples, one sample per lane: input i of a block is at
// X[i * lanes + lane]. In a partial last block, the number of lanes is rounded up to whole vectors.
template <class T>
struct Packed {
  const T* X;       // (blocks, inputs, lanes); every block is allocated in full size
  const T* y;       // (blocks, y_width, lanes)
  const T* weight;  // (blocks, lanes); zero for lanes past the end
  const uint32_t*
      words;  // instead of X, or null: inputs as bfloat16, two to a word, (blocks, words of the inputs, lanes)
  int64_t samples, inputs, y_width;
};

// One candidate whose first layer is not stored: the layer is that of the center plus a low-rank matrix.
template <class T>
struct Moved {
  const T* start;      // (blocks, outputs of the layer, lanes): the layer at the center
  const T* projected;  // sample block b, column q: `projected + b * block_stride + q * column_stride`, one per lane
  int64_t block_stride, column_stride;
  const T* left;  // (rank, outputs)
  const T* bias;  // (outputs), noise
  T left_scale, bias_scale;
  int rank;
  const T* rest;  // parameters of the later layers
};

// A score by its index in Kernels::scores, with its number, such as the delta of "huber"; most scores have none.
struct Scoring {
  int index;
  double setting;
  constexpr Scoring(int index_in, double setting_in = 0) : index(index_in), setting(setting_in) {}
};

template <class T>
struct NetworkFns {
  // Number of elements of scratch memory, aligned to 64 bytes, for every function.
  size_t (*scratch)(const Shape&);
  // X may be null.
  void (*pack)(const Batch<T>&, int64_t block, T* X, T* y, T* weight);
  // Sum of weight * score over the blocks [first, last).
  double (*evaluate)(const Shape&, Scoring, const T* w, const Packed<T>&, int64_t first, int64_t last, T* scratch);
  // The same for several scores in one pass: sums[k] for score k, with the weights and targets of data[k] and the
  // inputs of data[0]. Writes raw outputs to out (samples, outputs) unless out is null.
  void (*measure)(const Shape&, const Scoring* scores, const Packed<T>* data, int count, const T* w, int64_t first,
                  int64_t last, double* sums, T* out, T* scratch);
  // The next three functions evaluate many candidates near a center w. The first layer at the center, for one block:
  void (*first_layer)(const Shape&, const T* w, const Packed<T>&, int64_t block, T* z);
  // out[b][q][k] (block_samples) = the product of row q of candidate k, at right + k * stride + q * inputs, with the
  // inputs.
  void (*project)(const Shape&, const T* right, int64_t stride, int64_t candidates, int rank, const Packed<T>&,
                  int64_t first, int64_t last, T* out);
  double (*evaluate_moved)(const Shape&, Scoring, const Moved<T>&, const Packed<T>&, int64_t first, int64_t last,
                           T* scratch);
  // C (rows, columns) += A B, where A(r, k) = A[k * a_stride + r] and B(k, j) = B[k * b_stride + j]; up to a vector
  // past the end of B's last row is read.
  void (*add_product)(const T* A, int64_t a_stride, const T* B, int64_t b_stride, T* C, int64_t rows, int64_t depth,
                      int64_t columns);
  // Raw outputs of one block of samples, written into out (popsize, samples, outputs); population (popsize, n).
  void (*forward)(const Shape&, const T* population, int64_t popsize, int64_t n, const Batch<T>&, int64_t block, T* out,
                  T* scratch);
};

// One pass of a batch through a network and back: the gradient of scale * sum of weight * loss.
template <class T>
struct PassArgs {
  Shape shape;
  Scoring score, metric;  // the loss, and a score that is summed along with it, or -1
  const T* w;
  Batch<T> batch;
  int64_t begin, samples;  // the samples [begin, begin + samples) of the batch
  double scale;
  Randomness random;
  Mixup mixup;
  T* gradient;
  bool add;                  // to what `gradient` holds
  double *losses, *metrics;  // sums of weight * score, one per block
};

// The items of a stage are independent of one another, and need all earlier stages.
template <class T>
struct GradientFns {
  // Elements of memory for a pass, aligned to 64 bytes, and of scratch memory for an item.
  size_t (*memory)(const Shape&, int64_t samples, int64_t y_width, bool mixed);
  size_t (*scratch)(const Shape&);
  int (*stages)(const Shape&);
  int64_t (*items)(const Shape&, int64_t samples, int stage);
  void (*run)(const PassArgs<T>&, int stage, int64_t item, T* memory, T* scratch);
  // All items of all stages, block by block, in the memory for one block.
  void (*run_blocks)(const PassArgs<T>&, T* memory, T* scratch);
};

struct Activation {
  const char* name;
  bool differentiable;
};

struct Score {
  const char* name;
  bool labels, differentiable;
};

// out = a permutation of 0 .. n - 1, as a function of the seed, the stream and the generation. Durstenfeld 1964; place
// i draws 64 bits, so n may be up to 2^32.
using ShuffleFn = void (*)(uint64_t seed, uint32_t stream, uint32_t generation, int64_t n, int64_t* out);

// A number from the Beta distribution with both parameters `alpha`, as a function of the seed, the stream and the
// generation.
using BetaFn = double (*)(uint64_t seed, uint32_t stream, uint32_t generation, double alpha);

template <class T>
struct RowFns {
  double (*sum_squares)(const T* x, size_t begin, size_t end);
  // out[i] = sum over rows of weights[p] * (rows[p][i] - center[i]), in the order of the rows.
  void (*combine)(const double* weights, const T* rows, const T* center, size_t count, size_t n, T* out, size_t begin,
                  size_t end);
  // out[k][i] = mean over the other rows e of |rows[e][i] - rows[which[k]][i]|.
  void (*spread)(const T* rows, size_t count, const int64_t* which, size_t wanted, size_t n, T* out, size_t begin,
                 size_t end);
  // Scales the rows [begin, end) of a matrix down to the norm `largest`. An average of the matrix, unless it is null,
  // then moves toward it by the share mix.
  void (*limit)(T* matrix, size_t columns, double largest, T* average, T mix, size_t begin, size_t end);
};

// The noise of candidates that are not stored (kernels/random.h), with the same bits on every instruction set.
template <class T>
struct NoiseFns {
  // out[i - begin] = coordinate i of a member's noise; begin is a multiple of noise_piece.
  void (*draw)(uint64_t seed, uint32_t stream, uint32_t member, size_t begin, size_t end, T* out);
  // out (rows, columns) = scale * sum over q of left[q * rows + .] right[q * columns + .].
  void (*expand)(const T* left, const T* right, int rank, int64_t rows, int64_t columns, T scale, T* out);
  // out = center + sigma * noise; out may be the noise itself.
  void (*perturb)(const T* center, T sigma, const T* noise, size_t n, T* out);
  // out[i] = sum over members of weights[p] * noise, in order; members of weight zero are not drawn.
  void (*combine)(uint64_t seed, uint32_t stream, const double* weights, size_t popsize, size_t begin, size_t end,
                  T* out);
  // out = g * scale, clipped to [-clip, clip], + sigma * noise, for n coordinates from coordinate `first` of the noise.
  void (*disturb)(uint64_t seed, uint32_t stream, uint32_t member, size_t first, size_t n, const T* g, T scale, T clip,
                  T sigma, T* out);
};

// Evaluation and gradients with bfloat16 products summed in float, for processors with such instructions. Weights,
// inputs and hidden values are rounded to the nearest bfloat16 number; all other values are float.
struct Bfloat16Fns {
  bool (*works)();                   // whether products are correct on this processor
  int64_t (*words)(int64_t inputs);  // words per sample, padding included
  size_t (*scratch)(const Shape&);
  void (*pack)(const Batch<float>&, int64_t block, uint32_t* words);
  double (*evaluate)(const Shape&, Scoring, const float* w, const Packed<float>&, int64_t first, int64_t last,
                     float* scratch);
  void (*forward)(const Shape&, const float* population, int64_t popsize, int64_t n, const Batch<float>&, int64_t block,
                  float* out, float* scratch);
  // Derivatives are rounded too; losses, activations, biases and the gradient are float.
  const GradientFns<float>* gradient;
};

inline constexpr size_t noise_piece = 256;    // coordinates of a member per call of the generator
inline constexpr int64_t block_samples = 64;  // samples per block; determines the order of sums

struct Kernels {
  const char* name;
  const StepRule* steps;
  int step_count;
  const StepRule* plain;  // plain[k]: k states with minimal arithmetic, a reference for bandwidth
  const MoveRule* moves;
  int move_count;
  const Activation* activations;
  int activation_count;
  const Score* scores;
  int score_count;
  const NetworkFns<float>* network_f32;
  const NetworkFns<double>* network_f64;
  const GradientFns<float>* gradient_f32;
  const GradientFns<double>* gradient_f64;
  const RowFns<float>* rows_f32;
  const RowFns<double>* rows_f64;
  const NoiseFns<float>* noise_f32;
  const NoiseFns<double>* noise_f64;
  ShuffleFn shuffle;
  BetaFn beta;
};

}  // namespace popgrad
