#include "api.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <optional>
#include <stdexcept>

#include "cpu/detect.h"
#include "cpu/threads.h"
#include "memory.h"
#include "scores.h"
#include "streams.h"

namespace popgrad {
namespace {

template <class T>
const RowFns<T>& row_fns() {
  return *of_type<T>(kernels().rows_f32, kernels().rows_f64);
}

template <class T, class Rule>
auto fn(const Rule& rule) {
  return of_type<T>(rule.f32, rule.f64);
}

// A range of n elements in pieces of whole cache lines.
constexpr size_t piece = 1 << 14;

template <class F>
void parallel_range(size_t n, double operations_each, const F& body) {
  parallel(int64_t((n + piece - 1) / piece), double(n) * operations_each,
           [&](int64_t i) { body(size_t(i) * piece, std::min(n, size_t(i + 1) * piece)); });
}

// The pieces of a list of tensors, one after the other.
template <class T>
class Pieces {
 public:
  Pieces(const StepArgs<T>* tensors, size_t count) : tensors_(tensors), first_(count + 1) {
    for (size_t k = 0; k < count; ++k) {
      first_[k + 1] = first_[k] + (tensors[k].n + piece - 1) / piece;
      elements_ += double(tensors[k].n);
    }
  }
  size_t first(size_t tensor) const { return first_[tensor]; }
  size_t count() const { return first_.back(); }

  // Calls body(tensor, begin, end, piece) for every piece.
  template <class F>
  void parallel(double operations_each, const F& body) const {
    popgrad::parallel(int64_t(count()), elements_ * operations_each, [&](int64_t item) {
      const size_t tensor = size_t(std::upper_bound(first_.begin(), first_.end(), size_t(item)) - first_.begin()) - 1;
      const size_t begin = (size_t(item) - first_[tensor]) * piece;
      body(tensor, begin, std::min(tensors_[tensor].n, begin + piece), size_t(item));
    });
  }

