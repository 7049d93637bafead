// Every update rule, bit by bit, between instruction sets, pieces and numbers of threads. The formulas are
// tested from Python, against those of the papers (tests/test_optim.py).
#include <algorithm>
#include <limits>

#include "api.h"
#include "cpu/threads.h"
#include "support.h"

using namespace popgrad;
using namespace popgrad::test;

namespace {

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
  const Exact<double> fields = some_fields(first.fields, 1, rng);
  const auto after = [&](const Kernels& kernels, size_t begin, size_t end) {
    auto copy = std::make_unique<Problem<T>>(start);
    fn<T>(kernels.steps[index])(fields.data(), copy->args(), begin, end);
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
  const Exact<double> fields = some_fields(rule.fields, 1, rng);
  std::unique_ptr<Problem<T>> want;
  for (const int threads : {1, 2, 3, 4, 8}) {
    set_thread_count(threads);
    auto got = std::make_unique<Problem<T>>(start);
    step(rule, fields.data(), got->args());
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
  for (int index = 0; index < all[0]->step_count; ++index) {
    for (const size_t n : {0, 1, 15, 16, 17, 1000, 50'000}) {
      check_same_bits<float>(all, index, n);
      check_same_bits<double>(all, index, n);
    }
    check_threads<float>(index);
    check_threads<double>(index);
  }
  std::printf("%d rules, %zu instruction sets\n", all[0]->step_count, all.size());
}
