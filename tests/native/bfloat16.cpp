// Population sums and raw outputs in bfloat16: the unit in use, and that of AMX on tiles in plain arithmetic, against a
// network in double whose weights, inputs and hidden values are rounded. Gradients in bfloat16, against those in float.
#include "cpu/avx512/bfloat16.h"

#include "api.h"
#include "cpu/avx512/tiles.h"
#include "emulated_tiles.h"
#include "support.h"

using namespace popgrad;
using namespace popgrad::test;

namespace {

double rounded(double value) { return double(test_target::from_bfloat16(test_target::to_bfloat16(float(value)))); }

struct Problem {
  std::vector<int64_t> sizes;
  std::vector<Layer> layers;
  int64_t samples;
  Exact<float> X, y, w;
  Problem(std::vector<int64_t> layer_sizes, int64_t count, Rng& rng)
      : sizes(std::move(layer_sizes)),
        layers(dense_layers(sizes, 1)),  // relu
        samples(count),
        X(size_t(count * sizes.front()), rng, -1.5, 1.5),
        y(size_t(count * sizes.back()), rng, -2, 2),
        w(size_t(parameter_count(shape())), rng, -0.8, 0.8) {}
  Shape shape() const { return {layers.data(), int(layers.size())}; }
  Batch<float> batch() const { return {X.data(), y.data(), nullptr, nullptr, samples, sizes.front(), sizes.back()}; }

  std::vector<double> outputs(int64_t sample) const {
    std::vector<double> a(X.data() + sample * sizes.front(), X.data() + (sample + 1) * sizes.front());
    const float* at = w.data();
    for (size_t l = 0; l + 1 < sizes.size(); ++l) {
      const size_t inputs = a.size(), units = size_t(sizes[l + 1]);
      std::vector<double> z(units);
      for (size_t u = 0; u < units; ++u) {
        z[u] = double(at[units * inputs + u]);
        for (size_t k = 0; k < inputs; ++k) z[u] += rounded(double(at[u * inputs + k])) * rounded(a[k]);
        if (l + 2 < sizes.size()) z[u] = z[u] > 0 ? z[u] : 0;
      }
      at += units * (inputs + 1);
      a = z;
    }
    return a;
  }
};

int score_named(const std::string& name) {
  for (int k = 0; k < kernels().score_count; ++k)
    if (name == kernels().scores[k].name) return k;
  fail(__FILE__, __LINE__, "no score", name);
}

void check(const Bfloat16Fns& fns, const Problem& p, const char* unit) {
  const size_t outputs = size_t(p.sizes.back());
  const int64_t blocks = (p.samples + block_samples - 1) / block_samples;
  const int64_t words = fns.words(p.sizes.front());
  // As in api.cpp: y and the weights are packed by the table, the inputs by the unit. Not a word more than is promised.
  const PackedData<float> plain = pack(p.batch());
  Exact<uint32_t> inputs(size_t(blocks * block_samples * words));
  for (int64_t b = 0; b < blocks; ++b) fns.pack(p.batch(), b, inputs.data());
  Packed<float> packed = plain.view;
  packed.X = nullptr, packed.words = inputs.data();
  const size_t need = fns.scratch(p.shape());
  std::vector<float> memory(need + 32, std::numeric_limits<float>::quiet_NaN());
  float* const scratch = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
  const double sum = fns.evaluate(p.shape(), score_named("mse"), p.w.data(), packed, 0, blocks, scratch);
  Exact<float> z(size_t(p.samples) * outputs);
  for (int64_t b = 0; b < blocks; ++b)
    fns.forward(p.shape(), p.w.data(), 1, int64_t(p.w.size()), p.batch(), b, z.data(), scratch);
  for (const float* past = scratch + need; past < memory.data() + memory.size(); ++past)
    CHECK(std::isnan(*past), unit, "wrote past its scratch memory");
  double want = 0, largest = 0;
  for (int64_t i = 0; i < p.samples; ++i) {
    const std::vector<double> exact = p.outputs(i);
    for (size_t o = 0; o < outputs; ++o) {
      const double d = exact[o] - double(p.y[size_t(i) * outputs + o]);
      want += d * d / double(outputs);
      largest = std::max(largest, std::abs(double(z[size_t(i) * outputs + o]) - exact[o]) / (1 + std::abs(exact[o])));
    }
  }
  // Float sums may round a hidden value to the other neighbor; without hidden layers nothing is rounded twice.
  const double allowed = p.sizes.size() > 2 ? 1e-2 : 1e-5;
  CHECK(largest <= allowed, unit, "outputs", largest, "samples", p.samples, "inputs", p.sizes.front());
  CHECK(std::abs(sum - want) <= allowed / 10 * want, unit, sum, want, "samples", p.samples);
}

// Memory of a size that a function promises, aligned to a cache line, with NaN around it.
struct Guarded {
  size_t size;
  std::vector<float> memory;
  explicit Guarded(size_t count) : size(count), memory(count + 48, std::numeric_limits<float>::quiet_NaN()) {}
  float* data() { return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64); }
  void check(const char* what) {
    for (const float* past = data() + size; past < memory.data() + memory.size(); ++past)
      CHECK(std::isnan(*past), "a gradient wrote past its", what);
  }
};

