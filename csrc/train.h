// Many steps of one network in one call, or of many networks on several threads.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <vector>

#include "api.h"

namespace popgrad {

// What the steps of a call saw, summed in the order of the steps.
struct Running {
  int64_t steps = 0;                        // batches used
  int64_t taken = 0;                        // of them, steps that were not skipped
  double loss = 0, metric = 0, weight = 0;  // sums over samples of weight * loss, of weight * metric, of weight
  bool failed = false;                      // the last loss was not finite, and no step was taken along its gradient
};

// A network, its training samples, and the state of its optimizer.
template <class T>
struct Training {
  Shape shape;
  Scoring score, metric;  // metric: a score that shares the targets of the loss, or -1
  Batch<T> data;          // all samples
  bool bfloat16;          // see gradient_bfloat16; only for float
  int64_t batch_size;
  uint64_t shuffle_seed;
  Randomness random;
  T* w;
  T* gradient;  // memory for it
  const StepRule* rule;
  StepArgs<T>* tensors;  // of w, with the gradient
  size_t tensor_count;

  std::vector<double> fields{};  // of the plans of the step, most_fields each
  std::vector<Plan> plans{};
  std::vector<int64_t> order{};  // of the samples in this epoch
  int64_t epoch = -1;
};

// One plan in consecutive steps: for each, the fields of the rule, and extras or nothing.
struct PlanTable {
  const double* fields;      // (count, fields)
  const StepExtras* extras;  // (count), or null
};

// All plans of consecutive steps.
struct StepTable {
  std::vector<PlanTable> plans;
  int width;  // number of fields
  int64_t count;
  uint32_t first;  // the number of the first step, counted by the optimizer from 1
};

// Which batches to use: those of steps first, first + 1, ... (counted from 1; see Batches in train/batches.py), `count`
// of them unless `until` comes earlier.
struct Span {
  int64_t first, count;
  std::chrono::steady_clock::time_point until;
};

// Takes the steps of a table, at most one per batch; stops after a loss that is not finite. A signal handler that
// throws ends the call between two steps: `running` then holds the steps done, and w and the state are those after
// them.
template <class T>
void train(Training<T>&, const StepTable&, const Span&, Running&);

// The same for several networks, which threads share.
template <class T>
struct Job {
  Training<T>* training;
  StepTable table;
  Span span;
  Running* running;
};
template <class T>
void train_all(std::vector<Job<T>>&);

extern template void train(Training<float>&, const StepTable&, const Span&, Running&);
extern template void train(Training<double>&, const StepTable&, const Span&, Running&);
extern template void train_all(std::vector<Job<float>>&);
extern template void train_all(std::vector<Job<double>>&);

}  // namespace popgrad
