// Every update rule: against the formula of its paper in double, and bit by bit between instruction sets and
// numbers of threads.
#include <algorithm>
#include <limits>

#include "api.h"
#include "cpu/threads.h"
#include "support.h"

using namespace popgrad;
using namespace popgrad::test;

namespace {

// A rule as its paper has it: the fields that the table expects at step t, and the step itself, in double.
struct Reference {
  const char* name;
  std::vector<double> (*fields)(int t);
  void (*step)(int t, double& w, double g, double* s);
};

constexpr double lr = 0.05, beta = 0.9, beta1 = 0.9, beta2 = 0.999, rho = 0.95, eps = 1e-6, decay = 0.1;

void adam_moments(double g, double* s) {
  s[0] = beta1 * s[0] + (1 - beta1) * g;
  s[1] = beta2 * s[1] + (1 - beta2) * g * g;
}
double adam_direction(int t, const double* s) {  // m^ / (sqrt(v^) + epsilon)
  return s[0] / (1 - std::pow(beta1, t)) / (std::sqrt(s[1] / (1 - std::pow(beta2, t))) + eps);
}
std::vector<double> adam_fields(int t) {
  return {lr / (1 - std::pow(beta1, t)),         beta1, 1 - beta1, beta2, 1 - beta2,
          1 / std::sqrt(1 - std::pow(beta2, t)), eps};
}

const Reference references[] = {
    {"Sgd", [](int) -> std::vector<double> { return {lr}; }, [](int, double& w, double g, double*) { w -= lr * g; }},
    {"Momentum",
     [](int) -> std::vector<double> {
       return {lr, beta, 1 - beta};
     },
     [](int, double& w, double g, double* s) { w -= lr * (s[0] = beta * s[0] + (1 - beta) * g); }},
    {"HeavyBall",
     [](int) -> std::vector<double> {
       return {lr, beta};
     },
     [](int, double& w, double g, double* s) { w -= lr * (s[0] = beta * s[0] + g); }},
    {"Nesterov",
     [](int) -> std::vector<double> {
       return {lr, beta};
     },
     [](int, double& w, double g, double* s) {
       s[0] = beta * s[0] + g;
       w -= lr * (g + beta * s[0]);
     }},
    {"AdaGrad",
     [](int) -> std::vector<double> {
       return {lr, eps};
     },
     [](int, double& w, double g, double* s) {
       s[0] += g * g;
       w -= lr / (std::sqrt(s[0]) + eps) * g;
     }},
    {"RmsProp",
     [](int) -> std::vector<double> {
       return {lr, rho, 1 - rho, eps};
     },
     [](int, double& w, double g, double* s) {
       s[0] = rho * s[0] + (1 - rho) * g * g;
       w -= lr / (std::sqrt(s[0]) + eps) * g;
     }},
    {"AdaDelta",
     [](int) -> std::vector<double> {
       return {lr, rho, 1 - rho, eps};
     },
     [](int, double& w, double g, double* s) {
       s[0] = rho * s[0] + (1 - rho) * g * g;
       const double dx = -std::sqrt(s[1] + eps) / std::sqrt(s[0] + eps) * g;
       s[1] = rho * s[1] + (1 - rho) * dx * dx;
       w += lr * dx;
     }},
    {"Adam", adam_fields,
     [](int t, double& w, double g, double* s) {
       adam_moments(g, s);
       w -= lr * adam_direction(t, s);
     }},
    {"AdamW",
     [](int t) {
       std::vector<double> fields = adam_fields(t);
       fields.push_back(1 - lr * decay);
       return fields;
     },
     [](int t, double& w, double g, double* s) {
       adam_moments(g, s);
       w -= lr * adam_direction(t, s) + lr * decay * w;
     }},
};

const Reference& reference_of(const StepRule& rule) {
  for (const Reference& reference : references)
    if (std::strcmp(reference.name, rule.name) == 0) return reference;
  fail(__FILE__, __LINE__, "no formula in this test for the rule", rule.name);
}

template <class T>
StepFn<T> fn(const StepRule& rule) {
  if constexpr (std::is_same_v<T, float>)
    return rule.f32;
  else
    return rule.f64;
}

template <class T>
struct Problem {
  Exact<T> w, g, state;
  Problem(const StepRule& rule, size_t n, Rng& rng)
      : w(n, rng, -2, 2), g(n, rng, -3, 3), state(size_t(rule.states) * n) {
    for (size_t i = 0; i < n; i += 7) g[i] = T(0);
    for (size_t i = 3; i < n; i += 11) g[i] *= T(1000);
  }
  StepArgs<T> args() { return {w.data(), g.data(), state.data(), w.size()}; }
};

template <class T>
void check_formula(const Kernels& kernels, int index, size_t n) {
  const StepRule& rule = kernels.steps[index];
  const Reference& reference = reference_of(rule);
  Rng rng{uint64_t(17 * index) + n};
  Problem<T> problem(rule, n, rng);
  std::vector<double> w(problem.w.begin(), problem.w.end()), s(size_t(rule.states) * n);
  std::vector<double> largest_w(n), largest_s(s.size());  // of all steps: what the roundings are relative to
  for (int t = 1; t <= 4; ++t) {
    for (T& g : problem.g) g *= T(rng.uniform(-1.5, 1.5));
    step(rule, reference.fields(t).data(), problem.args());
    for (size_t i = 0; i < n; ++i) {
      double own[4] = {};
      for (int k = 0; k < rule.states; ++k) own[k] = s[size_t(k) * n + i];
      reference.step(t, w[i], double(problem.g[i]), own);
      for (int k = 0; k < rule.states; ++k) s[size_t(k) * n + i] = own[k];
      largest_w[i] = std::max(largest_w[i], std::abs(w[i]) + lr * std::abs(double(problem.g[i])));
      for (int k = 0; k < rule.states; ++k)
        largest_s[size_t(k) * n + i] = std::max(largest_s[size_t(k) * n + i], std::abs(own[k]));
    }
  }
  const double tolerance = 20 * double(std::numeric_limits<T>::epsilon());  // a few roundings in each step
  for (size_t i = 0; i < n; ++i) {
    CHECK(std::abs(double(problem.w[i]) - w[i]) <= tolerance * (1 + largest_w[i]), rule.name, kernels.name, sizeof(T),
          "n", n, "w", i, problem.w[i], w[i]);
    for (int k = 0; k < rule.states; ++k) {
      const size_t at = size_t(k) * n + i;
      CHECK(std::abs(double(problem.state[at]) - s[at]) <= tolerance * largest_s[at], rule.name, kernels.name,
            sizeof(T), "n", n, "state", k, i, problem.state[at], s[at]);
    }
  }
}

// Numbers that tell apart what a compiler may not exchange: infinities, NaN, denormals, -0, huge and tiny.
template <class T>
void sprinkle(Exact<T>& values, size_t first) {
  using L = std::numeric_limits<T>;
  const T odd[] = {L::infinity(), -L::infinity(), L::quiet_NaN(), L::denorm_min(),
                   -L::min(),     T(-0.0),        L::max(),       L::epsilon()};
  for (size_t i = first, k = 0; i < values.size(); i += 13, ++k) values[i] = odd[k % 8];
}

template <class T>
void check_same_bits(const std::vector<const Kernels*>& all, int index, size_t n) {
  const StepRule& first = all[0]->steps[index];
  Rng rng{uint64_t(index) * 1000 + n};
  Problem<T> start(first, n, rng);
  for (T& s : start.state) s = T(rng.uniform(0, 2));
  sprinkle(start.w, 2);
  sprinkle(start.g, 5);
  sprinkle(start.state, 9);
  const auto after = [&](const Kernels& kernels, size_t begin, size_t end) {
    auto copy = std::make_unique<Problem<T>>(start);
    fn<T>(kernels.steps[index])(reference_of(first).fields(3).data(), copy->args(), begin, end);
    return copy;
  };
  const auto want = after(*all[0], 0, n);
  for (const Kernels* kernels : all) {
    CHECK(std::strcmp(kernels->steps[index].name, first.name) == 0, first.name, kernels->name);
    CHECK(std::strcmp(kernels->steps[index].fields, first.fields) == 0, first.name, kernels->name);
    const auto got = after(*kernels, 0, n);
    check_same(want->w, got->w, first.name, kernels->name);
    check_same(want->state, got->state, first.name, kernels->name);
    // A piece leaves the rest alone, and two pieces are the whole.
    const size_t cut = n / 3;
    const auto part = after(*kernels, cut, n);
    for (size_t i = 0; i < n; ++i)
      CHECK(same_bits(part->w[i], i < cut ? start.w[i] : want->w[i]), first.name, kernels->name, i);
  }
}

template <class T>
void check_threads(int index) {
  const StepRule& rule = kernels().steps[index];
  const size_t n = 300'001;
  Rng rng{uint64_t(index)};
  const Problem<T> start(rule, n, rng);
  std::unique_ptr<Problem<T>> want;
  for (const int threads : {1, 2, 3, 4, 8}) {
    set_thread_count(threads);
    auto got = std::make_unique<Problem<T>>(start);
    step(rule, reference_of(rule).fields(1).data(), got->args());
    if (!want)
      want = std::move(got);
    else {
      check_same(want->w, got->w, rule.name, "threads");
      check_same(want->state, got->state, rule.name, "threads");
    }
  }
}

}  // namespace

int main() {
  const auto all = supported_targets();
  set_thread_count(4);
  for (const Kernels* kernels : all) {
    CHECK(kernels->step_count == int(std::size(references)), kernels->name, kernels->step_count);
    for (int index = 0; index < kernels->step_count; ++index)
      for (const size_t n : {0, 1, 15, 16, 17, 1000, 50'000}) {  // 50,000 is four pieces
        check_formula<float>(*kernels, index, n);
        check_formula<double>(*kernels, index, n);
      }
  }
  for (int index = 0; index < all[0]->step_count; ++index) {
    for (const size_t n : {0, 1, 15, 16, 17, 1000}) {
      check_same_bits<float>(all, index, n);
      check_same_bits<double>(all, index, n);
    }
    check_threads<float>(index);
    check_threads<double>(index);
  }
  std::printf("%d rules, %zu instruction sets\n", all[0]->step_count, all.size());
}
