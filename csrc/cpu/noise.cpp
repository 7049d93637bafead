// The noise of candidates that are not stored, and the order of samples. Compiled once per instruction set, without
// contraction, so that all of them give the same bits. No standard headers with inline bodies here, see csrc/README.md.
#include "../kernels/random.h"
#include "tables.h"

namespace popgrad::POPGRAD_TARGET {
namespace {

static_assert(noise_piece == noise_block);

struct Words {
  alignas(64) uint32_t word[4][noise_lanes];
};

#if defined(__SSE2__) && !defined(__clang__)
// Processors multiply 32 by 32 bits in every second lane of a vector. Compilers do not keep the words in those lanes,
// and shuffles then take two thirds of the time. So even and odd lanes have vectors of their own, joined at the end.
typedef uint64_t Wide __attribute__((vector_size(POPGRAD_VECTOR_BYTES), may_alias));

struct WideProduct {
  POPGRAD_HD void operator()(Wide a, uint32_t b, Wide& high, Wide& low) const {
    typedef int Ints __attribute__((vector_size(POPGRAD_VECTOR_BYTES)));
    const Ints left = Ints(a), right = Ints(Wide{} + b);
#if defined(__AVX512F__)
    typedef long long Longs __attribute__((vector_size(POPGRAD_VECTOR_BYTES)));
    low = Wide(__builtin_ia32_pmuludq512_mask(left, right, Longs{}, -1));
#elif defined(__AVX2__)
    low = Wide(__builtin_ia32_pmuludq256(left, right));
#else
    low = Wide(__builtin_ia32_pmuludq128(left, right));
#endif
    high = low >> 32;
  }
};

[[gnu::noinline]] void draw_words(uint64_t seed, uint32_t stream, uint32_t member, uint32_t piece, Words& words) {
  constexpr uint32_t width = POPGRAD_VECTOR_BYTES / sizeof(uint64_t);
  for (uint32_t lane = 0; lane < noise_lanes; lane += 2 * width) {
    Wide half[2][4];
    for (uint32_t odd = 0; odd < 2; ++odd) {
      Wide index;
      for (uint32_t k = 0; k < width; ++k) index[k] = piece * noise_lanes + lane + 2 * k + odd;
      half[odd][0] = index, half[odd][1] = Wide{} + member, half[odd][2] = Wide{}, half[odd][3] = Wide{} + stream;
      philox<WideProduct>(half[odd], seed);
    }
    for (int k = 0; k < 4; ++k)
      *reinterpret_cast<Wide*>(words.word[k] + lane) = (half[0][k] & 0xFFFFFFFFu) | (half[1][k] << 32);
  }
}
#else
[[gnu::noinline]] void draw_words(uint64_t seed, uint32_t stream, uint32_t member, uint32_t piece, Words& words) {
#pragma GCC ivdep
  for (uint32_t lane = 0; lane < noise_lanes; ++lane) {
    const Draws draws = noise_draws(seed, stream, member, piece, lane);
    for (int k = 0; k < 4; ++k) words.word[k][lane] = draws.word[k];
  }
}
#endif

// One piece of a member's noise.
template <class T>
[[gnu::noinline]] void draw_piece(uint64_t seed, uint32_t stream, uint32_t member, uint32_t piece, T* z) {
  Words words;
  draw_words(seed, stream, member, piece, words);
#pragma GCC ivdep
  for (uint32_t lane = 0; lane < noise_lanes; ++lane) {
    Draws draws;
    for (int k = 0; k < 4; ++k) draws.word[k] = words.word[k][lane];
    const Draws::Pair low = draws.normals(0), high = draws.normals(1);
    z[lane] = T(low.first);
    z[lane + noise_lanes] = T(low.second);
    z[lane + 2 * noise_lanes] = T(high.first);
    z[lane + 3 * noise_lanes] = T(high.second);
  }
}

template <class T>
void draw(uint64_t seed, uint32_t stream, uint32_t member, size_t begin, size_t end, T* out) {
  for (; begin + noise_piece <= end; begin += noise_piece, out += noise_piece)
    draw_piece(seed, stream, member, uint32_t(begin / noise_piece), out);
  if (begin == end) return;
  alignas(64) T z[noise_piece];
  draw_piece(seed, stream, member, uint32_t(begin / noise_piece), z);
  for (size_t i = 0; begin + i < end; ++i) out[i] = z[i];
}

template <class T>
void expand(const T* left, const T* right, int rank, int64_t rows, int64_t columns, T scale, T* out) {
  for (int64_t r = 0; r < rows; ++r, out += columns) {
    for (int q = 0; q < rank; ++q) {
      const T factor = scale * left[q * rows + r];
      const T* const row = right + q * columns;
      if (q == 0) {
#pragma GCC ivdep
        for (int64_t c = 0; c < columns; ++c) out[c] = factor * row[c];
      } else {
#pragma GCC ivdep
        for (int64_t c = 0; c < columns; ++c) out[c] += factor * row[c];
      }
    }
  }
}

template <class T>
void perturb(const T* center, T sigma, const T* noise, size_t n, T* out) {
#pragma GCC ivdep
  for (size_t i = 0; i < n; ++i) out[i] = center[i] + sigma * noise[i];
}

template <class T>
[[gnu::noinline]] void add_scaled(T factor, const T* x, size_t n, T* sum) {
#pragma GCC ivdep
  for (size_t i = 0; i < n; ++i) sum[i] += factor * x[i];
}

// The sums of every 64 members are added in double, so that a sum over millions of members loses no digits.
template <class T>
void combine(uint64_t seed, uint32_t stream, const double* weights, size_t popsize, size_t begin, size_t end, T* out) {
  constexpr size_t together = 64;
  alignas(64) T z[noise_piece], part[noise_piece];
  alignas(64) double sum[noise_piece];
  for (; begin < end; begin += noise_piece, out += noise_piece) {
    for (size_t i = 0; i < noise_piece; ++i) sum[i] = 0;
    for (size_t first = 0; first < popsize; first += together) {
      for (size_t i = 0; i < noise_piece; ++i) part[i] = T(0);
      for (size_t p = first; p < first + together && p < popsize; ++p) {
        if (weights[p] == 0) continue;
        draw_piece(seed, stream, uint32_t(p), uint32_t(begin / noise_piece), z);
        add_scaled(T(weights[p]), z, noise_piece, part);
      }
      for (size_t i = 0; i < noise_piece; ++i) sum[i] += double(part[i]);
    }
    for (size_t i = 0; i < noise_piece && begin + i < end; ++i) out[i] = T(sum[i]);
  }
}

template <class T>
[[gnu::noinline]] void disturb_part(const T* g, T scale, T clip, T sigma, const T* noise, size_t n, T* out) {
#pragma GCC ivdep
  for (size_t i = 0; i < n; ++i) {
    const T x = g[i] * scale;
    out[i] = (x > clip ? clip : x < -clip ? -clip : x) + sigma * noise[i];
  }
}

template <class T>
void disturb(uint64_t seed, uint32_t stream, uint32_t member, size_t first, size_t n, const T* g, T scale, T clip,
             T sigma, T* out) {
  alignas(64) T z[noise_piece];
  while (n > 0) {
    const size_t skipped = first % noise_piece, left = noise_piece - skipped, count = n < left ? n : left;
    draw_piece(seed, stream, member, uint32_t(first / noise_piece), z);
    disturb_part(g, scale, clip, sigma, z + skipped, count, out);
    first += count, n -= count, g += count, out += count;
  }
}

// The numbers of 64 places at a time, because drawing them is a vector operation and exchanging is not.
struct Places {
  alignas(64) uint32_t low[noise_lanes], high[noise_lanes];
};
[[gnu::noinline]] void draw_places(uint64_t seed, uint32_t stream, uint32_t generation, int64_t first, Places& places) {
#pragma GCC ivdep
  for (uint32_t lane = 0; lane < noise_lanes; ++lane) {
    const Draws draws(seed, stream, generation, 0, uint32_t(first) + lane);
    places.low[lane] = draws.word[0], places.high[lane] = draws.word[1];
  }
}

}  // namespace

void shuffle(uint64_t seed, uint32_t stream, uint32_t generation, int64_t n, int64_t* out) {
  Places places;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t lane = uint32_t(i % noise_lanes);
    if (lane == 0) draw_places(seed, stream, generation, i, places);
    // The product's upper half is uniform in [0, i], up to 2^-32.
    const uint64_t bits = uint64_t(places.high[lane]) << 32 | places.low[lane];
    const int64_t k = int64_t((unsigned __int128)(bits)*uint64_t(i + 1) >> 64);
    out[i] = out[k];
    out[k] = i;
  }
}

