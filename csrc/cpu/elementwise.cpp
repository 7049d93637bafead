// Update steps and moves. Compiled once per instruction set, without contraction: a rule made of + - * / sqrt
// gives the same bits on every one. Plain loops on purpose: the compiler vectorizes them.
// No standard headers with inline bodies here, see csrc/README.md.
#include "../kernels/fields.h"
#include "../kernels/packing.h"
#include "../kernels/step_extras.h"
#include "tables.h"

namespace popgrad::POPGRAD_TARGET {
namespace {

Extent extent_of(const StepExtras* extras) {
  if (!extras) return rule_alone;
  return extras->l1 == 0 && extras->clip > 1.7976931348623157e308 ? decay_alone : everything;
}

template <class Rule, class T, Extent extent>
[[gnu::noinline]] void sweep(const Rule& rule, const Around<T>& around, T* w, const T* g, T* const* s, size_t n) {
  constexpr int states = Rule::states, slots = slots_of<Rule>;
  const Rule own = rule;  // so that the compiler knows that no store changes it
  const Around<T> extras = around;
#pragma GCC ivdep
  for (size_t i = 0; i < n; ++i) {
    T local[slots], value = w[i];
    for (int k = 0; k < states; ++k) local[k] = s[k][i];
    update<extent>(own, extras, g[i], value, local);
    for (int k = 0; k < states; ++k)
      s[k][i] = local[k];  // before w: a state that the rule does not change is not written
    w[i] = value;
  }
}

// States in fewer bits are unpacked to memory in the first-level cache, a block at a time, and packed again.
template <class Format>
[[gnu::noinline]] void unpack_block(const typename Format::Code* in, float scale, size_t n, float* out) {
#pragma GCC ivdep
  for (size_t i = 0; i < n; ++i) out[i] = Format::decode(in[i], scale);
}

template <class Format>
[[gnu::noinline]] void pack_block(const float* in, float inverse, uint32_t noise, uint32_t first, size_t n,
                                  typename Format::Code* out) {
#pragma GCC ivdep
  for (size_t i = 0; i < n; ++i) out[i] = Format::encode(in[i], inverse, scramble(noise ^ (first + uint32_t(i))));
}

[[gnu::noinline]] float largest_magnitude(const float* x, size_t n) {
  int32_t top = 0;  // the bits of magnitudes are in the order of the magnitudes, NaN above all
  for (size_t i = 0; i < n; ++i) {
    const int32_t bits = int32_t(bits_from_float(x[i]) & 0x7FFFFFFFu);
    top = bits > top ? bits : top;
  }
  return float_from_bits(uint32_t(top));
}

void unpack(const StepArgs<float>& args, int slot, bool positive, size_t begin, size_t count, float* out) {
  if (args.packing == Packing::bfloat16) {
    unpack_block<Half>(static_cast<const uint16_t*>(args.state[slot]) + begin, 1.0f, count, out);
    return;
  }
  const uint8_t* const in = static_cast<const uint8_t*>(args.state[slot]) + begin;
  const float scale = args.scales[slot][begin / packed_block];
  if (positive)
    unpack_block<PositiveByte>(in, scale, count, out);
  else
    unpack_block<SignedByte>(in, scale, count, out);
}

void pack(const StepArgs<float>& args, int slot, bool positive, size_t begin, size_t count, const float* in) {
  const uint32_t noise = scramble(args.noise + uint32_t(slot) * 0x9E3779B9u), first = uint32_t(begin);
  if (args.packing == Packing::bfloat16) {
    pack_block<Half>(in, 1.0f, noise, first, count, static_cast<uint16_t*>(args.state[slot]) + begin);
    return;
  }
  uint8_t* const out = static_cast<uint8_t*>(args.state[slot]) + begin;
  const float largest = largest_magnitude(in, count);
  const bool finite = largest <= largest_scale;
  const float scale = finite ? largest : float_from_bits(0x7FC00000u);
  args.scales[slot][begin / packed_block] = scale;
  if (!finite || scale < least_scale)  // the whole block is NaN, or as good as zero
    for (size_t i = 0; i < count; ++i) out[i] = finite ? 0 : 1;
  else if (positive)
    pack_block<PositiveByte>(in, 1.0f / scale, noise, first, count, out);
  else
    pack_block<SignedByte>(in, 1.0f / scale, noise, first, count, out);
}

template <class T>
[[gnu::noinline]] void average(T* into, const T* w, T mix, size_t n) {
#pragma GCC ivdep
  for (size_t i = 0; i < n; ++i) into[i] += mix * (w[i] - into[i]);
}

// Calls body(s, first, count) for the range in parts of at most `longest`, with the states as numbers.
template <class Rule, class T, class Body>
void by_parts(const StepArgs<T>& args, size_t begin, size_t end, size_t longest, const Body& body) {
  constexpr int states = Rule::states, slots = slots_of<Rule>;
  constexpr size_t room = sizeof(T) == sizeof(float) ? packed_block : 1;
  const bool packed = room > 1 && args.packing != Packing::none;
  if (packed) longest = packed_block;
  alignas(64) T memory[slots][room];
  for (size_t i = begin; i < end; i += longest) {
    const size_t count = end - i < longest ? end - i : longest;
    T* s[slots];
    for (int k = 0; k < states; ++k) s[k] = packed ? memory[k] : static_cast<T*>(args.state[k]) + i;
    if constexpr (room > 1)
      for (int k = 0; packed && k < states; ++k) unpack(args, k, positive_of<Rule>() >> k & 1, i, count, memory[k]);
    body(s, i, count);
    if constexpr (room > 1)
      for (int k = 0; packed && k < states; ++k) pack(args, k, positive_of<Rule>() >> k & 1, i, count, memory[k]);
  }
}

// A forward pass on several threads leaves the weights in the caches of all of them, and the first write to each line
// then waits for the others to drop it. Small tensors ask for all their lines at once. Larger ones do not gain: the
// processor's own prefetching hides most of the wait.
template <class T>
void claim(const T* w, size_t n) {
  constexpr size_t line = 64 / sizeof(T), most = (1 << 14) / sizeof(T);
  if (n > most) return;
  for (size_t i = 0; i < n; i += line) __builtin_prefetch(w + i, 1);
}

template <template <class> class Rule, class T>
void step(const double* fields, const StepArgs<T>& args, size_t begin, size_t end) {
  static_assert(fields_match<Rule<T>, T>);
  const Rule<T> rule = rule_from<Rule<T>, T>(fields);
  const Around<T> around = around_of<T>(args.extras);
  const Extent extent = extent_of(args.extras);
  claim(args.w + begin, end - begin);
  by_parts<Rule<T>>(args, begin, end, args.average ? packed_block : end - begin,
                    [&](T* const* s, size_t i, size_t count) {
                      const auto run = extent == rule_alone    ? sweep<Rule<T>, T, rule_alone>
                                       : extent == decay_alone ? sweep<Rule<T>, T, decay_alone>
                                                               : sweep<Rule<T>, T, everything>;
                      run(rule, around, args.w + i, args.g + i, s, count);
                      if (args.average) average(args.average + i, args.w + i, around.mix, count);
                    });
}

// Sums of doubles, in an order that does not depend on the width of vectors.
inline constexpr size_t lanes = 16;

void add_lanes(double* sums, const double* x, size_t n) {
  size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (size_t k = 0; k < lanes; ++k) sums[k] += x[i + k];
  for (size_t k = 0; i < n; ++i, ++k) sums[k] += x[i];
}

double total(const double* sums) {
  double all = 0;
  for (size_t k = 0; k < lanes; ++k) all += sums[k];
  return all;
}

template <class Rule, class T, Extent extent>
[[gnu::noinline]] void measure_part(const Rule& rule, const Around<T>& around, const T* w, const T* g, T* const* s,
                                    size_t n, double (*sums)[packed_block]) {
  constexpr int states = Rule::states, slots = slots_of<Rule>, count = Rule::sums;
  const Rule own = rule;
  const Around<T> extras = around;
#pragma GCC ivdep
  for (size_t i = 0; i < n; ++i) {
    T local[slots];
    double sum[count];
    for (int k = 0; k < states; ++k) local[k] = s[k][i];
    own.measure(w[i], extras.template pull<extent>(w[i], g[i]), local, sum);
    for (int k = 0; k < states; ++k) s[k][i] = local[k];
    for (int k = 0; k < count; ++k) sums[k][i] = sum[k];
  }
}

template <template <class> class Rule, class T>
void measure(const double* fields, const StepArgs<T>& args, size_t begin, size_t end, double* sums) {
  constexpr int count = Rule<T>::sums;
  const Rule<T> rule = rule_from<Rule<T>, T>(fields);
  const Around<T> around = around_of<T>(args.extras);
  double parts[count][lanes] = {};
  by_parts<Rule<T>>(args, begin, end, packed_block, [&](T* const* s, size_t i, size_t n) {
    double each[count][packed_block];
    if (args.extras)
      measure_part<Rule<T>, T, everything>(rule, around, args.w + i, args.g + i, s, n, each);
    else
      measure_part<Rule<T>, T, rule_alone>(rule, around, args.w + i, args.g + i, s, n, each);
    for (int k = 0; k < count; ++k) add_lanes(parts[k], each[k], n);
  });
  for (int k = 0; k < count; ++k) sums[k] = total(parts[k]);
}

template <template <class> class Rule>
void settle(double* fields, const double* sums) {
  auto rule = rule_from<Rule<double>, double>(fields);
  rule.settle(sums);
  fields_from<double>(rule, fields);
}

template <template <class> class Rule>
constexpr StepRule entry(const char* name) {
  using R = Rule<float>;
  static_assert(R::states <= most_states && sums_of<R>() <= most_sums && words(R::fields) <= most_fields);
  StepRule rule{name,        R::fields,        R::states,         sums_of<R>(),       kept_of<R>(),
                whole_of<R>, positive_of<R>(), step<Rule, float>, step<Rule, double>, nullptr,
                nullptr,     nullptr};
  if constexpr (sums_of<R>() > 0) {
    rule.measure_f32 = measure<Rule, float>;
    rule.measure_f64 = measure<Rule, double>;
    rule.settle = settle<Rule>;
  }
  return rule;
}

// w and k states, read, touched and written.
template <int count>
struct Plain {
  template <class T>
  struct Rule {
    static constexpr int states = count;
    static constexpr const char* fields = "factor";
    T factor;
    POPGRAD_HD void operator()(T& w, T g, T* s) const {
      w += factor * g;
      for (int k = 0; k < count; ++k) s[k] += factor * g;
    }
  };
};

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
    for (int k = 0; k < outputs; ++k) x[k][i] = without_denormals(value[k]);
  }
}

