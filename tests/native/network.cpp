// Forward, evaluate and gradient of the multilayer perceptron, in the instruction set that POPGRAD_ISA names:
// against a scalar network in double, central differences, and bit by bit between numbers of threads.
#include <algorithm>
#include <limits>
#include <string>

#include "api.h"
#include "cpu/threads.h"
#include "streams.h"
#include "support.h"

using namespace popgrad;
using namespace popgrad::test;

namespace {

double positive(double z) { return z < 0 ? 0 : z; }
double sigmoid(double z) { return 1 / (1 + std::exp(-z)); }
double softplus(double z) { return positive(z) + std::log1p(std::exp(-std::abs(z))); }

double activation(const std::string& name, double z) {
  if (name == "identity") return z;
  if (name == "relu") return positive(z);
  if (name == "leaky_relu") return z < 0 ? 0.01 * z : z;
  if (name == "elu") return z < 0 ? std::expm1(z) : z;
  if (name == "gelu") return 0.5 * z * std::erfc(-z / std::numbers::sqrt2);
  if (name == "silu") return z * sigmoid(z);
  if (name == "tanh") return std::tanh(z);
  if (name == "sigmoid") return sigmoid(z);
  if (name == "softplus") return softplus(z);
  if (name == "sin") return std::sin(z);
  if (name == "step") return z > 0 ? 1 : 0;
  fail(__FILE__, __LINE__, "no formula in this test for the activation", name);
}

// A number for every score that has one.
double setting_of(const std::string& name) {
  if (name == "cross_entropy" || name == "binary_cross_entropy") return 0.125;
  if (name == "focal" || name == "binary_focal") return 1.5;
  if (name == "huber") return 0.75;
  return name == "quantile" ? 0.875 : 0;
}

double score(const std::string& name, double setting, const std::vector<double>& z, const double* y) {
  const size_t outputs = z.size();
  const auto mean = [&](auto each) {
    double sum = 0;
    for (size_t o = 0; o < outputs; ++o) sum += each(z[o], y[o]);
    return sum / double(outputs);
  };
  const double top = *std::max_element(z.begin(), z.end());
  double sum = 0, shifts = 0;
  for (const double v : z) sum += std::exp(v - top), shifts += v - top;
  if (name == "cross_entropy") {
    const double label = z[size_t(y[0])] - top;
    return std::log(sum) - (1 - setting) * label - setting * shifts / double(outputs);
  }
  if (name == "focal") {
    const double log_p = z[size_t(y[0])] - top - std::log(sum);
    return -std::pow(-std::expm1(log_p), setting) * log_p;
  }
  if (name == "error_rate") return std::max_element(z.begin(), z.end()) - z.begin() == std::ptrdiff_t(y[0]) ? 0 : 1;
  if (name == "binary_cross_entropy")
    return mean([&](double a, double b) { return softplus(a) - a * ((1 - setting) * b + setting / 2); });
  if (name == "binary_focal")
    return mean([&](double a, double b) {
      return b * std::pow(sigmoid(-a), setting) * softplus(-a) + (1 - b) * std::pow(sigmoid(a), setting) * softplus(a);
    });
  if (name == "mse") return mean([](double a, double b) { return (a - b) * (a - b); });
  if (name == "mae") return mean([](double a, double b) { return std::abs(a - b); });
  if (name == "huber")
    return mean([&](double a, double b) {
      const double d = std::abs(a - b);
      return d < setting ? 0.5 * d * d : setting * (d - 0.5 * setting);
    });
  if (name == "quantile")
    return mean([&](double a, double b) { return std::max(setting * (b - a), (setting - 1) * (b - a)); });
  if (name == "poisson") return mean([](double a, double b) { return std::exp(a) - a * b; });
  if (name == "poisson_deviance")
    return mean([](double a, double b) { return 2 * ((b > 0 ? b * std::log(b) : 0) - a * b - b + std::exp(a)); });
  if (name == "binary_error_rate") return mean([](double a, double b) { return (a > 0) != (b > 0.5) ? 1.0 : 0.0; });
  fail(__FILE__, __LINE__, "no formula in this test for the score", name);
}

// A network, its data and what is asked of it. Every number is one that float holds.
struct Problem {
  std::vector<int64_t> sizes;
  std::vector<Layer> layers;
  int activation;
  Scoring score;
  int64_t samples, have;  // have rows in X, of which `samples` take part
  Exact<double> X, y, weight, w;
  Exact<int64_t> rows;
  bool weighted, gathered;
  double rate;  // of dropout
  Randomness random;

