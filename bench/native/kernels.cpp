// What an optimizer spends its time on, in float: bytes per second of a step, floating-point operations per
// second of evaluation and gradient. POPGRAD_ISA and POPGRAD_NUM_THREADS choose what is measured.
#include <benchmark/benchmark.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "api.h"
#include "cpu/threads.h"

namespace {

using namespace popgrad;
using Counter = benchmark::Counter;

template <class Entry>
int find(const Entry* entries, int count, const std::string& name) {
  for (int k = 0; k < count; ++k)
    if (name == entries[k].name) return k;
  throw std::invalid_argument("no entry named " + name);
}

// Numbers in [-1, 1) that are the same in every run.
std::vector<float> numbers(size_t count) {
  std::vector<float> values(count);
  uint32_t x = 1;
  for (float& v : values) v = float((x = x * 1664525u + 1013904223u) >> 8) * 0x1p-23f - 1.0f;
  return values;
}

void step_of(benchmark::State& state, const char* name) {
  const StepRule& rule = kernels().steps[find(kernels().steps, kernels().step_count, name)];
  const size_t n = size_t(state.range(0));
  std::vector<float> w = numbers(n), g = numbers(n), s(n * size_t(rule.states));
  // Learning rate 1e-6, decays of 1/2, and 1 for the rest: whatever the order, the numbers stay finite.
  const double fields[16] = {1e-6, 0.5, 0.5, 0.5, 0.5, 1, 1, 1};
  for (auto _ : state) {
    step(rule, fields, StepArgs<float>{w.data(), g.data(), s.data(), n});
    benchmark::DoNotOptimize(w.data());
    benchmark::ClobberMemory();
  }
  // w and every state are read and written, g is read.
  const int64_t passes = 3 + 2 * rule.states;
  state.SetBytesProcessed(int64_t(state.iterations()) * passes * int64_t(n * sizeof(float)));
}
BENCHMARK_CAPTURE(step_of, Sgd, "Sgd")->Arg(2410)->Arg(1 << 24)->UseRealTime();
BENCHMARK_CAPTURE(step_of, Momentum, "Momentum")->Arg(2410)->Arg(1 << 24)->UseRealTime();
BENCHMARK_CAPTURE(step_of, Adam, "Adam")->Arg(2410)->Arg(1 << 24)->UseRealTime();

// The digits network: 64 inputs, 32 hidden units, 10 classes.
struct Digits {
  std::vector<int64_t> sizes = {64, 32, 10};
  Shape shape = {sizes.data(), 2, find(kernels().activations, kernels().activation_count, "relu")};
  int score = find(kernels().scores, kernels().score_count, "cross_entropy");
  int64_t n = parameter_count(shape);
  std::vector<float> X, y;
  Batch<float> batch;

  explicit Digits(int64_t samples) : X(numbers(size_t(samples) * 64)), y(size_t(samples)) {
    for (size_t i = 0; i < y.size(); ++i) y[i] = float(i % 10);
    batch = {X.data(), y.data(), nullptr, nullptr, samples, 64, 1};
  }
  // Multiplications and additions of the two products for one sample.
  static constexpr double forward_operations = 2.0 * (64 * 32 + 32 * 10);
};

void per_second(benchmark::State& state, const char* name, double each) {
  state.counters[name] = Counter(each, Counter::kIsIterationInvariantRate, Counter::kIs1000);
}

void evaluate_digits(benchmark::State& state) {
  const size_t members = size_t(state.range(0));
  const Digits digits(state.range(1));
  const std::vector<float> population = numbers(members * size_t(digits.n));
  const PackedData<float> packed = pack(digits.batch);
  std::vector<double> out(members);
  for (auto _ : state) {
    evaluate(digits.shape, digits.score, population.data(), members, packed, out.data());
    benchmark::DoNotOptimize(out.data());
    benchmark::ClobberMemory();
  }
  const double forwards = double(members) * double(digits.batch.samples);
  per_second(state, "FLOP/s", forwards * Digits::forward_operations);
  per_second(state, "forwards/s", forwards);
}
BENCHMARK(evaluate_digits)->Args({1024, 1797})->UseRealTime()->Unit(benchmark::kMillisecond);

void gradient_digits(benchmark::State& state) {
  const Digits digits(state.range(0));
  const std::vector<float> w = numbers(size_t(digits.n));
  std::vector<float> out(w.size());
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        gradient(digits.shape, digits.score, w.data(), digits.batch, Dropout{0, 0, 0}, out.data()));
    benchmark::ClobberMemory();
  }
  // Forward, weight gradient of both layers, and the way back through the second.
  const double operations = 2 * Digits::forward_operations + 2.0 * 32 * 10;
  per_second(state, "FLOP/s", double(state.range(0)) * operations);
  per_second(state, "samples/s", double(state.range(0)));
}
BENCHMARK(gradient_digits)->Arg(1)->Arg(32)->Arg(1797)->UseRealTime()->Unit(benchmark::kMicrosecond);

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::AddCustomContext("instruction set", kernels().name);
  benchmark::AddCustomContext("threads", std::to_string(thread_count()));
  benchmark::RunSpecifiedBenchmarks();
}
