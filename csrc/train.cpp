#include "train.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "cpu/threads.h"

namespace popgrad {
namespace {

using Clock = std::chrono::steady_clock;

// Keeps signals from ending a step in the middle: parameters and state change together.
class Whole {
 public:
  Whole() : before_(std::exchange(between_items, nullptr)) {}
  ~Whole() { between_items = before_; }
  Whole(const Whole&) = delete;

 private:
  const BetweenItems before_;
};

// The batch of a step: consecutive places of the epoch's order, or all samples, which need no order.
template <class T>
Batch<T> batch_of(Training<T>& training, int64_t step) {
  Batch<T> batch = training.data;
  const int64_t samples = batch.samples, size = training.batch_size;
  if (size == samples) return batch;
  const int64_t each = (samples + size - 1) / size, epoch = (step - 1) / each, place = (step - 1) % each;
  if (epoch != training.epoch) {
    training.order.resize(size_t(samples));
    shuffle(training.shuffle_seed, uint32_t(epoch), samples, training.order.data());
    training.epoch = epoch;
  }
  batch.rows = training.order.data() + place * size;
  batch.samples = std::min(size, samples - place * size);
  return batch;
}

template <class T>
Seen gradient_of(const Training<T>& t, const Batch<T>& batch) {
  if constexpr (sizeof(T) == sizeof(float))
    if (t.bfloat16) return gradient_bfloat16(t.shape, t.score, t.metric, t.w, batch, t.random, t.gradient);
  return gradient(t.shape, t.score, t.metric, t.w, batch, t.random, t.gradient);
}

// Gives every tensor its plan from this row of the table.
template <class T>
void take_plans(Training<T>& training, const StepTable& table, int64_t row) {
  const size_t count = table.plans.size();
  training.fields.resize(count * most_fields);
  training.plans.resize(count);
  for (size_t p = 0; p < count; ++p) {
    const PlanTable& plan = table.plans[p];
    double* const fields = training.fields.data() + p * most_fields;
    std::copy_n(plan.fields + row * table.width, table.width, fields);
    training.plans[p] = {fields, plan.extras ? plan.extras + row : nullptr};
  }
  set_plans(training.tensors, training.tensor_count, training.plans.data(), table.first + uint32_t(row));
}

// One batch; false if the run ends.
template <class T>
bool train_batch(Training<T>& training, const StepTable& table, int64_t number, Running& running) {
  training.random.step = uint32_t(number);
  const Batch<T> batch = batch_of(training, number);
  const Seen seen = gradient_of(training, batch);
  ++running.steps;
  running.loss += seen.loss * seen.weight;
  running.metric += seen.metric * seen.weight;
  running.weight += seen.weight;
  if (!std::isfinite(seen.loss)) {
    running.failed = true;
    return false;
  }
  const Whole whole;
  take_plans(training, table, running.taken);
  running.taken += step(*training.rule, training.tensors, training.tensor_count);
  return true;
}

// Runs until the span ends, or `pause` comes; true if nothing is left to do.
template <class T>
bool train_until(Training<T>& training, const StepTable& table, const Span& span, Clock::time_point pause,
                 const std::atomic<bool>& stop, Running& running) {
  while (running.steps < span.count && running.taken < table.count && !running.failed) {
    if (!train_batch(training, table, span.first + running.steps, running)) return true;
    if (between_items) between_items();
    const Clock::time_point now = Clock::now();
    if (now >= span.until) return true;
    if (now >= pause || stop.load(std::memory_order_relaxed)) return false;
  }
  return true;
}

}  // namespace

template <class T>
void train(Training<T>& training, const StepTable& table, const Span& span, Running& running) {
  const std::atomic<bool> stop = false;
  train_until(training, table, span, Clock::time_point::max(), stop, running);
}

template <class T>
void train_all(std::vector<Job<T>>& jobs) {
  if (jobs.size() == 1) return train(*jobs[0].training, jobs[0].table, jobs[0].span, *jobs[0].running);
  // In rounds, because a thread that has no job left waits for the others without looking for signals.
  constexpr auto round = std::chrono::milliseconds(20);
  std::vector<Job<T>*> left;
  for (Job<T>& job : jobs) left.push_back(&job);
  while (!left.empty()) {
    std::vector<char> done(left.size());
    std::atomic<bool> stop = false;
    const Clock::time_point pause = Clock::now() + round;
    parallel(int64_t(left.size()), 1e12, [&](int64_t k) {
      Job<T>& job = *left[size_t(k)];
      try {
        done[size_t(k)] = train_until(*job.training, job.table, job.span, pause, stop, *job.running);
      } catch (...) {  // of a signal handler, on the calling thread
        stop = true;
        throw;
      }
    });
    size_t kept = 0;
    for (size_t k = 0; k < left.size(); ++k)
      if (!done[k]) left[kept++] = left[k];
    left.resize(kept);
  }
}

template void train(Training<float>&, const StepTable&, const Span&, Running&);
template void train(Training<double>&, const StepTable&, const Span&, Running&);
template void train_all(std::vector<Job<float>>&);
template void train_all(std::vector<Job<double>>&);

}  // namespace popgrad