  Problem(std::vector<int64_t> layer_sizes, int activation, int score_index, int64_t samples, bool weighted,
          bool gathered, double rate, uint64_t seed = 1)
      : sizes(std::move(layer_sizes)),
        layers(dense_layers(sizes, activation, std::vector<double>(sizes.size() - 2, rate))),
        activation(activation),
        score{score_index, setting_of(kernels().scores[score_index].name)},
        samples(samples),
        have(gathered ? samples + 5 : samples),
        X(size_t(have * sizes.front())),
        y(size_t(have * y_width())),
        weight(size_t(weighted ? have : 0)),
        w(size_t(n())),
        rows(size_t(gathered ? samples : 0)),
        weighted(weighted),
        gathered(gathered),
        rate(rate),
        random{0, 0, 99, 7} {
    Rng rng{seed * 1'000'003 + uint64_t(samples)};
    const auto number = [&rng](double low, double high) { return double(float(rng.uniform(low, high))); };
    const std::string name = kernels().scores[score.index].name;
    for (double& v : X) v = number(-1.5, 1.5);
    for (double& v : y)
      v = kernels().scores[score.index].labels ? double(rng.next() % uint64_t(sizes.back()))
          : name.starts_with("binary")         ? double(rng.next() % 2)
          : name.starts_with("poisson")        ? double(rng.next() % 5)
                                               : number(-2, 2);
    for (double& v : weight) v = rng.next() % 8 == 0 ? 0 : number(0.1, 2);
    if (weighted) weight[0] = 1.5;
    for (int64_t& v : rows) v = int64_t(rng.next() % uint64_t(have));
    if (gathered) rows[0] = 0;
    for (double& v : w) v = number(-0.8, 0.8);
  }

  int64_t y_width() const { return kernels().scores[score.index].labels ? 1 : sizes.back(); }
  Shape shape() const { return {layers.data(), int(layers.size())}; }
  int64_t n() const { return parameter_count(shape()); }
  template <class T>
  Batch<T> batch(const Exact<T>& x, const Exact<T>& t, const Exact<T>& u) const {
    return {x.data(),      t.data(), weighted ? u.data() : nullptr, gathered ? rows.data() : nullptr, samples,
            sizes.front(), y_width()};
  }
  std::string text() const {
    std::string text = std::string(kernels().name) + " " + kernels().activations[activation].name + " " +
                       kernels().scores[score.index].name + " sizes";
    for (const int64_t size : sizes) text += " " + std::to_string(size);
    return text + " samples " + std::to_string(samples) + (weighted ? " weighted" : "") +
           (gathered ? " gathered" : "") + (rate > 0 ? " dropout" : "");
  }

  // Raw outputs of sample i, one scalar at a time.
  std::vector<double> outputs(const double* at, int64_t i) const {
    const double* const x = X.data() + (gathered ? rows[size_t(i)] : i) * sizes.front();
    std::vector<double> a(x, x + sizes.front());
    for (size_t l = 0; l + 1 < sizes.size(); ++l) {
      const size_t inputs = a.size(), units = size_t(sizes[l + 1]);
      std::vector<double> z(units);
      for (size_t u = 0; u < units; ++u) {
        z[u] = at[units * inputs + u];
        for (size_t k = 0; k < inputs; ++k) z[u] += at[u * inputs + k] * a[k];
      }
      at += units * (inputs + 1);
      if (l + 2 < sizes.size())
        for (size_t u = 0; u < units; ++u) {
          z[u] = test_activation(z[u]);
          if (rate > 0) {
            const ReferenceDraws draws(random.seed, uint32_t(Stream::DROPOUT) + uint32_t(l), random.step, uint32_t(i),
                                       uint32_t(u));
            z[u] *= draws.uniform(0) < double(float(rate)) ? 0 : 1 / (1 - rate);
          }
        }
      a = std::move(z);
    }
    return a;
  }

