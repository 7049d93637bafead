// Blocks of samples side by side: their layout, and the sum of a score over one of them.
#pragma once

#include "../kernels/losses.h"
#include "../table.h"
#include "product.h"

namespace popgrad::POPGRAD_TARGET {
namespace {

static_assert(max_lanes == block_samples);

template <class T>
constexpr int64_t pad(int64_t count) {
  constexpr int64_t width = Vectors<T>::width;
  return (count + width - 1) / width * width;
}

// The samples of a block, and the lanes that hold them side by side; the last block has no more than whole vectors
// need.
int64_t samples_in(int64_t samples, int64_t block) {
  const int64_t left = samples - block * block_samples;
  return left < block_samples ? left : block_samples;
}
template <class T>
int64_t lanes_of(const Packed<T>& packed, int64_t block) {
  return pad<T>(samples_in(packed.samples, block));
}

// Samples [begin, begin + count) side by side in `lanes` >= count lanes; the rest is zero.
template <class T>
void pack_lanes(const T* from, const int64_t* rows, int64_t width, int64_t begin, int64_t count, int64_t lanes, T* to) {
  for (int64_t s = 0; s < count; ++s) {
    const T* const sample = from + (rows ? rows[begin + s] : begin + s) * width;
    for (int64_t i = 0; i < width; ++i) to[i * lanes + s] = sample[i];
  }
  if (count < lanes)
    for (int64_t i = 0; i < width; ++i)
      for (int64_t s = count; s < lanes; ++s) to[i * lanes + s] = T(0);
}

// The weights of samples [begin, begin + count); zero in the other lanes.
template <class T>
void pack_weight(const Batch<T>& batch, int64_t begin, int64_t count, int64_t lanes, T* to) {
  for (int64_t s = 0; s < lanes; ++s) to[s] = s < count ? T(1) : T(0);
  if (batch.weight)
    for (int64_t s = 0; s < count; ++s) to[s] = batch.weight[batch.rows ? batch.rows[begin + s] : begin + s];
}

// Samples as rows of `to`, from units (units, lanes) side by side.
template <class T>
void write_rows(const T* z, int64_t units, int64_t count, int64_t lanes, T* to) {
  for (int64_t s = 0; s < count; ++s)
    for (int64_t o = 0; o < units; ++o) to[s * units + o] = z[o * lanes + s];
}

// The sum of `lanes` values, by halves: the order is that of the vector width.
template <class T>
T sum_lanes(const T* values, int64_t lanes) {
  using V = Vectors<T>;
  typename V::Vec total{};
  for (int64_t i = 0; i < lanes; i += V::width) total += V::load(values + i);
  alignas(POPGRAD_VECTOR_BYTES) T part[V::width];
  V::store(part, total);
  for (int half = V::width / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) part[i] += part[i + half];
  return part[0];
}

template <template <class> class F, class T>
void score(const T* z, const T* y, int outputs, int lanes, T setting, T* value, T* slope) {
  // Two calls, so that each inlined copy knows at compile time whether to write slopes.
  if (slope && F<T>::differentiable)
    F<T>::score(z, y, outputs, lanes, setting, value, slope);
  else
    F<T>::score(z, y, outputs, lanes, setting, value, nullptr);
}

template <class T>
using ScoreFn = void (*)(const T*, const T*, int, int, T, T*, T*);

#define X(F, name) score<F, T>,
template <class T>
constexpr ScoreFn<T> score_fns[] = {SCORES(X)};
#undef X

int64_t outputs_of(const Shape& shape) { return shape.layers[shape.count - 1].outputs; }

// The sum of weight * score over one block, whose raw outputs are z.
template <class T>
double block_sum(const Shape& shape, Scoring score, const T* z, const Packed<T>& packed, int64_t b) {
  const int64_t begin = b * block_samples, lanes = lanes_of(packed, b), count = samples_in(packed.samples, b);
  alignas(64) T value[block_samples];
  score_fns<T>[score.index](z, packed.y + begin * packed.y_width, int(outputs_of(shape)), int(lanes), T(score.setting),
                            value, nullptr);
  for (int64_t s = 0; s < lanes; ++s) value[s] = s < count ? packed.weight[begin + s] * value[s] : T(0);
  return double(sum_lanes(value, lanes));
}

}  // namespace
}  // namespace popgrad::POPGRAD_TARGET