 private:
  const StepArgs<T>* tensors_;
  std::vector<size_t> first_;
  double elements_ = 0;
};

template <class T>
void sweep(const StepRule& rule, const StepArgs<T>* tensors, size_t count) {
  const Pieces<T> pieces(tensors, count);
  const double operations = 2 + rule.states;
  if (rule.sums == 0) {
    pieces.parallel(operations, [&](size_t k, size_t begin, size_t end, size_t) {
      fn<T>(rule)(tensors[k].fields, tensors[k], begin, end);
    });
    return;
  }
  struct Fields {
    double value[most_fields];
  };
  std::vector<Fields> own(count);
  for (size_t k = 0; k < count; ++k) {
    std::copy_n(tensors[k].fields, most_fields, own[k].value);
    std::copy_n(tensors[k].kept, rule.kept, own[k].value);
  }
  std::vector<double> parts(pieces.count() * most_sums);
  pieces.parallel(operations, [&](size_t k, size_t begin, size_t end, size_t item) {
    of_type<T>(rule.measure_f32, rule.measure_f64)(own[k].value, tensors[k], begin, end, &parts[item * most_sums]);
  });
  double sums[most_sums] = {};
  for (size_t k = 0; k < count; ++k) {
    if (!rule.whole) std::fill_n(sums, most_sums, 0.0);
    for (size_t item = pieces.first(k); tensors[k].adapt && item < pieces.first(k + 1); ++item)
      for (int j = 0; j < rule.sums; ++j) sums[j] += parts[item * most_sums + size_t(j)];
    if (!rule.whole) rule.settle(own[k].value, sums);
  }
  for (size_t k = 0; k < count; ++k) {
    if (rule.whole) rule.settle(own[k].value, sums);
    std::copy_n(own[k].value, rule.kept, tensors[k].kept);
  }
  pieces.parallel(operations, [&](size_t k, size_t begin, size_t end, size_t) {
    fn<T>(rule)(own[k].value, tensors[k], begin, end);
  });
}

template <class T>
double sum_squares_any(const T* x, size_t n) {
  std::vector<double> sums((n + piece - 1) / piece);
  parallel_range(n, 1,
                 [&](size_t begin, size_t end) { sums[begin / piece] = row_fns<T>().sum_squares(x, begin, end); });
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

bool acts_on_norms(const StepExtras& extras) { return extras.skip_nonfinite || !std::isinf(extras.clip_norm); }
bool acts_around(const StepExtras& extras) { return extras.noise != 0 || !std::isinf(extras.max_norm); }

// The extras of the first tensor whose extras satisfy the condition, or null.
template <class T>
const StepExtras* first_extras(const StepArgs<T>* tensors, size_t count, bool (*holds)(const StepExtras&)) {
  for (size_t k = 0; k < count; ++k)
    if (tensors[k].extras && holds(*tensors[k].extras)) return tensors[k].extras;
  return nullptr;
}

// Copies of tensors and their extras, for a step that changes extras.
template <class T>
struct Copies {
  std::vector<StepArgs<T>> tensors;
  std::vector<StepExtras> extras;

  Copies(const StepArgs<T>* from, size_t count) : tensors(from, from + count), extras(count) {
    constexpr StepExtras nothing{.scale = 1, .clip = INFINITY, .l2 = 0, .decay = 0, .l1 = 0, .mix = 0};
    for (size_t k = 0; k < count; ++k) {
      extras[k] = from[k].extras ? *from[k].extras : nothing;
      tensors[k].extras = &extras[k];
    }
  }
};

// The factor that scales all gradients down to the largest norm allowed; none if the step must be skipped.
template <class T>
std::optional<double> clip_factor(const StepArgs<T>* tensors, size_t count) {
  const StepExtras* const found = first_extras(tensors, count, acts_on_norms);
  if (!found) return 1;
  const StepExtras& common = *found;
  double squares = 0;
  for (size_t k = 0; k < count; ++k) squares += sum_squares_any(tensors[k].g, tensors[k].n);
  const double norm = std::sqrt(squares) * std::abs(common.scale), largest = common.clip_norm;
  if (common.skip_nonfinite && !std::isfinite(norm)) return std::nullopt;
  return norm > largest ? largest / norm : 1;
}

// Lets tensors with noise step along a copy of their gradient, scaled, clipped and with the noise added.
template <class T>
void add_noise(Copies<T>& own) {
  size_t needed = 0;
  for (const StepArgs<T>& tensor : own.tensors)
    if (tensor.extras->noise != 0) needed += tensor.n;
  if (needed == 0) return;
  T* memory = scratch<T, 1>(needed);
  for (size_t k = 0; k < own.tensors.size(); ++k) {
    StepArgs<T>& tensor = own.tensors[k];
    StepExtras& extras = own.extras[k];
    if (extras.noise == 0) continue;
    parallel_range(tensor.n, 20, [&](size_t begin, size_t end) {
      of_type<T>(kernels().noise_f32, kernels().noise_f64)
          ->disturb(extras.noise_seed, uint32_t(Stream::GRADIENT), tensor.noise, tensor.offset + begin, end - begin,
                    tensor.g + begin, T(extras.scale), T(extras.clip), T(extras.noise), memory + begin);
    });
    tensor.g = memory;
    extras.scale = 1, extras.clip = INFINITY;
    memory += tensor.n;
  }
}

template <class T>
void limit_rows(const StepArgs<T>& matrix) {
  const size_t rows = matrix.n / matrix.columns, together = std::max<size_t>(1, piece / matrix.columns);
  parallel(int64_t((rows + together - 1) / together), 4.0 * double(matrix.n), [&](int64_t item) {
    const size_t begin = size_t(item) * together;
    row_fns<T>().limit(matrix.w, matrix.columns, matrix.extras->max_norm, matrix.average, T(matrix.extras->mix), begin,
                       std::min(rows, begin + together));
  });
}

template <class T>
bool step_any(const StepRule& rule, const StepArgs<T>* tensors, size_t count) {
  const std::optional<double> factor = clip_factor(tensors, count);
  if (!factor) return false;
  if (*factor == 1 && !first_extras(tensors, count, acts_around)) {
    sweep(rule, tensors, count);
    return true;
  }
  Copies<T> own(tensors, count);
  for (StepExtras& extras : own.extras) extras.scale *= *factor;
  add_noise(own);
  std::vector<StepArgs<T>> limited;
  for (StepArgs<T>& tensor : own.tensors) {
    if (tensor.columns == 0 || std::isinf(tensor.extras->max_norm)) continue;
    limited.push_back(tensor);
    tensor.average = nullptr;  // which waits for the limit
  }
  sweep(rule, own.tensors.data(), count);
  for (const StepArgs<T>& tensor : limited) limit_rows(tensor);
  return true;
}

template <class T>
void move_any(const MoveRule& rule, const MoveArgs<T>& args, size_t popsize) {
  const size_t pieces = (args.n + piece - 1) / piece;
  parallel(int64_t(popsize * pieces), double(popsize) * double(args.n) * 10, [&](int64_t item) {
    const size_t member = size_t(item) / pieces, begin = size_t(item) % pieces * piece;
    fn<T>(rule)(args, member, begin, std::min(args.n, begin + piece));
  });
}

template <class T>
void combine_rows_any(const double* weights, const T* rows, const T* center, size_t count, size_t n, T* out) {
  // Columns are narrow, so that the running sums stay in the first-level cache while the rows stream by.
  constexpr size_t columns = 1024;
  parallel(int64_t((n + columns - 1) / columns), 2.0 * double(count) * double(n), [&](int64_t i) {
    const size_t begin = size_t(i) * columns;
    row_fns<T>().combine(weights, rows, center, count, n, out, begin, std::min(n, begin + columns));
  });
}

template <class T>
void spread_any(const T* rows, size_t count, const int64_t* which, size_t wanted, size_t n, T* out) {
  constexpr size_t columns = 64;
  parallel(int64_t((n + columns - 1) / columns), 2.0 * double(wanted) * double(count) * double(n), [&](int64_t i) {
    const size_t begin = size_t(i) * columns;
    row_fns<T>().spread(rows, count, which, wanted, n, out, begin, std::min(n, begin + columns));
  });
}

template <class T>
double total_weight(const Batch<T>& batch) {
  if (!batch.weight) return double(batch.samples);
  double total = 0;
  for (int64_t i = 0; i < batch.samples; ++i) total += double(batch.weight[batch.rows ? batch.rows[i] : i]);
  return total;
}

template <class T>
PackedData<T> pack_any(const Batch<T>& batch, const Bfloat16Fns* bfloat16) {
  const int64_t blocks = block_count(batch.samples), lanes = blocks * block_samples;
  const int64_t words = bfloat16 ? bfloat16->words(batch.inputs) : 0;
  const int64_t width = bfloat16 ? words : batch.inputs;
  auto memory = allocate<T>(size_t(lanes * (width + batch.y_width + 1)));
  T* const X = bfloat16 ? nullptr : memory.get();
  uint32_t* const rounded = bfloat16 ? reinterpret_cast<uint32_t*>(memory.get()) : nullptr;
  T* const y = memory.get() + lanes * width;
  T* const weight = y + lanes * batch.y_width;
  parallel(blocks, double(lanes) * double(batch.inputs), [&](int64_t b) {
    network<T>().pack(batch, b, X, y, weight);
    if constexpr (sizeof(T) == sizeof(float))
      if (bfloat16) bfloat16->pack(batch, b, rounded);
  });
  return {{X, y, weight, rounded, batch.samples, batch.inputs, batch.y_width}, total_weight(batch), std::move(memory)};
}

template <class T>
void evaluate_any(const Shape& shape, Scoring score, const T* population, size_t popsize, const PackedData<T>& data,
                  double* out) {
  const int64_t n = parameter_count(shape);
  mean_scores(shape, score, data, {.count = popsize, .images = 1, .cut = true, .room = 0}, out, [&](size_t p, T*) {
    return std::array<const T*, 2>{population + int64_t(p) * n, nullptr};
  });
}

template <class T>
void measure_any(const Shape& shape, const std::vector<Scoring>& scores, const std::vector<const PackedData<T>*>& data,
                 const T* w, double* means, T* outputs) {
  std::vector<Packed<T>> views;
  for (const PackedData<T>* one : data) views.push_back(one->view);
  const size_t count = scores.size(), need = network<T>().scratch(shape);
  const int64_t blocks = block_count(views[0].samples), parts = part_count(blocks);
  std::vector<double> sums(count * size_t(parts));
  parallel(parts, double(parameter_count(shape)) * double(views[0].samples), [&](int64_t part) {
    network<T>().measure(shape, scores.data(), views.data(), int(count), w, part * part_blocks,
                         std::min(blocks, (part + 1) * part_blocks), &sums[size_t(part) * count], outputs,
                         scratch<T>(need));
  });
  for (size_t k = 0; k < count; ++k) {
    double total = 0;
    for (size_t part = 0; part < size_t(parts); ++part) total += sums[part * count + k];
    means[k] = total / data[k]->total_weight;
  }
}

template <class T, class Fns>
void forward_any(const Fns& fns, const Shape& shape, const T* population, size_t popsize, const Batch<T>& batch,
                 T* out) {
  // Some candidates together, for which a block of samples is laid out once.
  constexpr int64_t together = 16;
  const int64_t n = parameter_count(shape), blocks = block_count(batch.samples), all = int64_t(popsize);
  const size_t need = fns.scratch(shape);
  parallel((all + together - 1) / together * blocks, double(n) * double(batch.samples) * double(all),
           [&](int64_t item) {
             const int64_t first = item / blocks * together, b = item % blocks;
             fns.forward(shape, population + first * n, std::min(together, all - first), n, batch, b,
                         out + first * batch.samples * shape.layers[shape.count - 1].outputs, scratch<T>(need));
           });
}

// Threads share every layer. Long batches are processed in pieces.
template <class T>
void gradient_by_layers(const GradientFns<T>& fns, PassArgs<T> args) {
  constexpr int64_t most = 8 * block_samples;
  const int64_t samples = args.batch.samples;
  const size_t need = fns.scratch(args.shape);
  T* const memory =
      scratch<T, 1>(fns.memory(args.shape, std::min(samples, most), args.batch.y_width, args.mixup.partners));
  const double operations = 2.0 * double(parameter_count(args.shape)) / args.shape.count;
  for (; args.begin < samples; args.begin += most) {
    args.samples = std::min(samples - args.begin, most);
    for (int stage = 0; stage < fns.stages(args.shape); ++stage)
      parallel(fns.items(args.shape, args.samples, stage), operations * double(args.samples),
               [&](int64_t item) { fns.run(args, stage, item, memory, scratch<T>(need)); });
    args.add = true;
    args.losses += block_count(args.samples), args.metrics += block_count(args.samples);
  }
}

// The batch is cut into parts, at most sixteen. Each part has its own gradient, and these are added in order.
template <class T>
void gradient_by_samples(const GradientFns<T>& fns, const PassArgs<T>& args) {
  const int64_t n = parameter_count(args.shape), samples = args.batch.samples, blocks = block_count(samples);
  const int64_t part_blocks = std::max<int64_t>(4, (blocks + 15) / 16);
  const int64_t parts = (blocks + part_blocks - 1) / part_blocks, length = part_blocks * block_samples;
  const size_t memory = padded(fns.memory(args.shape, block_samples, args.batch.y_width, args.mixup.partners));
  const size_t need = memory + fns.scratch(args.shape);
  T* const own = scratch<T, 1>(size_t(n) * size_t(parts - 1));
  // Long parts are processed in pieces, so that a signal can end the call.
  const double each = 6.0 * double(n) * block_samples;
  const int64_t step = std::min(length, std::max<int64_t>(1, int64_t(5e8 / each)) * block_samples);
  for (int64_t at = 0; at < length; at += step)
    parallel(parts, each * double(parts * step / block_samples), [&](int64_t k) {
      PassArgs<T> part = args;
      part.begin = k * length + at;
      part.samples = std::min({samples, part.begin + step, (k + 1) * length}) - part.begin;
      if (part.samples <= 0) return;
      part.gradient = k == 0 ? args.gradient : own + (k - 1) * n;
      part.add = at > 0;
      part.losses += part.begin / block_samples, part.metrics += part.begin / block_samples;
      T* const room = scratch<T>(need);
      fns.run_blocks(part, room, room + memory);
    });
  if (parts > 1)
    parallel_range(size_t(n), double(parts), [&](size_t begin, size_t end) {
      for (int64_t k = 0; k + 1 < parts; ++k)
        for (size_t i = begin; i < end; ++i) args.gradient[i] += own[size_t(k * n) + i];
    });
}

// The partners of a batch and their share.
Mixup mixup_of(const Randomness& random, int64_t samples, std::vector<int64_t>& partners) {
  if (random.step == 0 || !(random.mixup > 0)) return {nullptr, 1};
  constexpr uint32_t stream = uint32_t(Stream::MIXUP);
  partners.resize(size_t(samples));
  kernels().shuffle(random.seed, stream, random.step, samples, partners.data());
  return {partners.data(), kernels().beta(random.seed, stream, random.step, random.mixup)};
}

template <class T>
Seen gradient_any(const GradientFns<T>& fns, const Shape& shape, Scoring score, Scoring metric, const T* w,
                  const Batch<T>& batch, const Randomness& random, T* out) {
  const int64_t n = parameter_count(shape), blocks = block_count(batch.samples);
  const double weight = total_weight(batch);
  double few[2 * 16] = {};
  std::vector<double> many(blocks > 16 ? size_t(2 * blocks) : 0);
  double* const sums = blocks > 16 ? many.data() : few;
  std::vector<int64_t> partners;
  const Mixup mixup = mixup_of(random, batch.samples, partners);
  const PassArgs<T> args{shape,      score,  metric, w,   batch, 0,    batch.samples,
                         1 / weight, random, mixup,  out, false, sums, sums + blocks};
  // Small networks would spend their time waiting between the stages, and the parts of large ones adding gradients.
  if (n >= 1 << 12 && (blocks < 8 || n > 1 << 16))
    gradient_by_layers(fns, args);
  else
    gradient_by_samples(fns, args);
  Seen seen{0, 0, weight};
  for (int64_t b = 0; b < blocks; ++b) seen.loss += sums[b], seen.metric += sums[blocks + b];
  seen.loss /= weight, seen.metric /= weight;
  return seen;
}

const Target& picked() {
  static const Target& target = pick_target();
  return target;
}

}  // namespace

const Kernels& kernels() { return *picked().kernels; }
const Bfloat16Fns* bfloat16_kernels() { return picked().bfloat16; }
const char* bfloat16_name() { return picked().bfloat16 ? picked().name : nullptr; }

std::vector<Layer> dense_layers(const std::vector<int64_t>& sizes, int activation, const std::vector<double>& dropout) {
  std::vector<Layer> layers;
  for (size_t l = 0; l + 1 < sizes.size(); ++l)
    layers.push_back({sizes[l], sizes[l + 1], l + 2 < sizes.size() ? activation : no_activation,
                      l < dropout.size() ? dropout[l] : 0});
  return layers;
}

int64_t parameter_count(const Shape& shape) {
  int64_t n = 0;
  for (int l = 0; l < shape.count; ++l) n += (shape.layers[l].inputs + 1) * shape.layers[l].outputs;
  return n;
}

#define POPGRAD_BOTH(T)                                                                                                \
  bool step(const StepRule& rule, const StepArgs<T>* tensors, size_t count) { return step_any(rule, tensors, count); } \
  void move(const MoveRule& rule, const MoveArgs<T>& args, size_t popsize) { move_any(rule, args, popsize); }          \
  void combine_rows(const double* weights, const T* rows, const T* center, size_t count, size_t n, T* out) {           \
    combine_rows_any(weights, rows, center, count, n, out);                                                            \
  }                                                                                                                    \
  void spread(const T* rows, size_t count, const int64_t* which, size_t wanted, size_t n, T* out) {                    \
    spread_any(rows, count, which, wanted, n, out);                                                                    \
  }                                                                                                                    \
  double sum_squares(const T* x, size_t n) { return sum_squares_any(x, n); }                                           \
  PackedData<T> pack(const Batch<T>& batch) { return pack_any(batch, nullptr); }                                       \
  void evaluate(const Shape& shape, Scoring score, const T* population, size_t popsize, const PackedData<T>& data,     \
                double* out) {                                                                                         \
    evaluate_any(shape, score, population, popsize, data, out);                                                        \
  }                                                                                                                    \
  void measure(const Shape& shape, const std::vector<Scoring>& scores, const std::vector<const PackedData<T>*>& data,  \
               const T* w, double* means, T* outputs) {                                                                \
    measure_any(shape, scores, data, w, means, outputs);                                                               \
  }                                                                                                                    \
  void forward(const Shape& shape, const T* population, size_t popsize, const Batch<T>& batch, T* out) {               \
    forward_any(network<T>(), shape, population, popsize, batch, out);                                                 \
  }                                                                                                                    \
  Seen gradient(const Shape& shape, Scoring score, Scoring metric, const T* w, const Batch<T>& batch,                  \
                const Randomness& random, T* out) {                                                                    \
    return gradient_any(gradients<T>(), shape, score, metric, w, batch, random, out);                                  \
  }
POPGRAD_BOTH(float)
POPGRAD_BOTH(double)
#undef POPGRAD_BOTH

void shuffle(uint64_t seed, uint32_t epoch, int64_t n, int64_t* out) {
  kernels().shuffle(seed, uint32_t(Stream::SHUFFLE), epoch, n, out);
}

PackedData<float> pack_bfloat16(const Batch<float>& batch) { return pack_any(batch, bfloat16_kernels()); }
void forward_bfloat16(const Shape& shape, const float* population, size_t popsize, const Batch<float>& batch,
                      float* out) {
  forward_any(*bfloat16_kernels(), shape, population, popsize, batch, out);
}
Seen gradient_bfloat16(const Shape& shape, Scoring score, Scoring metric, const float* w, const Batch<float>& batch,
                       const Randomness& random, float* out) {
  return gradient_any(*bfloat16_kernels()->gradient, shape, score, metric, w, batch, random, out);
}

}  // namespace popgrad
