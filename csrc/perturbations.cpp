// Populations that are never stored: each thread makes a member's parameters where it needs them.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "api.h"
#include "cpu/threads.h"
#include "memory.h"

namespace popgrad {
namespace {

template <class T>
const NoiseFns<T>& noise_fns() {
  return *of_type<T>(kernels().noise_f32, kernels().noise_f64);
}

constexpr double operations_per_normal = 20;

// Whole cache lines, and for matrix products a vector past the end.
size_t room(size_t count) { return (count + 31) / 16 * 16; }

template <class T>
bool has_matrices(const Perturbations<T>& p) {
  return std::any_of(p.parts.begin(), p.parts.end(), [](const NoisePart& part) { return part.rows > 0; });
}

// Where the noise of a member comes from: half of a mirrored population has that of the other half.
template <class T>
size_t drawn_members(const Perturbations<T>& p) {
  return p.mirrored ? p.members / 2 : p.members;
}

template <class T>
T root(const Perturbations<T>& p) {
  return T(1 / std::sqrt(double(p.rank)));
}

size_t drawn_in(const NoisePart& part, int rank) {
  return part.rows > 0 ? size_t(rank) * size_t(part.rows + part.columns) : size_t(part.columns);
}

size_t numbers_in(const NoisePart& part) { return size_t(std::max<int64_t>(part.rows, 1) * part.columns); }

// The noise of the parts from `first_part` on as numbers; `drawn` is what the member drew for those.
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
    noise_fns<T>().perturb(p.centre + begin, T(member < half ? p.sigma : -p.sigma), to, end - begin, to);
  });
}

// Every member with noise of its own in every coordinate: its parameters, and those of its mirror image, are made in
// the thread's scratch memory.
template <class T>
void evaluate_full(const Shape& shape, int score, const Perturbations<T>& p, const PackedData<T>& data, double* out) {
  constexpr size_t enough = 64;     // pairs of members to keep all threads busy without cutting the samples
  constexpr double too_long = 5e8;  // operations of a pair that shall be cut, so that the call can be ended
  const size_t n = parameter_count(p.parts), half = drawn_members(p), images = p.members / half;
  const int64_t blocks = block_count(data.view.samples), parts = (blocks + part_blocks - 1) / part_blocks;
  const bool is_long =
      double(images) * double(n) * double(data.view.samples) > too_long && half * size_t(parts) < 1 << 20;
  const bool cut_samples = half < enough || is_long;
  const int64_t cuts = cut_samples ? parts : 1, each = parts / cuts;
  const Evaluator<T> network = evaluator(data.view);
  const size_t need = room(network.scratch(shape));
  std::vector<double> sums(cuts > 1 ? p.members * size_t(cuts) : 0);
  double* const to = cuts > 1 ? sums.data() : out;
  parallel(int64_t(half) * cuts, double(p.members) * double(n) * double(data.view.samples), [&](int64_t item) {
    const size_t member = size_t(item / cuts);
    const int64_t cut = item % cuts;
    T* const memory = scratch<T>(need + images * room(n));
    T* const w[2] = {memory + need, memory + need + room(n)};
    noise_fns<T>().draw(p.seed, p.stream, uint32_t(member), 0, n, w[0]);
    for (size_t image = images; image-- > 0;)
      noise_fns<T>().perturb(p.centre, T(image > 0 ? -p.sigma : p.sigma), w[0], n, w[image]);
    for (size_t image = 0; image < images; ++image) {
      double total = 0;
      for (int64_t part = cut * each; part < (cut + 1) * each; ++part)
        total += network.evaluate(shape, score, w[image], data.view, part * part_blocks,
                                  std::min(blocks, (part + 1) * part_blocks), memory);
      to[(member + image * half) * size_t(cuts) + size_t(cut)] = total;
    }
  });
  for (size_t k = 0; k < p.members; ++k) {
    double total = 0;
    for (int64_t cut = 0; cut < cuts; ++cut) total += to[k * size_t(cuts) + size_t(cut)];
    out[k] = total / data.total_weight;
  }
}

