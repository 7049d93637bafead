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

// One step of a rule over one tensor, its states stored as `packing` says.
void step_with(benchmark::State& state, const StepRule& rule, Packing packing) {
  const size_t n = size_t(state.range(0)), width = packing == Packing::none ? 4 : packing == Packing::bfloat16 ? 2 : 1;
  const size_t blocks = packing == Packing::bytes ? (n + packed_block - 1) / packed_block : 0;
  std::vector<float> w = numbers(n), g = numbers(n), scales[most_states];
  std::vector<float> states[most_states];
  double kept[most_fields] = {};
  StepArgs<float> args{};
  args.w = w.data(), args.g = g.data(), args.kept = kept, args.n = n, args.adapt = true, args.packing = packing;
  for (int k = 0; k < rule.states; ++k) {
    states[k].resize((n * width + 3) / 4);
    scales[k].resize(blocks);
    args.state[k] = states[k].data(), args.scales[k] = scales[k].data();
  }
  // A learning rate of 1e-6 and 1 for the rest, whatever the order: nothing grows faster than the number of steps.
  double fields[most_fields];
  for (double& field : fields) field = 1;
  fields[0] = 1e-6;
  args.fields = fields;
  for (auto _ : state) {
    step(rule, &args, 1);
    ++args.noise;
    benchmark::DoNotOptimize(w.data());
    benchmark::ClobberMemory();
  }
  // w and every state are read and written, g is read. Lamb reads w and g and writes its states in the first sweep, and
  // reads those and writes w in the second.
  const size_t bytes = rule.sums ? 40 * n : 12 * n + 2 * size_t(rule.states) * (n * width + 4 * blocks);
  state.SetBytesProcessed(int64_t(state.iterations()) * int64_t(bytes));
}

void step_of(benchmark::State& state, const char* name, Packing packing = Packing::none) {
  step_with(state, kernels().steps[find(kernels().steps, kernels().step_count, name)], packing);
}
// As little arithmetic as a sweep over so many states can have.
void plain_of(benchmark::State& state, int states) { step_with(state, kernels().plain[states], Packing::none); }

#define SIZES Arg(2410)->Arg(1 << 24)->UseRealTime()
BENCHMARK_CAPTURE(plain_of, 0, 0)->SIZES;
BENCHMARK_CAPTURE(step_of, Sgd, "Sgd")->SIZES;
BENCHMARK_CAPTURE(plain_of, 1, 1)->SIZES;
BENCHMARK_CAPTURE(step_of, Momentum, "Momentum")->SIZES;
BENCHMARK_CAPTURE(plain_of, 2, 2)->SIZES;
BENCHMARK_CAPTURE(step_of, Adam, "Adam")->SIZES;
BENCHMARK_CAPTURE(step_of, Adam_bfloat16, "Adam", Packing::bfloat16)->SIZES;
BENCHMARK_CAPTURE(step_of, Adam_8bit, "Adam", Packing::bytes)->SIZES;
BENCHMARK_CAPTURE(step_of, Lamb, "Lamb")->SIZES;
BENCHMARK_CAPTURE(plain_of, 3, 3)->SIZES;
BENCHMARK_CAPTURE(step_of, AdEmaMix, "AdEmaMix")->SIZES;
BENCHMARK_CAPTURE(plain_of, 4, 4)->SIZES;
BENCHMARK_CAPTURE(step_of, Adan, "Adan")->SIZES;

// The digits network: 64 inputs, 32 hidden units, 10 classes.
struct Digits {
  std::vector<Layer> layers =
      dense_layers({64, 32, 10}, find(kernels().activations, kernels().activation_count, "relu"));
  Shape shape = {layers.data(), int(layers.size())};
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

void evaluate_digits(benchmark::State& state, bool bfloat16) {
  if (bfloat16 && !bfloat16_kernels()) {
    state.SkipWithError("this processor does not multiply bfloat16");
    return;
  }
  const size_t members = size_t(state.range(0));
  const Digits digits(state.range(1));
  const std::vector<float> population = numbers(members * size_t(digits.n));
  const PackedData<float> packed = bfloat16 ? pack_bfloat16(digits.batch) : pack(digits.batch);
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
BENCHMARK_CAPTURE(evaluate_digits, float32, false)->Args({1024, 1797})->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(evaluate_digits, bfloat16, true)->Args({1024, 1797})->UseRealTime()->Unit(benchmark::kMillisecond);

void gradient_digits(benchmark::State& state) {
  const Digits digits(state.range(0));
  const std::vector<float> w = numbers(size_t(digits.n));
  std::vector<float> out(w.size());
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        gradient(digits.shape, digits.score, -1, w.data(), digits.batch, Randomness{0, 0, 0, 0}, out.data()).loss);
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
