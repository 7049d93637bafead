// The narrow waist: every native operation, once for float and once for double. It checks sizes, picks the
// table of the instruction set in use and splits the work over threads. Pointers are trusted: the
// bindings check shapes, types and alignment. Every function may be called without the GIL.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "table.h"

namespace popgrad {

// The table in use, the functions that multiply bfloat16 numbers, and the name of their instruction set (null if there
// are none). The first call picks them; it throws std::runtime_error if POPGRAD_ISA is not available.
const Kernels& kernels();
const Bfloat16Fns* bfloat16_kernels();
const char* bfloat16_name();

// One update of every tensor of a list. A rule's first `kept` fields come from StepArgs::kept and go back there.
// clip_norm and skip_nonfinite are the same in all extras, and act on the norm of all gradients together. False if
// nothing was changed, because the gradient is not finite and the extras say to skip it.
bool step(const StepRule&, const StepArgs<float>* tensors, size_t count);
bool step(const StepRule&, const StepArgs<double>* tensors, size_t count);

// What a step does to the tensors that follow one plan: the fields of the rule (most_fields numbers), and extras or
// null.
struct Plan {
  const double* fields;
  const StepExtras* extras;
};

// Gives each tensor its plan of step t, which also seeds the random numbers.
template <class T>
void set_plans(StepArgs<T>* tensors, size_t count, const Plan* plans, uint32_t t) {
  for (size_t k = 0; k < count; ++k) {
    tensors[k].fields = plans[tensors[k].plan].fields;
    tensors[k].extras = plans[tensors[k].plan].extras;
    tensors[k].noise = t * 0x85EBCA6Bu;
  }
}

// out = a permutation of 0 .. n - 1 as a function of the seed and the epoch, for n <= 2^32.
void shuffle(uint64_t seed, uint32_t epoch, int64_t n, int64_t* out);

// One move of a population of `popsize` rows.
void move(const MoveRule&, const MoveArgs<float>&, size_t popsize);
void move(const MoveRule&, const MoveArgs<double>&, size_t popsize);

// out = sum over rows of weights[p] * (rows[p] - center).
void combine_rows(const double* weights, const float* rows, const float* center, size_t count, size_t n, float* out);
void combine_rows(const double* weights, const double* rows, const double* center, size_t count, size_t n, double* out);

// out[k] = mean over the other rows of |row - rows[which[k]]|, by coordinate.
void spread(const float* rows, size_t count, const int64_t* which, size_t wanted, size_t n, float* out);
void spread(const double* rows, size_t count, const int64_t* which, size_t wanted, size_t n, double* out);

double sum_squares(const float* x, size_t n);
double sum_squares(const double* x, size_t n);

// Fully connected layers of these sizes, inputs first, with the activation between them, and the dropout of each hidden
// layer.
std::vector<Layer> dense_layers(const std::vector<int64_t>& sizes, int activation,
                                const std::vector<double>& dropout = {});
int64_t parameter_count(const Shape&);

// A batch in the layout of the population kernels, made once and evaluated many times.
template <class T>
struct PackedData {
  Packed<T> view;
  double total_weight;
  std::unique_ptr<T[], void (*)(T*)> memory;
};
PackedData<float> pack(const Batch<float>&);
PackedData<double> pack(const Batch<double>&);
// For evaluation in bfloat16. Needs bfloat16_kernels().
PackedData<float> pack_bfloat16(const Batch<float>&);

// out[p] = weighted mean of the score of the network whose parameters are row p of (popsize, parameter_count).
void evaluate(const Shape&, Scoring, const float* population, size_t popsize, const PackedData<float>&, double* out);
void evaluate(const Shape&, Scoring, const double* population, size_t popsize, const PackedData<double>&, double* out);

// The mean of several scores of one network in one pass over the samples, each with the targets and weights of its
// data, whose inputs are the same and not bfloat16. Raw outputs are written into outputs (samples, outputs) unless it
// is null.
void measure(const Shape&, const std::vector<Scoring>& scores, const std::vector<const PackedData<float>*>&,
             const float* w, double* means, float* outputs);
void measure(const Shape&, const std::vector<Scoring>& scores, const std::vector<const PackedData<double>*>&,
             const double* w, double* means, double* outputs);

// A population that is not stored: member p is center + sigma * noise(p), a pure function of (seed, stream, p).
// If it is antithetic, member p + popsize / 2 has the noise of member p, negated.
struct NoisePart {
  int64_t rows,
      columns;  // a matrix whose noise is A B^T / sqrt(rank); without rows, numbers with independent noise
};
template <class T>
struct Perturbations {
  const T* center;
  double sigma;
  size_t popsize;
  bool antithetic;
  uint64_t seed;
  uint32_t stream;
  int rank;  // of the matrices
  std::vector<NoisePart> parts;
};

size_t parameter_count(const std::vector<NoisePart>&);
// How many normal numbers a member takes: of a matrix A (rows, rank) and B (columns, rank), each column by column.
size_t drawn_count(const std::vector<NoisePart>&, int rank);

// Evaluates such a population. If it has matrices, the parts must be a weight and a bias for each layer of the network,
// and the data must not come from pack_bfloat16.
void evaluate(const Shape&, Scoring, const Perturbations<float>&, const PackedData<float>&, double* out);
void evaluate(const Shape&, Scoring, const Perturbations<double>&, const PackedData<double>&, double* out);

// Members [first, first + count) as rows of out.
void rows(const Perturbations<float>&, size_t first, size_t count, float* out);
void rows(const Perturbations<double>&, size_t first, size_t count, double* out);

// out = sum over members of weights[p] * noise(p).
void combine_noise(const Perturbations<float>&, const double* weights, float* out);
void combine_noise(const Perturbations<double>&, const double* weights, double* out);

// Raw outputs (popsize, samples, outputs) of the networks whose parameters are the rows of (popsize, parameter_count).
void forward(const Shape&, const float* population, size_t popsize, const Batch<float>&, float* out);
void forward(const Shape&, const double* population, size_t popsize, const Batch<double>&, double* out);
void forward_bfloat16(const Shape&, const float* population, size_t popsize, const Batch<float>&, float* out);

// What a gradient saw of a batch: weighted means of the loss and of another score, and the sum of the weights.
struct Seen {
  double loss, metric, weight;
};
// The gradient of the weighted mean loss is written to out (parameter_count). `metric` is a score that shares the
// targets of the loss, or -1.
Seen gradient(const Shape&, Scoring score, Scoring metric, const float* w, const Batch<float>&, const Randomness&,
              float* out);
Seen gradient(const Shape&, Scoring score, Scoring metric, const double* w, const Batch<double>&, const Randomness&,
              double* out);
// Its products are of bfloat16 numbers. Needs bfloat16_kernels().
Seen gradient_bfloat16(const Shape&, Scoring score, Scoring metric, const float* w, const Batch<float>&,
                       const Randomness&, float* out);

}  // namespace popgrad