// Noise of low rank: the first layer of a member is that of the centre, which all share, plus A (B^T x) / sqrt(rank).
// Some members at a time, so that their products with the samples fill the tiles of the product kernel.
template <class T>
void evaluate_low_rank(const Shape& shape, int score, const Perturbations<T>& p, const PackedData<T>& data,
                       double* out) {
  const size_t n = parameter_count(p.parts), drawn = drawn_count(p.parts, p.rank), half = drawn_members(p);
  const size_t together = std::clamp<size_t>(half / 64, 1, 12);  // no more than leaves work for all threads
  const size_t images = p.members / half, first_n = numbers_in(p.parts[0]) + numbers_in(p.parts[1]), rest = n - first_n;
  const size_t first_drawn = drawn_in(p.parts[0], p.rank) + drawn_in(p.parts[1], p.rank);
  const int64_t hidden = shape.sizes[1], blocks = block_count(data.view.samples);
  const size_t need = room(network<T>().scratch(shape)), stride = room(drawn),
               groups = (half + together - 1) / together;
  const auto start = allocate<T>(size_t(std::min(blocks, part_blocks) * hidden * block_samples));
  std::fill_n(out, p.members, 0.0);
  for (int64_t first = 0; first < blocks; first += part_blocks) {
    const int64_t last = std::min(blocks, first + part_blocks), count = last - first;
    parallel(count, double(count * block_samples) * double(first_n), [&](int64_t b) {
      network<T>().first_layer(shape, p.centre, data.view, first + b, start.get() + b * hidden * block_samples);
    });
    parallel(int64_t(groups), double(p.members) * double(count * block_samples) * double(rest + drawn), [&](int64_t g) {
      const size_t begin = size_t(g) * together, members = std::min(half, begin + together) - begin;
      const size_t projections = size_t(count * p.rank * block_samples) * members;
      T* const memory = scratch<T>(need + members * stride + projections + 2 * room(rest));
      T* const noise = memory + need;
      T* const projected = noise + members * stride;
      T* const w = projected + projections;
      for (size_t k = 0; k < members; ++k)
        noise_fns<T>().draw(p.seed, p.stream, uint32_t(begin + k), 0, drawn, noise + k * stride);
      network<T>().project(shape, noise + p.rank * hidden, int64_t(stride), int64_t(members), p.rank, data.view, first,
                           last, projected);
      for (size_t k = 0; k < members; ++k) {
        const T* const own = noise + k * stride;
        T* const tail = w + room(rest);
        expand(p, 2, own + first_drawn, tail);
        for (size_t image = 0; image < images; ++image) {
          const T sigma = T(image > 0 ? -p.sigma : p.sigma);
          noise_fns<T>().perturb(p.centre + first_n, sigma, tail, rest, w);
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
  for (size_t k = 0; k < p.members; ++k) out[k] /= data.total_weight;
}

// Some members are drawn at a time, and each matrix grows by the product of their A, weighted, with their B. The
// sums of several such groups are added in double: millions of members lose no digits.
template <class T>
void combine_low_rank(const Perturbations<T>& p, const std::vector<double>& weights, T* out) {
  constexpr size_t most = 128;  // members at a time, fewer where what they draw would take more than four times n
  constexpr int64_t tile = 24;  // rows; what a thread takes
  struct Tile {
    size_t part, drawn, at;  // number of the part, and where it begins in what is drawn and in out
    int64_t row, rows;
  };
  std::vector<Tile> tiles;
  size_t n = 0, drawn = 0;
  for (size_t k = 0; k < p.parts.size(); ++k) {
    const int64_t rows = std::max<int64_t>(p.parts[k].rows, 1);
    for (int64_t row = 0; row < rows; row += tile)
      tiles.push_back({k, drawn, n + size_t(row * p.parts[k].columns), row, std::min(tile, rows - row)});
    n += numbers_in(p.parts[k]);
    drawn += drawn_in(p.parts[k], p.rank);
  }
  std::vector<uint32_t> chosen;
  for (size_t k = 0; k < weights.size(); ++k)
    if (weights[k] != 0) chosen.push_back(uint32_t(k));
  const size_t stride = room(drawn);
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
      T* const z = memory.get() + size_t(k) * stride;
      noise_fns<T>().draw(p.seed, p.stream, member, 0, drawn, z);
      std::fill_n(z + drawn, stride - drawn, T(0));
      own[k] = T(weights[member]);
      size_t at = 0;
      for (const NoisePart& part : p.parts) {
        for (int64_t i = 0; i < p.rank * part.rows; ++i) z[at + size_t(i)] *= own[k] * root(p);
        at += drawn_in(part, p.rank);
      }
    });
    parallel(int64_t(tiles.size()), 2.0 * double(count) * double(n) * p.rank, [&](int64_t k) {
      const Tile& t = tiles[size_t(k)];
      const NoisePart& part = p.parts[t.part];
      const T* const z = memory.get() + t.drawn;
      T* const to = out + t.at;
      if (part.rows == 0)
        network<T>().add_product(own, 1, z, int64_t(stride), to, 1, int64_t(count), part.columns);
      else
        for (int q = 0; q < p.rank; ++q)
          network<T>().add_product(z + q * part.rows + t.row, int64_t(stride),
                                   z + p.rank * part.rows + q * part.columns, int64_t(stride), to, t.rows,
                                   int64_t(count), part.columns);
      if (!in_parts) return;
      double* const sum = sums.get() + t.at;
      for (int64_t i = 0; i < t.rows * part.columns; ++i) {
        sum[i] = first > 0 ? sum[i] + double(to[i]) : double(to[i]);
        to[i] = T(0);
      }
    });
  }
  if (in_parts) std::copy_n(sums.get(), n, out);
}

template <class T>
void combine_any(const Perturbations<T>& p, const double* weights, T* out) {
  const size_t half = drawn_members(p), n = parameter_count(p.parts);
  std::vector<double> own(weights, weights + half);
  for (size_t k = half; k < p.members; ++k) own[k - half] -= weights[k];
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
void evaluate_any(const Shape& shape, int score, const Perturbations<T>& p, const PackedData<T>& data, double* out) {
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

#define POPGRAD_BOTH(T)                                                                                             \
  void evaluate(const Shape& shape, int score, const Perturbations<T>& p, const PackedData<T>& data, double* out) { \
    evaluate_any(shape, score, p, data, out);                                                                       \
  }                                                                                                                 \
  void rows(const Perturbations<T>& p, size_t first, size_t count, T* out) { rows_any(p, first, count, out); }      \
  void combine(const Perturbations<T>& p, const double* weights, T* out) { combine_any(p, weights, out); }
POPGRAD_BOTH(float)
POPGRAD_BOTH(double)
#undef POPGRAD_BOTH

}  // namespace popgrad
