// The one reduction of scores over samples, for populations that are stored and populations that are drawn.
#pragma once

#include <array>
#include <vector>

#include "api.h"
#include "cpu/threads.h"
#include "memory.h"

namespace popgrad {

// Evaluates the score of one candidate, in the precision that the data were packed for.
template <class T>
struct Evaluator {
  size_t (*scratch)(const Shape&);
  double (*evaluate)(const Shape&, Scoring, const T* w, const Packed<T>&, int64_t first, int64_t last, T* scratch);
};
template <class T>
inline Evaluator<T> evaluator([[maybe_unused]] const Packed<T>& packed) {
  if constexpr (sizeof(T) == sizeof(float))
    if (packed.words) return {bfloat16_kernels()->scratch, bfloat16_kernels()->evaluate};
  return {network<T>().scratch, network<T>().evaluate};
}

// A population in groups whose parameters are made together: candidate `image` of group g is number g + image * count.
struct Groups {
  size_t count, images;  // one image, or two: a candidate and its antithetic one
  bool cut;              // whether the parts of the samples are separate items of work
  size_t room;           // elements of memory for the parameters of a group
};

// out[p] = the mean score of candidate p. parameters(group, memory) returns the parameters of each image, which may lie
// in `memory`. The sums over the parts of the samples are added in order, whether or not they were cut.
template <class T, class Parameters>
void mean_scores(const Shape& shape, Scoring score, const PackedData<T>& data, const Groups& groups, double* out,
                 const Parameters& parameters) {
  const int64_t blocks = block_count(data.view.samples), parts = part_count(blocks);
  const int64_t cuts = groups.cut ? parts : 1, each = parts / cuts;
  const size_t popsize = groups.count * groups.images;
  const Evaluator<T> network = evaluator(data.view);
  const size_t need = padded(network.scratch(shape));
  const double operations = double(popsize) * double(parameter_count(shape)) * double(data.view.samples);
  std::vector<double> sums(popsize * size_t(cuts));
  parallel(int64_t(groups.count) * cuts, operations, [&](int64_t item) {
    const size_t group = size_t(item / cuts);
    const int64_t cut = item % cuts;
    T* const memory = scratch<T>(need + groups.room);
    const std::array<const T*, 2> w = parameters(group, memory + need);
    for (size_t image = 0; image < groups.images; ++image) {
      double total = 0;
      for (int64_t part = cut * each; part < (cut + 1) * each; ++part)
        total += network.evaluate(shape, score, w[image], data.view, part * part_blocks,
                                  std::min(blocks, (part + 1) * part_blocks), memory);
      sums[(group + image * groups.count) * size_t(cuts) + size_t(cut)] = total;
    }
  });
  for (size_t p = 0; p < popsize; ++p) {
    double total = 0;
    for (int64_t cut = 0; cut < cuts; ++cut) total += sums[p * size_t(cuts) + size_t(cut)];
    out[p] = total / data.total_weight;
  }
}

}  // namespace popgrad
