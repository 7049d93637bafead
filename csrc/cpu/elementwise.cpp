// Update steps and moves. Compiled once per instruction set, without contraction: a rule made of + - * / sqrt
// gives the same bits on every one. Plain loops on purpose: the compiler vectorises them.
// No standard headers with inline bodies here, see ARCHITECTURE.md.
#include "../kernels/fields.h"
#include "../kernels/step_extras.h"
#include "tables.h"

namespace popgrad::POPGRAD_TARGET {
namespace {

template <template <class> class Rule, class T, bool with_extras>
void step_loop(const double* fields, const StepArgs<T>& args, size_t begin, size_t end) {
  static_assert(fields_match<Rule<T>, T>);
  constexpr int states = Rule<T>::states, slots = states > 0 ? states : 1;
  const Rule<T> rule = rule_from<Rule<T>, T>(fields);
  T* const w = args.w;
  const T* const g = args.g;
  Around<T> around{};
  if constexpr (with_extras) {
    const StepExtras& extras = *args.extras;
    around = {T(extras.scale), T(extras.clip), T(extras.l2), T(extras.keep), T(extras.l1)};
  }
  T* s[slots];
  for (int k = 0; k < states; ++k) s[k] = args.state + size_t(k) * args.n;
#pragma GCC ivdep
  for (size_t i = begin; i < end; ++i) {
    T local[slots], value = w[i];
    for (int k = 0; k < states; ++k) local[k] = s[k][i];
    if constexpr (with_extras) {
      const T pull = around.gradient(value, g[i]);
      value *= around.keep;
      rule(value, pull, local);
      value = around.shrink(value);
    } else {
      rule(value, g[i], local);
    }
    w[i] = value;
    for (int k = 0; k < states; ++k) s[k][i] = local[k];
  }
}

template <template <class> class Rule, class T>
void step(const double* fields, const StepArgs<T>& args, size_t begin, size_t end) {
  if (args.extras)
    step_loop<Rule, T, true>(fields, args, begin, end);
  else
    step_loop<Rule, T, false>(fields, args, begin, end);
}

template <template <class> class Rule, class T>
void move(const MoveArgs<T>& args, size_t member, size_t begin, size_t end) {
  static_assert(fields_match<Rule<T>, T>);
  constexpr int outputs = Rule<T>::outputs, sources = Rule<T>::sources;
  const Rule<T> rule = rule_from<Rule<T>, T>(args.fields + member * args.field_stride);
  const uint32_t identity = args.identity ? args.identity[member] : uint32_t(member);
  const uint32_t chosen = args.chosen ? uint32_t(args.chosen[member]) : ~uint32_t(0);
  const uint64_t seed = args.seed;
  const uint32_t stream = args.stream, generation = args.generation;
  T* x[outputs];
  const T* s[sources];
  for (int k = 0; k < outputs; ++k) x[k] = args.out[k] + member * args.n;
  for (int k = 0; k < sources; ++k) {
    const size_t row = args.row[k] ? size_t(args.row[k][member]) : member;
    s[k] = args.source[k] + row * args.source_stride[k];
  }
#pragma GCC ivdep
  for (size_t i = begin; i < end; ++i) {
    T value[outputs], source[sources];
    for (int k = 0; k < outputs; ++k) value[k] = x[k][i];
    for (int k = 0; k < sources; ++k) source[k] = s[k][i];
    rule(value, source, Draws(seed, stream, generation, identity, uint32_t(i)), uint32_t(i) == chosen);
    for (int k = 0; k < outputs; ++k) x[k][i] = value[k];
  }
}

template <class T>
double sum_squares(const T* x, size_t begin, size_t end) {
  constexpr size_t lanes = 16;  // running sums, in an order that does not depend on the vector width
  double sums[lanes] = {};
  size_t i = begin;
  for (; i + lanes <= end; i += lanes)
    for (size_t k = 0; k < lanes; ++k) sums[k] += double(x[i + k]) * double(x[i + k]);
  for (size_t k = 0; i < end; ++i, ++k) sums[k] += double(x[i]) * double(x[i]);
  double total = 0;
  for (size_t k = 0; k < lanes; ++k) total += sums[k];
  return total;
}

template <class T>
void combine(const double* weights, const T* rows, const T* centre, size_t count, size_t n, T* out, size_t begin,
             size_t end) {
  for (size_t i = begin; i < end; ++i) out[i] = T(0);
  for (size_t p = 0; p < count; ++p) {
    const T weight = T(weights[p]);
    if (weight == T(0)) continue;  // a member whose fitness is not finite takes no part, whatever its row holds
    const T* const row = rows + p * n;
#pragma GCC ivdep
    for (size_t i = begin; i < end; ++i) out[i] += weight * (row[i] - centre[i]);
  }
}

template <class T>
void spread(const T* rows, size_t count, const int64_t* which, size_t wanted, size_t n, T* out, size_t begin,
            size_t end) {
  const T share = T(1) / T(count > 1 ? count - 1 : 1);
  for (size_t k = 0; k < wanted; ++k) {
    T* const sum = out + k * n;
    const T* const own = rows + size_t(which[k]) * n;
    for (size_t i = begin; i < end; ++i) sum[i] = T(0);
    for (size_t e = 0; e < count; ++e) {
      const T* const other = rows + e * n;
#pragma GCC ivdep
      for (size_t i = begin; i < end; ++i) sum[i] += abs(other[i] - own[i]);
    }
    for (size_t i = begin; i < end; ++i) sum[i] *= share;
  }
}

}  // namespace

#define X(Rule) {#Rule, Rule<float>::fields, Rule<float>::states, step<Rule, float>, step<Rule, double>},
extern constinit const StepRule step_rules[step_count] = {STEP_RULES(X)};
#undef X

#define X(Rule) \
  {#Rule, Rule<float>::fields, Rule<float>::outputs, Rule<float>::sources, move<Rule, float>, move<Rule, double>},
extern constinit const MoveRule move_rules[move_count] = {MOVE_RULES(X)};
#undef X

extern constinit const RowFns<float> rows_f32 = {sum_squares<float>, combine<float>, spread<float>};
extern constinit const RowFns<double> rows_f64 = {sum_squares<double>, combine<double>, spread<double>};

}  // namespace popgrad::POPGRAD_TARGET
