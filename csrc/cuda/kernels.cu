// The rules of csrc/kernels on the GPU, from the same structs as the CPU's. A step is one launch for a whole list of
// tensors: each block of threads takes a piece of one of them.
// Compiled without contraction (-fmad=false) and with denormal floats as numbers, so that + - * / sqrt give the CPU's
// bits; sums are taken in an order of their own, the same on every card.
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "../kernels/fields.h"
#include "../kernels/layer_rules.h"
#include "../kernels/move_rules.h"
#include "../kernels/step_extras.h"
#include "../kernels/step_rules.h"
#include "cuda.h"

namespace popgrad::cuda {
namespace {

constexpr unsigned threads = 256;
constexpr size_t piece = 2048;  // elements that a block takes; part of the order of sums

unsigned blocks_for(size_t count) {
  constexpr size_t most = 132 * 16;  // enough to fill any card; the loops stride over the rest
  const size_t blocks = (count + threads - 1) / threads;
  return unsigned(blocks < most ? blocks : most);
}

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string("[cuda] ") + what + ": " + cudaGetErrorString(status));
}

// The arguments of a launch, all in device memory.
template <class T>
struct List {
  const StepArgs<T>* tensors;
  const size_t* first;  // the first piece of each tensor, and the number of pieces
  double* fields;       // most_fields of each tensor, as settled
  double* sums;         // most_sums of each piece
  size_t count;
};

// Where a list's arrays lie in one allocation.
template <class T>
struct Layout {
  size_t count, pieces;
  size_t fields = count * sizeof(StepArgs<T>), sums = fields + count * most_fields * sizeof(double),
         first = sums + pieces * most_sums * sizeof(double), bytes = first + (count + 1) * sizeof(size_t);

  List<T> at(void* memory) const {
    char* const base = static_cast<char*>(memory);
    return {reinterpret_cast<StepArgs<T>*>(base), reinterpret_cast<size_t*>(base + first),
            reinterpret_cast<double*>(base + fields), reinterpret_cast<double*>(base + sums), count};
  }
};

struct Fields {
  double value[most_fields];
};

// The tensor that a piece belongs to: the last one that begins at it or before it, which is not empty.
__device__ size_t tensor_of(const size_t* first, size_t count, size_t item) {
  size_t low = 0, high = count;
  while (high - low > 1) {
    const size_t middle = (low + high) / 2;
    (first[middle] <= item ? low : high) = middle;
  }
  return low;
}

// Calls body(i) for this thread's elements of the block's piece.
template <class T, class Body>
__device__ void for_piece(const List<T>& list, size_t tensor, const Body& body) {
  const size_t begin = (blockIdx.x - list.first[tensor]) * piece, n = list.tensors[tensor].n;
  const size_t end = n - begin < piece ? n : begin + piece;
  for (size_t i = begin + threadIdx.x; i < end; i += threads) body(i);
}

template <class Rule, class T>
__global__ void sweep(List<T> list, Fields shared, Around<T> around, bool with_extras) {
  constexpr int states = Rule::states;
  const size_t tensor = tensor_of(list.first, list.count, blockIdx.x);
  const StepArgs<T> args = list.tensors[tensor];  // a copy: no store changes it
  const Rule rule = rule_from<Rule, T>(sums_of<Rule>() > 0 ? list.fields + tensor * most_fields : shared.value);
  for_piece(list, tensor, [&](size_t i) {
    T local[slots_of<Rule>], value = args.w[i];
    for (int k = 0; k < states; ++k) local[k] = static_cast<const T*>(args.state[k])[i];
    if (with_extras)  // the same for every thread
      update<everything>(rule, around, args.g[i], value, local);
    else
      update<rule_alone>(rule, around, args.g[i], value, local);
    for (int k = 0; k < states; ++k) static_cast<T*>(args.state[k])[i] = local[k];
    args.w[i] = value;
    if (args.average) args.average[i] += around.mix * (value - args.average[i]);
  });
}