// Devroye 1996, "Random variate generation in one line of code", section 6, after Bailey's polar method for Student's
// t: with c the cosine of a uniform angle and U uniform, c^2 (U^(-1/alpha) - 1) is x, and sqrt(x / (1 + x)) has the
// size of a symmetric Beta variable on [-1, 1].
double beta(uint64_t seed, uint32_t stream, uint32_t generation, double alpha) {
  const Draws draws(seed, stream, generation, 1, 0);  // member 0 shuffles
  const Draws::Pair pair = draws.normals(0);
  const double first = double(pair.first), second = double(pair.second), squares = first * first + second * second;
  const double uniform = (double(draws.word[2]) + 0.5) * 0x1p-32;
  const double x = first * first / squares * expm1(-log(uniform) / alpha);
  const double size = x > 0 ? 1 / sqrt(1 + 1 / x) : 0;
  return 0.5 + (first < 0 ? -0.5 : 0.5) * size;
}

extern constinit const NoiseFns<float> noise_f32 = {draw<float>, expand<float>, perturb<float>, combine<float>,
                                                    disturb<float>};
extern constinit const NoiseFns<double> noise_f64 = {draw<double>, expand<double>, perturb<double>, combine<double>,
                                                     disturb<double>};

}  // namespace popgrad::POPGRAD_TARGET