  double loss(const double* at) const {
    double total = 0, share = 0;
    for (int64_t i = 0; i < samples; ++i) {
      const int64_t row = gathered ? rows[size_t(i)] : i;
      const double u = weighted ? weight[size_t(row)] : 1;
      share += u;
      total +=
          u * ::score(kernels().scores[score.index].name, score.setting, outputs(at, i), y.data() + row * y_width());
    }
    return total / share;
  }

 private:
  double test_activation(double z) const { return ::activation(kernels().activations[activation].name, z); }
};

template <class T>
Exact<T> cast(const Exact<double>& values) {
  Exact<T> out(values.size());
  for (size_t i = 0; i < values.size(); ++i) out[i] = T(values[i]);
  return out;
}

template <class T>
double gradient_of(const Problem& p, Exact<T>& out) {
  const Exact<T> X = cast<T>(p.X), y = cast<T>(p.y), weight = cast<T>(p.weight), w = cast<T>(p.w);
  for (T& v : out) v = std::numeric_limits<T>::quiet_NaN();  // what is there before must not matter
  return gradient(p.shape(), p.score, -1, w.data(), p.batch(X, y, weight), p.random, out.data()).loss;
}

void check_gradient(const Problem& p) {
  const std::string text = p.text();
  Exact<double> g(size_t(p.n()));
  const double loss = gradient_of(p, g), want = p.loss(p.w.data());
  CHECK(std::abs(loss - want) <= 1e-12 * (1 + std::abs(want)), text, loss, want);
  Rng rng{3};
  const double h = 1e-6;
  Exact<double> w = p.w;
  double largest = 0;
  for (size_t i = 0; i < g.size(); ++i) largest = std::max(largest, std::abs(g[i]));
  const size_t checks = p.samples > 100 ? 12 : 40;
  for (size_t k = 0; k < std::min(checks, g.size()); ++k) {
    const size_t i = g.size() <= checks ? k : size_t(rng.next() % g.size());
    const double at = w[i];
    w[i] = at + h;
    const double above = p.loss(w.data());
    w[i] = at - h;
    const double below = p.loss(w.data());
    w[i] = at;
    const double slope = (above - below) / (2 * h);
    CHECK(std::abs(g[i] - slope) <= 2e-8 * (1 + largest), text, "parameter", i, g[i], slope);
  }
  Exact<float> g32(g.size());
  const double loss32 = gradient_of(p, g32);
  CHECK(std::abs(loss32 - loss) <= 2e-5 * (1 + std::abs(loss)), text, "float", loss32, loss);
  for (size_t i = 0; i < g.size(); ++i)
    CHECK(std::abs(double(g32[i]) - g[i]) <= 3e-5 * (1 + largest), text, "float, parameter", i, g32[i], g[i]);
}

// evaluate, of a population whose first row is w, is the mean of the test's own score of the test's own
// outputs.
template <class T>
void check_evaluate(const Problem& p, double tolerance) {
  const size_t members = 3, n = size_t(p.n());
  const Exact<T> X = cast<T>(p.X), y = cast<T>(p.y), weight = cast<T>(p.weight);
  Exact<double> population64(members * n);
  for (size_t i = 0; i < members * n; ++i) population64[i] = double(float(p.w[i % n] * (1 + 0.25 * double(i / n))));
  const Exact<T> population = cast<T>(population64);
  Exact<double> out(members), alone(1);
  const PackedData<T> packed = pack(p.batch(X, y, weight));
  evaluate(p.shape(), p.score, population.data(), members, packed, out.data());
  for (size_t m = 0; m < members; ++m) {
    const double want = p.loss(population64.data() + m * n);
    CHECK(std::abs(out[m] - want) <= tolerance * (1 + std::abs(want)), p.text(), sizeof(T), "member", m, out[m], want);
    evaluate(p.shape(), p.score, population.data() + m * n, 1, packed, alone.data());
    CHECK(same_bits(out[m], alone[0]), p.text(), sizeof(T), "member alone", m);
  }
  const size_t outputs = size_t(p.sizes.back());
  Exact<T> z(members * size_t(p.samples) * outputs);
  forward(p.shape(), population.data(), members, p.batch(X, y, weight), z.data());
  for (size_t k = 0; k < members * size_t(p.samples); ++k) {
    const size_t m = k / size_t(p.samples), i = k % size_t(p.samples);
    const std::vector<double> want = p.outputs(population64.data() + m * n, int64_t(i));
    for (size_t o = 0; o < outputs; ++o) {
      const double got = double(z[k * outputs + o]);
      CHECK(std::abs(got - want[o]) <= tolerance * (1 + std::abs(want[o])), p.text(), "forward", m, i, o, got, want[o]);
    }
  }
}

// A network that computes NaN is never given a number.
template <class T>
void check_nan(const Problem& p) {
  const Exact<T> X = cast<T>(p.X), y = cast<T>(p.y), weight = cast<T>(p.weight);
  const PackedData<T> packed = pack(p.batch(X, y, weight));
  for (size_t i = 0; i < p.w.size(); ++i) {
    Exact<T> w = cast<T>(p.w);
    w[i] = std::numeric_limits<T>::quiet_NaN();
    double out = 0;
    evaluate(p.shape(), p.score, w.data(), 1, packed, &out);
    CHECK(std::isnan(out), p.text(), sizeof(T), "NaN at parameter", i, out);
  }
}

template <class T>
void check_threads(const Problem& p) {
  const size_t members = 9, n = size_t(p.n());
  const Exact<T> X = cast<T>(p.X), y = cast<T>(p.y), weight = cast<T>(p.weight);
  Rng rng{5};
  const Exact<T> population(members * n, rng, -1, 1);
  std::unique_ptr<Exact<T>> gradient_1, forward_1;
  std::unique_ptr<Exact<double>> evaluate_1;
  double loss_1 = 0;
  for (const int threads : {1, 2, 3, 4, 8}) {
    set_thread_count(threads);
    for (int repeat = 0; repeat < 3; ++repeat) {
      auto g = std::make_unique<Exact<T>>(n);
      auto z = std::make_unique<Exact<T>>(members * size_t(p.samples * p.sizes.back()));
      auto out = std::make_unique<Exact<double>>(members);
      const double loss = gradient_of(p, *g);
      const PackedData<T> packed = pack(p.batch(X, y, weight));
      evaluate(p.shape(), p.score, population.data(), members, packed, out->data());
      forward(p.shape(), population.data(), members, p.batch(X, y, weight), z->data());
      if (!gradient_1) {
        gradient_1 = std::move(g), forward_1 = std::move(z), evaluate_1 = std::move(out);
        loss_1 = loss;
      } else {
        CHECK(same_bits(loss, loss_1), p.text(), threads, loss, loss_1);
        check_same(*gradient_1, *g, "gradient", "threads");
        check_same(*forward_1, *z, "forward", "threads");
        check_same(*evaluate_1, *out, "evaluate", "threads");
      }
    }
  }
}

int index_of(const std::string& name) {
  for (int k = 0; k < kernels().activation_count; ++k)
    if (name == kernels().activations[k].name) return k;
  for (int k = 0; k < kernels().score_count; ++k)
    if (name == kernels().scores[k].name) return k;
  fail(__FILE__, __LINE__, "unknown name", name);
}

template <class T>
void check_dropout() {
  const auto problem = [](double rate) {
    return Problem({5, 40, 30, 3}, index_of("tanh"), index_of("mse"), 130, false, false, rate);
  };
  const auto run = [](const Problem& p) {
    Exact<T> g(size_t(p.n()));
    const double loss = gradient_of(p, g);
    return std::pair<double, Exact<T>>(loss, g);
  };
  Problem none = problem(0), half = problem(0.5);
  const auto plain = run(none), first = run(half);
  const auto again = run(half);
  CHECK(same_bits(first.first, again.first));
  check_same(first.second, again.second, "dropout", "the same seed and step");
  CHECK(plain.first != first.first);
  half.random.step += 1;
  CHECK(run(half).first != first.first, "another step");
  half.random.step -= 1;
  half.random.seed += 1;
  CHECK(run(half).first != first.first, "another seed");
  none.random = {0, 0, 1234, 5};
  const auto zero = run(none);
  CHECK(same_bits(zero.first, plain.first));
  check_same(zero.second, plain.second, "dropout", "rate 0");

  // In a network that is linear, with a loss that is (all targets lie far below), the mean over masks is the
  // value without: of the loss and of every slope.
  Problem linear({4, 32, 2}, index_of("identity"), index_of("mae"), 64, false, false, 0);
  for (double& v : linear.y) v = -1000;
  const auto want = run(linear);
  const int steps = 400;
  double sum = 0, squares = 0;
  std::vector<double> mean(linear.w.size());
  for (size_t l = 0; l + 1 < linear.layers.size(); ++l) linear.layers[l].dropout = 0.3;
  for (int t = 0; t < steps; ++t) {
    linear.random.step = uint32_t(t + 1);
    const auto got = run(linear);
    const double d = got.first - want.first;
    sum += d, squares += d * d;
    for (size_t i = 0; i < mean.size(); ++i) mean[i] += double(got.second[i]) / steps;
  }
  const double error = std::sqrt(squares / steps / steps);
  CHECK(error > 0 && std::abs(sum / steps) <= 4 * error, "mean loss under dropout", sum / steps, error);
  for (size_t i = 0; i < mean.size(); ++i)
    CHECK(std::abs(mean[i] - double(want.second[i])) <= 0.05, "mean slope under dropout", i, mean[i], want.second[i]);
}

}  // namespace