// Adds the values of a block's threads pairwise; the first thread gets the sums. Call it once in a kernel.
template <int count>
__device__ void add_up(double* sum) {
  __shared__ double all[count][threads];
  for (int j = 0; j < count; ++j) all[j][threadIdx.x] = sum[j];
  for (unsigned half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half)
      for (int j = 0; j < count; ++j) all[j][threadIdx.x] += all[j][threadIdx.x + half];
  }
  for (int j = 0; j < count; ++j) sum[j] = all[j][threadIdx.x];
}

// The shared fields with what the tensor has kept.
template <class Rule>
__device__ void own_fields(Fields& fields, const double* kept) {
  for (int k = 0; k < kept_of<Rule>(); ++k) fields.value[k] = kept[k];
}

template <class Rule, class T>
__global__ void measure(List<T> list, Fields fields, Around<T> around, bool with_extras) {
  constexpr int states = Rule::states, count = Rule::sums;
  const size_t tensor = tensor_of(list.first, list.count, blockIdx.x);
  const StepArgs<T> args = list.tensors[tensor];  // a copy: no store changes it
  own_fields<Rule>(fields, args.kept);
  const Rule rule = rule_from<Rule, T>(fields.value);
  double sum[count] = {};
  for_piece(list, tensor, [&](size_t i) {
    T local[slots_of<Rule>];
    double one[count];
    for (int k = 0; k < states; ++k) local[k] = static_cast<const T*>(args.state[k])[i];
    const T pull = with_extras ? around.template pull<everything>(args.w[i], args.g[i]) : args.g[i];
    rule.measure(args.w[i], pull, local, one);
    for (int k = 0; k < states; ++k) static_cast<T*>(args.state[k])[i] = local[k];
    for (int k = 0; k < count; ++k) sum[k] += one[k];
  });
  add_up<count>(sum);
  if (threadIdx.x == 0)
    for (int k = 0; k < count; ++k) list.sums[blockIdx.x * most_sums + k] = args.adapt ? sum[k] : 0.0;
}

// One block for each tensor, or, where the sums go over all of them, for all.
template <template <class> class Rule, class T>
__global__ void settle(List<T> list, Fields shared) {
  using R = Rule<double>;
  constexpr int count = R::sums;
  const size_t begin = whole_of<R> ? 0 : blockIdx.x, end = whole_of<R> ? list.count : begin + 1;
  double sum[count] = {};
  for (size_t item = list.first[begin] + threadIdx.x; item < list.first[end]; item += threads)
    for (int k = 0; k < count; ++k) sum[k] += list.sums[item * most_sums + k];
  add_up<count>(sum);
  if (threadIdx.x != 0) return;
  for (size_t tensor = begin; tensor < end; ++tensor) {
    Fields fields = shared;
    double* const kept = list.tensors[tensor].kept;
    own_fields<R>(fields, kept);
    R rule = rule_from<R, double>(fields.value);
    rule.settle(sum);
    fields_from<double>(rule, list.fields + tensor * most_fields);
    for (int k = 0; k < kept_of<R>(); ++k) kept[k] = list.fields[tensor * most_fields + k];
  }
}

template <template <class> class Rule, class T>
void step(const List<T>& list, size_t pieces, const Fields& fields, const StepExtras* extras) {
  static_assert(fields_match<Rule<T>, T>);
  const Around<T> around = around_of<T>(extras);
  if constexpr (sums_of<Rule<T>>() > 0) {
    if (pieces) measure<Rule<T>, T><<<unsigned(pieces), threads>>>(list, fields, around, extras != nullptr);
    settle<Rule, T><<<whole_of<Rule<T>> ? 1 : unsigned(list.count), threads>>>(list, fields);
  }
  if (pieces) sweep<Rule<T>, T><<<unsigned(pieces), threads>>>(list, fields, around, extras != nullptr);
}