template <class T>
double sum_squares(const T* x, size_t begin, size_t end) {
  double sums[lanes] = {};
  size_t i = begin;
  for (; i + lanes <= end; i += lanes)
    for (size_t k = 0; k < lanes; ++k) sums[k] += double(x[i + k]) * double(x[i + k]);
  for (size_t k = 0; i < end; ++i, ++k) sums[k] += double(x[i]) * double(x[i]);
  return total(sums);
}

template <class T>
void combine(const double* weights, const T* rows, const T* center, size_t count, size_t n, T* out, size_t begin,
             size_t end) {
  for (size_t i = begin; i < end; ++i) out[i] = T(0);
  for (size_t p = 0; p < count; ++p) {
    const T weight = T(weights[p]);
    if (weight == T(0)) continue;  // a member whose fitness is not finite takes no part, whatever its row holds
    const T* const row = rows + p * n;
#pragma GCC ivdep
    for (size_t i = begin; i < end; ++i) out[i] += weight * (row[i] - center[i]);
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

template <class T>
[[gnu::noinline]] void scale_all(T* x, T factor, size_t n) {
#pragma GCC ivdep
  for (size_t i = 0; i < n; ++i) x[i] *= factor;
}

template <class T>
void limit(T* matrix, size_t columns, double largest, T* mean, T mix, size_t begin, size_t end) {
  for (size_t row = begin; row < end; ++row) {
    const double norm = sqrt(sum_squares(matrix, row * columns, (row + 1) * columns));
    if (norm > largest) scale_all(matrix + row * columns, T(largest / norm), columns);
  }
  if (mean) average(mean + begin * columns, matrix + begin * columns, mix, (end - begin) * columns);
}

}  // namespace

#define X(Rule) entry<Rule>(#Rule),
extern constinit const StepRule step_rules[step_count] = {STEP_RULES(X) LAYER_RULES(X)};
#undef X

extern constinit const StepRule plain_rules[most_states + 1] = {
    entry<Plain<0>::Rule>("plain0"), entry<Plain<1>::Rule>("plain1"), entry<Plain<2>::Rule>("plain2"),
    entry<Plain<3>::Rule>("plain3"), entry<Plain<4>::Rule>("plain4")};

#define X(Rule) \
  {#Rule, Rule<float>::fields, Rule<float>::outputs, Rule<float>::sources, move<Rule, float>, move<Rule, double>},
extern constinit const MoveRule move_rules[move_count] = {MOVE_RULES(X)};
#undef X

extern constinit const RowFns<float> rows_f32 = {sum_squares<float>, combine<float>, spread<float>, limit<float>};
extern constinit const RowFns<double> rows_f64 = {sum_squares<double>, combine<double>, spread<double>, limit<double>};

}  // namespace popgrad::POPGRAD_TARGET
