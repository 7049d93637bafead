// Populations that are never stored: each thread draws a member's parameters when it needs them.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "api.h"
#include "cpu/threads.h"
#include "memory.h"
#include "scores.h"

namespace popgrad {
namespace {

template <class T>
const NoiseFns<T>& noise_fns() {
  return *of_type<T>(kernels().noise_f32, kernels().noise_f64);
}

constexpr double operations_per_normal = 20;

template <class T>
bool has_matrices(const Perturbations<T>& p) {
  return std::any_of(p.parts.begin(), p.parts.end(), [](const NoisePart& part) { return part.rows > 0; });
}

// Members with noise of their own: in an antithetic population, half of them.
template <class T>
size_t drawn_members(const Perturbations<T>& p) {
  return p.antithetic ? p.popsize / 2 : p.popsize;
}

template <class T>
T root(const Perturbations<T>& p) {
  return T(1 / std::sqrt(double(p.rank)));
}

size_t drawn_in(const NoisePart& part, int rank) {
  return part.rows > 0 ? size_t(rank) * size_t(part.rows + part.columns) : size_t(part.columns);
}

size_t numbers_in(const NoisePart& part) { return size_t(std::max<int64_t>(part.rows, 1) * part.columns); }

// Expands the noise of the parts from `first_part` on; `drawn` holds the numbers that the member drew for them.
template <class T>
void expand(const Perturbations<T>& p, size_t first_part, const T* drawn, T* out) {
  for (size_t k = first_part; k < p.parts.size(); ++k) {
    const NoisePart& part = p.parts[k];
    if (part.rows > 0)
      noise_fns<T>().expand(drawn, drawn + p.rank * part.rows, p.rank, part.rows, part.columns, root(p), out);
    else
      std::copy_n(drawn, part.columns, out);
    drawn += drawn_in(part, p.rank);
    out += numbers_in(part);
  }
}

template <class T>
void rows_any(const Perturbations<T>& p, size_t first, size_t count, T* out) {
  constexpr size_t piece = 64 * noise_piece;
  const size_t n = parameter_count(p.parts), drawn = drawn_count(p.parts, p.rank), half = drawn_members(p);
  const bool whole = has_matrices(p);
  const size_t pieces = whole ? 1 : (n + piece - 1) / piece;
  parallel(int64_t(count * pieces), double(count) * double(n) * operations_per_normal, [&](int64_t item) {
    const size_t row = size_t(item) / pieces, member = first + row, begin = size_t(item) % pieces * piece;
    const size_t end = whole ? n : std::min(n, begin + piece);
    T* const to = out + row * n + begin;
    if (whole) {
      T* const memory = scratch<T>(drawn);
      noise_fns<T>().draw(p.seed, p.stream, uint32_t(member % half), 0, drawn, memory);
      expand(p, 0, memory, to);
    } else {
      noise_fns<T>().draw(p.seed, p.stream, uint32_t(member % half), begin, end, to);
    }
    noise_fns<T>().perturb(p.center + begin, T(member < half ? p.sigma : -p.sigma), to, end - begin, to);
  });
}

// Every coordinate has noise of its own: the parameters of a member and of its antithetic one are made in the thread's
// scratch memory.
template <class T>
void evaluate_full(const Shape& shape, Scoring score, const Perturbations<T>& p, const PackedData<T>& data,
                   double* out) {
  constexpr size_t enough = 64;     // pairs of members that keep all threads busy without cutting the samples
  constexpr double too_long = 5e8;  // operations of a pair that must be cut, so that a signal can end the call
  const size_t n = parameter_count(p.parts), half = drawn_members(p), images = p.popsize / half;
  const size_t parts = size_t(part_count(block_count(data.view.samples)));
  const bool is_long = double(images) * double(n) * double(data.view.samples) > too_long && half * parts < 1 << 20;
  const Groups groups{.count = half, .images = images, .cut = half < enough || is_long, .room = images * padded(n)};
  mean_scores(shape, score, data, groups, out, [&](size_t member, T* memory) {
    T* const w[2] = {memory, memory + padded(n)};
    noise_fns<T>().draw(p.seed, p.stream, uint32_t(member), 0, n, w[0]);
    for (size_t image = images; image-- > 0;)
      noise_fns<T>().perturb(p.center, T(image > 0 ? -p.sigma : p.sigma), w[0], n, w[image]);
    return std::array<const T*, 2>{w[0], w[1]};
  });
}

// Noise of low rank: the first layer of a member is that of the center, which all members share, plus
// A (B^T x) / sqrt(rank). Several members are taken together, so that their products with the samples fill the tiles of
// the product kernel.
template <class T>
void evaluate_low_rank(const Shape& shape, Scoring score, const Perturbations<T>& p, const PackedData<T>& data,
                       double* out) {
  const size_t n = parameter_count(p.parts), drawn = drawn_count(p.parts, p.rank), half = drawn_members(p);
  const size_t together = std::clamp<size_t>(half / 64, 1, 12);  // few enough that all threads have work
  const size_t images = p.popsize / half, first_n = numbers_in(p.parts[0]) + numbers_in(p.parts[1]), rest = n - first_n;
  const size_t first_drawn = drawn_in(p.parts[0], p.rank) + drawn_in(p.parts[1], p.rank);
  const int64_t hidden = shape.layers[0].outputs, blocks = block_count(data.view.samples);
  const size_t need = padded(network<T>().scratch(shape)), stride = padded(drawn),
               groups = (half + together - 1) / together;
  const auto start = allocate<T>(size_t(std::min(blocks, part_blocks) * hidden * block_samples));
  std::fill_n(out, p.popsize, 0.0);
  for (int64_t first = 0; first < blocks; first += part_blocks) {
    const int64_t last = std::min(blocks, first + part_blocks), count = last - first;
    parallel(count, double(count * block_samples) * double(first_n), [&](int64_t b) {
      network<T>().first_layer(shape, p.center, data.view, first + b, start.get() + b * hidden * block_samples);
    });
    parallel(int64_t(groups), double(p.popsize) * double(count * block_samples) * double(rest + drawn), [&](int64_t g) {
      const size_t begin = size_t(g) * together, members = std::min(half, begin + together) - begin;
      const size_t projections = size_t(count * p.rank * block_samples) * members;
      T* const memory = scratch<T>(need + members * stride + projections + 2 * padded(rest));
      T* const noise = memory + need;
      T* const projected = noise + members * stride;
      T* const w = projected + projections;
      for (size_t k = 0; k < members; ++k)
        noise_fns<T>().draw(p.seed, p.stream, uint32_t(begin + k), 0, drawn, noise + k * stride);
      network<T>().project(shape, noise + p.rank * hidden, int64_t(stride), int64_t(members), p.rank, data.view, first,
                           last, projected);
      for (size_t k = 0; k < members; ++k) {
        const T* const own = noise + k * stride;
        T* const tail = w + padded(rest);
        expand(p, 2, own + first_drawn, tail);
        for (size_t image = 0; image < images; ++image) {
          const T sigma = T(image > 0 ? -p.sigma : p.sigma);
          noise_fns<T>().perturb(p.center + first_n, sigma, tail, rest, w);
          const Moved<T> moved{.start = start.get(),
                               .projected = projected + k * block_samples,
                               .block_stride = int64_t(p.rank) * int64_t(members) * block_samples,
                               .column_stride = int64_t(members) * block_samples,
                               .left = own,
                               .bias = own + drawn_in(p.parts[0], p.rank),
                               .left_scale = sigma * root(p),
                               .bias_scale = sigma,
                               .rank = p.rank,
                               .rest = w};
          out[begin + k + image * half] +=
              network<T>().evaluate_moved(shape, score, moved, data.view, first, last, memory);
        }
      }
    });
  }
  for (size_t k = 0; k < p.popsize; ++k) out[k] /= data.total_weight;
}

// Rows of a part that one thread sums: the number of the part, where it begins in what a member draws, and where the
// rows begin in the parameters.
struct Tile {
  size_t part, drawn, at;
  int64_t row, rows;
};

template <class T>
std::vector<Tile> tiles_of(const Perturbations<T>& p) {
  constexpr int64_t most_rows = 24;
  std::vector<Tile> tiles;
  size_t n = 0, drawn = 0;
  for (size_t k = 0; k < p.parts.size(); ++k) {
    const int64_t rows = std::max<int64_t>(p.parts[k].rows, 1);
    for (int64_t row = 0; row < rows; row += most_rows)
      tiles.push_back({k, drawn, n + size_t(row * p.parts[k].columns), row, std::min(most_rows, rows - row)});
    n += numbers_in(p.parts[k]);
    drawn += drawn_in(p.parts[k], p.rank);
  }
  return tiles;
}

// What one member draws, padded to `stride`; A is scaled by the weight over sqrt(rank).
template <class T>
void draw_weighted(const Perturbations<T>& p, uint32_t member, T weight, size_t stride, T* z) {
  const size_t drawn = drawn_count(p.parts, p.rank);
  noise_fns<T>().draw(p.seed, p.stream, member, 0, drawn, z);
  std::fill_n(z + drawn, stride - drawn, T(0));
  for (const NoisePart& part : p.parts) {
    for (int64_t i = 0; i < p.rank * part.rows; ++i) z[i] *= weight * root(p);
    z += drawn_in(part, p.rank);
  }
}

// Adds the weighted noise of `count` members, drawn at z with this stride, to a tile of out.
template <class T>
void add_tile(const Perturbations<T>& p, const Tile& tile, const T* weights, const T* z, int64_t stride, int64_t count,
              T* out) {
  const NoisePart& part = p.parts[tile.part];
  z += tile.drawn;
  if (part.rows == 0) {
    network<T>().add_product(weights, 1, z, stride, out, 1, count, part.columns);
    return;
  }
  for (int q = 0; q < p.rank; ++q)
    network<T>().add_product(z + q * part.rows + tile.row, stride, z + p.rank * part.rows + q * part.columns, stride,
                             out, tile.rows, count, part.columns);
}

// Some members are drawn at a time, and each matrix grows by the product of their A, weighted, with their B. The sums
// of several such groups are added in double, so that a sum over millions of members loses no digits.
template <class T>
void combine_low_rank(const Perturbations<T>& p, const std::vector<double>& weights, T* out) {
  constexpr size_t most = 128;  // members at a time, fewer if their numbers would take more than four times n
  const size_t n = parameter_count(p.parts), drawn = drawn_count(p.parts, p.rank), stride = padded(drawn);
  const std::vector<Tile> tiles = tiles_of(p);
  std::vector<uint32_t> chosen;
  for (size_t k = 0; k < weights.size(); ++k)
    if (weights[k] != 0) chosen.push_back(uint32_t(k));
  const size_t together = std::clamp<size_t>(std::max<size_t>(4 * n, 1 << 20) / stride, 1, most);
  const auto memory = allocate<T>(std::min(together, chosen.size()) * stride);
  const bool in_parts = sizeof(T) < sizeof(double) && chosen.size() > together;
  const auto sums = allocate<double>(in_parts ? n : 0);
  T own[most];
  std::fill_n(out, n, T(0));
  for (size_t first = 0; first < chosen.size(); first += together) {
    const size_t count = std::min(together, chosen.size() - first);
    parallel(int64_t(count), double(count) * double(drawn) * operations_per_normal, [&](int64_t k) {
      const uint32_t member = chosen[first + size_t(k)];
      own[k] = T(weights[member]);
      draw_weighted(p, member, own[k], stride, memory.get() + size_t(k) * stride);
    });
    parallel(int64_t(tiles.size()), 2.0 * double(count) * double(n) * p.rank, [&](int64_t k) {
      const Tile& tile = tiles[size_t(k)];
      T* const to = out + tile.at;
      add_tile(p, tile, own, memory.get(), int64_t(stride), int64_t(count), to);
      if (!in_parts) return;
      double* const sum = sums.get() + tile.at;
      for (int64_t i = 0; i < tile.rows * p.parts[tile.part].columns; ++i) {
        sum[i] = first > 0 ? sum[i] + double(to[i]) : double(to[i]);
        to[i] = T(0);
      }
    });
  }
  if (in_parts) std::copy_n(sums.get(), n, out);
}

template <class T>
void combine_noise_any(const Perturbations<T>& p, const double* weights, T* out) {
  const size_t half = drawn_members(p), n = parameter_count(p.parts);
  std::vector<double> own(weights, weights + half);
  for (size_t k = half; k < p.popsize; ++k) own[k - half] -= weights[k];
  if (has_matrices(p)) {
    combine_low_rank(p, own, out);
    return;
  }
  parallel(int64_t((n + noise_piece - 1) / noise_piece), double(half) * double(n) * operations_per_normal,
           [&](int64_t i) {
             const size_t begin = size_t(i) * noise_piece;
             noise_fns<T>().combine(p.seed, p.stream, own.data(), half, begin, std::min(n, begin + noise_piece),
                                    out + begin);
           });
}

template <class T>
void evaluate_any(const Shape& shape, Scoring score, const Perturbations<T>& p, const PackedData<T>& data,
                  double* out) {
  if (has_matrices(p))
    evaluate_low_rank(shape, score, p, data, out);
  else
    evaluate_full(shape, score, p, data, out);
}

}  // namespace

size_t parameter_count(const std::vector<NoisePart>& parts) {
  size_t n = 0;
  for (const NoisePart& part : parts) n += numbers_in(part);
  return n;
}

size_t drawn_count(const std::vector<NoisePart>& parts, int rank) {
  size_t drawn = 0;
  for (const NoisePart& part : parts) drawn += drawn_in(part, rank);
  return drawn;
}

#define POPGRAD_BOTH(T)                                                                                        \
  void evaluate(const Shape& shape, Scoring score, const Perturbations<T>& p, const PackedData<T>& data,       \
                double* out) {                                                                                 \
    evaluate_any(shape, score, p, data, out);                                                                  \
  }                                                                                                            \
  void rows(const Perturbations<T>& p, size_t first, size_t count, T* out) { rows_any(p, first, count, out); } \
  void combine_noise(const Perturbations<T>& p, const double* weights, T* out) { combine_noise_any(p, weights, out); }
POPGRAD_BOTH(float)
POPGRAD_BOTH(double)
#undef POPGRAD_BOTH

}  // namespace popgrad