int main() {
  require_forced_target();
  const Kernels& table = kernels();
  if (const char* const forced = std::getenv("POPGRAD_ISA"))
    CHECK(std::string(forced) == table.name, forced, table.name);
  set_thread_count(2);

  const std::vector<std::vector<int64_t>> shapes = {{1, 1},       {3, 1},       {1, 7, 1},  {5, 17, 3},
                                                    {4, 6, 9, 2}, {17, 33, 10}, {3, 100, 2}};
  const int tanh = index_of("tanh"), mse = index_of("mse"), cross_entropy = index_of("cross_entropy");
  int variant = 0;
  for (const auto& sizes : shapes)
    for (const int64_t samples : {1, 2, 63, 64, 65, 1000})
      for (const int score : {mse, cross_entropy}) {
        if (samples == 1000 && sizes.back() == 10) continue;  // long, and nothing new
        ++variant;
        const Problem p(sizes, tanh, score, samples, variant % 2 == 0, variant % 3 == 0, 0);
        check_gradient(p);
        check_evaluate<double>(p, 1e-12);
        check_evaluate<float>(p, 3e-5);
        check_gradient(Problem(sizes, tanh, score, samples, variant % 3 == 0, variant % 2 == 0, 0.4));
      }
  for (int a = 0; a < table.activation_count; ++a)
    for (int s = 0; s < table.score_count; ++s) {
      for (const bool weighted : {false, true}) {
        const Problem p({5, 7, 6, 3}, a, s, 65, weighted, !weighted, 0);
        check_evaluate<double>(p, 1e-12);
        check_evaluate<float>(p, 3e-5);
        if (table.activations[a].differentiable && table.scores[s].differentiable) {
          check_gradient(p);
          check_gradient(Problem({5, 7, 6, 3}, a, s, 65, weighted, weighted, 0.25));
        }
      }
      // Two outputs: with one, softmax is the constant 1. Every parameter reaches some output.
      check_nan<float>(Problem({2, 3, 2}, a, s, 3, false, false, 0));
      check_nan<double>(Problem({2, 3, 2}, a, s, 3, true, false, 0));
    }
  check_dropout<float>();
  check_dropout<double>();
  for (const bool weighted : {false, true}) {
    check_threads<float>(Problem({20, 30, 10}, tanh, cross_entropy, 5000, weighted, weighted, weighted ? 0.3 : 0));
    check_threads<double>(Problem({20, 30, 10}, tanh, mse, 3001, weighted, weighted, weighted ? 0 : 0.3));
  }
  std::printf("%s: %d activations, %d scores\n", table.name, table.activation_count, table.score_count);
}
