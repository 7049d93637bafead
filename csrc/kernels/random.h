// Random numbers as a pure function of (seed, stream, generation, member, index): no state, so any thread,
// any order and any backend draws the same ones.
#pragma once

#include "math.h"

namespace popgrad::POPGRAD_TARGET {

// Philox 4x32-10. Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", section
// 3.3 and Random123's constants: ten rounds of two multiplications, keyed by the seed.
//
// A Word is 32 bits, or a vector of lanes with 32 bits that count. Product()(a, b, high, low) is that of two such.
template <class Product, class Word>
POPGRAD_HD void philox(Word (&word)[4], uint64_t seed) {
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    Word high0, low0, high1, low1;
    Product()(word[0], 0xD2511F53u, high0, low0);
    Product()(word[2], 0xCD9E8D57u, high1, low1);
    word[0] = high1 ^ word[1] ^ k0;
    word[1] = low1;
    word[2] = high0 ^ word[3] ^ k1;
    word[3] = low0;
    k0 += 0x9E3779B9u;  // the golden ratio and sqrt(3) - 1, as Weyl sequences
    k1 += 0xBB67AE85u;
  }
}

struct WordProduct {
  POPGRAD_HD void operator()(uint32_t a, uint32_t b, uint32_t& high, uint32_t& low) const {
    const uint64_t product = uint64_t(a) * b;
    high = uint32_t(product >> 32);
    low = uint32_t(product);
  }
};

// The four 32-bit words that belong to one coordinate (index) of one member in one generation.
struct Draws {
  uint32_t word[4];

  Draws() = default;
  POPGRAD_HD Draws(uint64_t seed, uint32_t stream, uint32_t generation, uint32_t member, uint32_t index) {
    word[0] = index, word[1] = member, word[2] = generation, word[3] = stream;
    philox<WordProduct>(word, seed);
  }

  // Uniform in [0, 1), from word k (0 to 3): 24 bits. The same number in float and in double.
  POPGRAD_HD float uniform(int k) const { return float(int32_t(word[k] >> 8)) * 0x1p-24f; }

  // Standard normal, from words 2 k and 2 k + 1 (k is 0 or 1). The same number in float and in double.
  POPGRAD_HD float normal(int k) const { return normals(k).first; }

  // Two independent standard normals from words 2 k and 2 k + 1.
  //
  // Box & Muller 1958. The radius comes from 32 bits, so the tails reach 6.76; the angle's two top bits pick
  // a quadrant exactly and the rest an angle in [-pi/4, pi/4), where the polynomials need no reduction.
  struct Pair {
    float first, second;
  };
  POPGRAD_HD Pair normals(int k) const {
    const uint32_t u = word[2 * k], v = word[2 * k + 1];
    // u / 2^32 in (0, 1), in two exact halves: a single conversion would round the small ones alike.
    const float high = float(int32_t(u >> 16)), low = float(int32_t(u & 0xFFFFu));
    const float radius = sqrt(-2.0f * log((high * 65536.0f + (low + 0.5f)) * 0x1p-32f));
    const float angle = (float(int32_t((v & 0x3FFFFFFFu) >> 6)) * 0x1p-24f - 0.5f) * 1.57079632679f;
    const float side = (v >> 30) & 1u ? sin_polynomial(angle) : cos_polynomial(angle);
    const float other = (v >> 30) & 1u ? cos_polynomial(angle) : sin_polynomial(angle);
    return (v >> 31) ? Pair{-radius * side, -radius * other} : Pair{radius * side, radius * other};
  }
};

// The noise of a member: standard normals, one a coordinate, four from every Draws. Coordinate i lies in block i / 256,
// in quarter i / 64 % 4 of it, in lane i % 64. The Draws of (block, lane), index 64 block + lane, serves that lane of
// all four quarters: words 0 and 1 the first two, words 2 and 3 the others. So a vector of lanes is one of coordinates.
inline constexpr uint32_t noise_lanes = 64, noise_block = 4 * noise_lanes;

POPGRAD_HD Draws noise_draws(uint64_t seed, uint32_t stream, uint32_t member, uint32_t block, uint32_t lane) {
  return Draws(seed, stream, 0, member, block * noise_lanes + lane);
}

// Coordinate i alone.
POPGRAD_HD float noise(uint64_t seed, uint32_t stream, uint32_t member, uint64_t i) {
  const uint32_t quarter = uint32_t(i / noise_lanes % 4);
  const Draws draws = noise_draws(seed, stream, member, uint32_t(i / noise_block), uint32_t(i % noise_lanes));
  const Draws::Pair pair = draws.normals(int(quarter / 2));
  return quarter % 2 ? pair.second : pair.first;
}

}  // namespace popgrad::POPGRAD_TARGET
