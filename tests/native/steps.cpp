// Every update rule, bit by bit, between instruction sets, pieces, lists of tensors and numbers of threads. The
// formulas are tested from Python, against those of the papers (tests/test_optim.py).
#include <algorithm>

#include "api.h"
#include "cpu/threads.h"
#include "support.h"

using namespace popgrad;
using namespace popgrad::test;

namespace {

constexpr StepExtras around = {0.5, 0.8, 0.1, 0.1, 0.01, 0.3};
constexpr StepExtras decays = {0.5, std::numeric_limits<double>::infinity(), 0.1, 0.1, 0, 0.3};

// The ways in which a rule's states may be stored.
std::vector<Packing> packings(const StepRule& rule, bool is_float) {
  std::vector<Packing> found{Packing::none};
  if (is_float && !rule.sums && rule.states) {
    found.push_back(Packing::bfloat16);
    if (rule.positive >= 0) found.push_back(Packing::bytes);
  }
  return found;
}

// Room for what settle makes of them; of numbers in (0, 1) every rule makes finite ones.
Exact<double> fields_of(const StepRule& rule, Rng& rng) {
  Exact<double> fields(most_fields);
  const Exact<double> values = some_fields(rule.fields, 1, rng);
  std::copy_n(values.data(), values.size(), fields.data());
  return fields;
}

// odd: with infinities and the like, which leave nothing but NaN of a sum over the tensor.
template <class T>
void check_same_bits(const std::vector<const Kernels*>& all, int index, size_t n, Packing packing, bool odd,
                     const StepExtras* extras) {
  const StepRule& first = all[0]->steps[index];
  Rng rng{uint64_t(index) * 1000 + n};
  Tensor<T> start(first, n, rng, packing);
  if (odd) {
    sprinkle(start.w, 2);
    sprinkle(start.g, 5);
    for (Exact<T>& state : start.numbers) sprinkle(state, 9);
  }
  const Exact<double> fields = fields_of(first, rng);
  const auto after = [&](const Kernels& kernels, std::initializer_list<size_t> cuts) {
    Tensor<T> copy(start);
    Exact<double> own(fields);
    for (const size_t* cut = cuts.begin(); cut + 1 != cuts.end(); ++cut)
      run_rule<T>(kernels.steps[index], own.data(), copy.args(extras, extras != nullptr), cut[0], cut[1]);
    return copy;
  };
  const Tensor<T> want = after(*all[0], {0, n});
  if (n && !odd) {
    const auto moved = [&](size_t i) { return want.w[i] != start.w[i]; };
    bool any = first.states > 0;  // Average and Curvature change a state alone
    for (size_t i = 0; i < n; ++i) {
      CHECK(std::isfinite(want.w[i]), first.name, i, want.w[i]);
      any = any || moved(i);
    }
    CHECK(any || n < 15, first.name);
  }
  const size_t cut = n / 3 / packed_block * packed_block;
  for (const Kernels* kernels : all) {
    CHECK(std::strcmp(kernels->steps[index].name, first.name) == 0, first.name, kernels->name);
    CHECK(std::strcmp(kernels->steps[index].fields, first.fields) == 0, first.name, kernels->name);
    check_same(want, after(*kernels, {0, n}), first.name, kernels->name);
    if (first.sums) continue;
    // Two pieces are the whole, and the second leaves the first alone.
    check_same(want, after(*kernels, {0, cut, n}), first.name, kernels->name);
    const Tensor<T> part = after(*kernels, {cut, n});
    for (size_t i = 0; i < cut; ++i) CHECK(same_bits(part.w[i], start.w[i]), first.name, kernels->name, i);
    for (size_t i = cut; i < n; ++i) CHECK(same_bits(part.w[i], want.w[i]), first.name, kernels->name, i);
  }
}

// A list is the same as its tensors one by one, unless the rule sums over all of them; for any number of threads.
template <class T>
void check_lists(int index, Packing packing) {
  const StepRule& rule = kernels().steps[index];
  Rng rng{uint64_t(index)};
  std::vector<Tensor<T>> start;
  for (size_t k = 0; k < 60; ++k) {
    const size_t n = k == 40 ? 150'001 : k % 10 == 3 ? 0 : k % 10 == 7 ? 1 : size_t(rng.uniform(1, 700));
    start.emplace_back(rule, n, rng, packing);
  }
  const Exact<double> fields = fields_of(rule, rng);
  const auto args_of = [&](std::vector<Tensor<T>>& problems) {
    std::vector<StepArgs<T>> args;
    for (size_t k = 0; k < problems.size(); ++k) {
      args.push_back(problems[k].args(k % 2 ? &around : nullptr, k % 4 == 1));
      args.back().fields = fields.data();
      args.back().noise = uint32_t(k);
      args.back().adapt = k % 5 != 2;
    }
    return args;
  };
  std::vector<Tensor<T>> want(start), same(start);
  std::vector<StepArgs<T>> want_args = args_of(want);
  const std::vector<StepArgs<T>> same_args = args_of(same);
  set_thread_count(1);
  if (rule.whole)
    step(rule, want_args.data(), want_args.size());
  else
    for (size_t k = 0; k < start.size(); ++k) {
      step(rule, &want_args[k], 1);
      if (start[k].w.size() > 1000) continue;
      Exact<double> own(fields);
      run_rule<T>(rule, own.data(), same_args[k], 0, start[k].w.size());
      check_same(want[k], same[k], rule.name, "the narrow waist");
    }
  for (const int threads : {1, 2, 3, 4, 8}) {
    set_thread_count(threads);
    std::vector<Tensor<T>> got(start);
    const std::vector<StepArgs<T>> args = args_of(got);
    step(rule, args.data(), args.size());
    for (size_t k = 0; k < start.size(); ++k) check_same(want[k], got[k], rule.name, "list");
  }
  step(rule, static_cast<const StepArgs<T>*>(nullptr), 0);
}

// The sums of a rule over all tensors are those of its parts.
void check_whole(int index) {
  const StepRule& rule = kernels().steps[index];
  Rng rng{uint64_t(index) + 99};
  std::vector<Tensor<double>> parts;
  for (const size_t n : {300, 0, 7}) parts.emplace_back(rule, n, rng);
  for (Tensor<double>& part : parts) std::copy_n(parts[0].kept.data(), rule.kept, part.kept.data());
  Exact<double> fields = fields_of(rule, rng);
  Exact<double> sums(size_t(rule.sums)), own(fields);
  std::copy_n(parts[0].kept.data(), rule.kept, own.data());
  for (const Tensor<double>& part : parts) {
    Tensor<double> copy(part);
    Exact<double> some(size_t(rule.sums));
    rule.measure_f64(own.data(), copy.args(), 0, copy.w.size(), some.data());
    for (size_t k = 0; k < sums.size(); ++k) sums[k] += some[k];
  }
  rule.settle(own.data(), sums.data());
  std::vector<StepArgs<double>> args;
  for (Tensor<double>& part : parts) {
    args.push_back(part.args());
    args.back().fields = fields.data();
  }
  step(rule, args.data(), args.size());
  for (const Tensor<double>& part : parts)
    for (int k = 0; k < rule.kept; ++k) CHECK(same_bits(part.kept[size_t(k)], own[size_t(k)]), rule.name, k);
}

template <class T>
void check_rule(const std::vector<const Kernels*>& all, int index) {
  const StepRule& rule = all[0]->steps[index];
  for (const Packing packing : packings(rule, sizeof(T) == sizeof(float))) {
    for (const size_t n : {0, 1, 15, 16, 17, 1000, 10'000})
      for (const StepExtras* extras : {static_cast<const StepExtras*>(nullptr), &decays, &around})
        for (const bool odd : {false, true}) check_same_bits<T>(all, index, n, packing, odd, extras);
    check_lists<T>(index, packing);
  }
}

}  // namespace

int main() {
  const auto all = supported_targets();
  int whole = 0;
  for (int index = 0; index < all[0]->step_count; ++index) {
    check_rule<float>(all, index);
    check_rule<double>(all, index);
    if (all[0]->steps[index].whole) check_whole(index), ++whole;
  }
  CHECK(whole > 0);
  std::printf("%d rules, %zu instruction sets\n", all[0]->step_count, all.size());
}