template <class T>
using ListFn = void (*)(const List<T>&, size_t pieces, const Fields&, const StepExtras*);
#define X(Rule) step<Rule, T>,
template <class T>
constexpr ListFn<T> step_fns[] = {STEP_RULES(X) LAYER_RULES(X)};
#undef X

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
    for (int k = 0; k < outputs; ++k) args.out[k][member * args.n + i] = without_denormals(value[k]);
  }
}

template <template <class> class Rule, class T>
void move(const MoveArgs<T>& args, size_t member, size_t begin, size_t end) {
  if (begin >= end) return;
  move_kernel<Rule, T><<<blocks_for(end - begin), threads>>>(args, member, begin, end);
  check(cudaGetLastError(), "a move");
}

template <class Rule>
constexpr StepRule entry(const char* name) {
  return {name,    Rule::fields, Rule::states, sums_of<Rule>(), kept_of<Rule>(), whole_of<Rule>, positive_of<Rule>(),
          nullptr, nullptr,      nullptr,      nullptr,         nullptr};
}

#define X(Rule) entry<Rule<float>>(#Rule),
const StepRule step_rules[] = {STEP_RULES(X) LAYER_RULES(X)};
#undef X
#define X(Rule) \
  {#Rule, Rule<float>::fields, Rule<float>::outputs, Rule<float>::sources, move<Rule, float>, move<Rule, double>},
const MoveRule move_rules[] = {MOVE_RULES(X)};
#undef X

constexpr int step_count = sizeof(step_rules) / sizeof(step_rules[0]);
constexpr int move_count = sizeof(move_rules) / sizeof(move_rules[0]);

const Kernels table = {"cuda", step_rules, step_count, nullptr, move_rules, move_count, nullptr,
                       0,      nullptr,    0,          nullptr, nullptr,    nullptr,    nullptr};

}  // namespace

template <class T>
Tensors<T>::Tensors(const StepArgs<T>* args, size_t count)
    : memory_(nullptr, [](void* memory) { cudaFree(memory); }), count_(count) {
  std::vector<size_t> first{0};
  for (size_t k = 0; k < count; ++k) {
    if (args[k].packing != Packing::none)
      throw std::invalid_argument("[cuda] states in bfloat16 or bytes are for the CPU only");
    first.push_back(first.back() + (args[k].n + piece - 1) / piece);
  }
  pieces_ = first.back();
  if (pieces_ > 0x7FFFFFFF || count > 0x7FFFFFFF) throw std::invalid_argument("[cuda] more than one launch can take");
  void* memory = nullptr;
  const Layout<T> layout{count, pieces_};
  check(cudaMalloc(&memory, layout.bytes), "memory for a list of tensors");
  memory_.reset(memory);
  const List<T> list = layout.at(memory);
  const auto copy = [](const void* to, const void* from, size_t bytes) {
    check(cudaMemcpy(const_cast<void*>(to), from, bytes, cudaMemcpyHostToDevice), "a list of tensors");
  };
  copy(list.tensors, args, count * sizeof(StepArgs<T>));
  copy(list.first, first.data(), first.size() * sizeof(size_t));
}

template <class T>
void Tensors<T>::step(int rule, const double* fields, const StepExtras* extras) {
  if (rule < 0 || rule >= step_count) throw std::invalid_argument("[cuda] no such rule");
  if (count_ == 0) return;
  Fields own;
  for (int k = 0; k < most_fields; ++k) own.value[k] = fields[k];
  step_fns<T>[rule](Layout<T>{count_, pieces_}.at(memory_.get()), pieces_, own, extras);
  check(cudaGetLastError(), step_rules[rule].name);
}

template class Tensors<float>;
template class Tensors<double>;

extern const bool built = true;

int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

extern const Kernels* const kernels = &table;

}  // namespace popgrad::cuda
