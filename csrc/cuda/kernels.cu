// The rules of csrc/kernels on the GPU: one launch per call, from the same structs as the CPU's.
// Compiled without contraction (-fmad=false), so that + - * / sqrt give the CPU's bits.
#include <cuda_runtime.h>

#include "../kernels/fields.h"
#include "../kernels/move_rules.h"
#include "../kernels/step_extras.h"
#include "../kernels/step_rules.h"
#include "cuda.h"

namespace popgrad::cuda {
namespace {

constexpr unsigned threads = 256;

unsigned blocks_for(size_t count) {
  constexpr size_t most = 132 * 16;  // enough to fill any card; the loops stride over the rest
  const size_t blocks = (count + threads - 1) / threads;
  return unsigned(blocks < most ? blocks : most);
}

template <template <class> class Rule, class T>
__global__ void step_kernel(Rule<T> rule, Around<T> around, StepArgs<T> args, size_t begin, size_t end) {
  constexpr int states = Rule<T>::states, slots = states > 0 ? states : 1;
  const size_t stride = size_t(gridDim.x) * blockDim.x;
  for (size_t i = begin + size_t(blockIdx.x) * blockDim.x + threadIdx.x; i < end; i += stride) {
    T local[slots], value = args.w[i];
    for (int k = 0; k < states; ++k) local[k] = args.state[size_t(k) * args.n + i];
    if (args.extras) {  // the same for every thread
      const T pull = around.gradient(value, args.g[i]);
      value *= around.keep;
      rule(value, pull, local);
      value = around.shrink(value);
    } else {
      rule(value, args.g[i], local);
    }
    args.w[i] = value;
    for (int k = 0; k < states; ++k) args.state[size_t(k) * args.n + i] = local[k];
  }
}

template <template <class> class Rule, class T>
void step(const double* fields, const StepArgs<T>& args, size_t begin, size_t end) {
  if (begin >= end) return;
  Around<T> around{};
  if (const StepExtras* const e = args.extras) around = {T(e->scale), T(e->clip), T(e->l2), T(e->keep), T(e->l1)};
  step_kernel<Rule, T><<<blocks_for(end - begin), threads>>>(rule_from<Rule<T>, T>(fields), around, args, begin, end);
}

template <template <class> class Rule, class T>
__global__ void move_kernel(MoveArgs<T> args, size_t member, size_t begin, size_t end) {
  constexpr int outputs = Rule<T>::outputs, sources = Rule<T>::sources;
  const Rule<T> rule = rule_from<Rule<T>, T>(args.fields + member * args.field_stride);
  const uint32_t identity = args.identity ? args.identity[member] : uint32_t(member);
  const uint32_t chosen = args.chosen ? uint32_t(args.chosen[member]) : ~uint32_t(0);
  const size_t stride = size_t(gridDim.x) * blockDim.x;
  for (size_t i = begin + size_t(blockIdx.x) * blockDim.x + threadIdx.x; i < end; i += stride) {
    T value[outputs], source[sources];
    for (int k = 0; k < outputs; ++k) value[k] = args.out[k][member * args.n + i];
    for (int k = 0; k < sources; ++k) {
      const size_t row = args.row[k] ? size_t(args.row[k][member]) : member;
      source[k] = args.source[k][row * args.source_stride[k] + i];
    }
    const Draws draws(args.seed, args.stream, args.generation, identity, uint32_t(i));
    rule(value, source, draws, uint32_t(i) == chosen);
    for (int k = 0; k < outputs; ++k) args.out[k][member * args.n + i] = value[k];
  }
}

template <template <class> class Rule, class T>
void move(const MoveArgs<T>& args, size_t member, size_t begin, size_t end) {
  if (begin >= end) return;
  move_kernel<Rule, T><<<blocks_for(end - begin), threads>>>(args, member, begin, end);
}

#define X(Rule) {#Rule, Rule<float>::fields, Rule<float>::states, step<Rule, float>, step<Rule, double>},
const StepRule step_rules[] = {STEP_RULES(X)};
#undef X
#define X(Rule) \
  {#Rule, Rule<float>::fields, Rule<float>::outputs, Rule<float>::sources, move<Rule, float>, move<Rule, double>},
const MoveRule move_rules[] = {MOVE_RULES(X)};
#undef X

const Kernels table = {"cuda",
                       step_rules,
                       sizeof(step_rules) / sizeof(step_rules[0]),
                       move_rules,
                       sizeof(move_rules) / sizeof(move_rules[0]),
                       nullptr,
                       0,
                       nullptr,
                       0,
                       nullptr,
                       nullptr,
                       nullptr,
                       nullptr};

}  // namespace

extern const bool built = true;

int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

extern const Kernels* const kernels = &table;

}  // namespace popgrad::cuda