// All items of all stages, each stage from its last item to its first; or block by block.
std::vector<double> gradient(const GradientFns<float>& fns, const Problem& p, bool by_blocks, double& loss) {
  const int64_t blocks = (p.samples + block_samples - 1) / block_samples;
  std::vector<double> losses(static_cast<size_t>(blocks)), metrics(losses);
  Exact<float> out(p.w.size());
  for (float& g : out) g = std::numeric_limits<float>::quiet_NaN();
  const PassArgs<float> args{p.shape(),     score_named("mse"),    -1,           p.w.data(),   p.batch(),  0,
                             p.samples,     1 / double(p.samples), {0, 0, 1, 0}, {nullptr, 1}, out.data(), false,
                             losses.data(), metrics.data()};
  const int64_t together = by_blocks ? std::min(p.samples, block_samples) : p.samples;
  Guarded memory(fns.memory(p.shape(), together, p.sizes.back(), false)), scratch(fns.scratch(p.shape()));
  if (by_blocks)
    fns.run_blocks(args, memory.data(), scratch.data());
  else
    for (int stage = 0; stage < fns.stages(p.shape()); ++stage)
      for (int64_t item = fns.items(p.shape(), p.samples, stage); item-- > 0;)
        fns.run(args, stage, item, memory.data(), scratch.data());
  memory.check("memory"), scratch.check("scratch memory");
  loss = 0;
  for (const double sum : losses) loss += sum;
  return {out.begin(), out.end()};
}

void check_gradient(const Target& target, const Problem& p) {
  double want_loss = 0, loss = 0;
  const std::vector<double> want = gradient(*target.kernels->gradient_f32, p, false, want_loss);
  for (const bool by_blocks : {false, true}) {
    const std::vector<double> got = gradient(*target.bfloat16->gradient, p, by_blocks, loss);
    double off = 0, norm = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      off += (got[i] - want[i]) * (got[i] - want[i]);
      norm += want[i] * want[i];
    }
    // A hidden value near zero may change sides, and with it a column of a small gradient.
    CHECK(std::sqrt(off) <= 3e-2 * std::sqrt(norm) + 1e-6, target.name, std::sqrt(off / norm), "samples", p.samples,
          "inputs", p.sizes.front(), "by blocks", by_blocks);
    CHECK(std::abs(loss - want_loss) <= 1e-2 * want_loss, target.name, loss, want_loss);
  }
}

}  // namespace

int main() {
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bf16"))
    skip("this processor lacks AVX-512 BF16");
  using Emulated = test_target::TileUnit<EmulatedTiles>;
  CHECK(test_target::bfloat16_fns<Emulated>.works());
  for (const Target& target : targets())
    if (target.bfloat16 && target.supported) CHECK(target.bfloat16->works(), target.name);
  Rng rng{7};
  for (const int64_t samples : {1, 17, 64, 70, 200})
    for (const std::vector<int64_t>& sizes : std::vector<std::vector<int64_t>>{
             {1, 1}, {7, 3}, {33, 20}, {64, 32, 10}, {5, 17, 40, 3}, {100, 1, 2}, {1100, 2}}) {
      const Problem p(sizes, samples, rng);
      check(test_target::bfloat16_fns<Emulated>, p, "emulated tiles");
      for (const Target& target : targets())
        if (target.bfloat16 && target.supported) {
          check(*target.bfloat16, p, target.name);
          check_gradient(target, p);
        }
    }
}
