// Philox 4x32-10 against Random123's published known answers, and the two distributions made from its words.
#include "kernels/random.h"

#include <algorithm>
#include <limits>

#include "support.h"

using namespace popgrad::test;
using popgrad::test_target::Draws;

int main() {
  // Random123, tests/kat_vectors, "philox4x32 10": counter, key, answer.
  struct Known {
    std::array<uint32_t, 4> counter;
    std::array<uint32_t, 2> key;
    std::array<uint32_t, 4> answer;
  };
  const uint32_t ones = 0xFFFFFFFFu;
  const Known known[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627E8D5u, 0xE169C58Du, 0xBC57AC4Cu, 0x9B00DBD8u}},
      {{ones, ones, ones, ones}, {ones, ones}, {0x408F276Du, 0x41C83B0Eu, 0xA20BC7C6u, 0x6D5451FDu}},
      {{0x243F6A88u, 0x85A308D3u, 0x13198A2Eu, 0x03707344u},
       {0xA4093822u, 0x299F31D0u},
       {0xD16CFE09u, 0x94FDCCEBu, 0x5001E420u, 0x24126EA1u}},
  };
  const auto draw = [](const std::array<uint32_t, 4>& c, const std::array<uint32_t, 2>& k) {
    return Draws(uint64_t{k[1]} << 32 | k[0], c[3], c[2], c[1], c[0]);
  };
  for (const Known& row : known) {
    CHECK(philox(row.counter, row.key) == row.answer, "the test's own Philox");
    const Draws draws = draw(row.counter, row.key);
    for (size_t k = 0; k < 4; ++k) CHECK(draws.word[k] == row.answer[k], "word", k, draws.word[k], row.answer[k]);
  }
  Rng rng{1};
  for (int i = 0; i < 100'000; ++i) {
    const uint64_t a = rng.next(), b = rng.next(), c = rng.next();
    const std::array<uint32_t, 4> counter = {uint32_t(a), uint32_t(a >> 32), uint32_t(b), uint32_t(b >> 32)};
    const std::array<uint32_t, 2> key = {uint32_t(c), uint32_t(c >> 32)};
    const Draws draws = draw(counter, key);
    const auto want = philox(counter, key);
    for (size_t k = 0; k < 4; ++k) CHECK(draws.word[k] == want[k], "word", k);
  }

  // Uniforms: the whole of [0, 1), and nothing else.
  Draws draws(0, 0, 0, 0, 0);
  const auto words = [&draws](uint32_t u, uint32_t v) {
    draws.word[0] = draws.word[2] = u, draws.word[1] = draws.word[3] = v;
  };
  words(0, ones);
  CHECK(draws.uniform(0) == 0.0f && draws.uniform(1) == 1.0f - 0x1p-24f, draws.uniform(0), draws.uniform(1));

  // Normals: near the formula in double for every kind of radius and angle, within the longest radius,
  // sqrt(-2 log(2^-33)) = 6.764, and never NaN.
  const double longest = std::sqrt(2 * 33 * std::numbers::ln2);
  double largest = 0;
  const auto check = [&](uint32_t u, uint32_t v) {
    words(u, v);
    ReferenceDraws want(0, 0, 0, 0, 0);
    want.word = {u, v, u, v};
    for (int k = 0; k < 2; ++k) {
      const double z = double(draws.normal(k)), exact = want.normal(k);
      CHECK(std::abs(z) <= longest + 1e-6, "words", u, v, z);
      CHECK(std::abs(z - exact) <= 2e-6, "words", u, v, z, exact);
      largest = std::max(largest, std::abs(z));
    }
  };
  const uint32_t edges[] = {0,           1,           2,           255,         0xFFFFu,
                            0x10000u,    0x3FFFFFFFu, 0x40000000u, 0x7FFFFFFFu, 0x80000000u,
                            0xBFFFFFFFu, 0xC0000000u, ones - 255,  ones - 1,    ones};
  for (const uint32_t u : edges)
    for (const uint32_t v : edges) check(u, v);
  for (int i = 0; i < 1'000'000; ++i) {
    const uint64_t a = rng.next();
    check(uint32_t(a), uint32_t(a >> 32));
    check(uint32_t(a) >> (a & 31), uint32_t(a >> 32));     // long radii
    check(~(uint32_t(a) >> (a & 31)), uint32_t(a >> 32));  // short radii
  }
  CHECK(largest > 6.7, largest);
  std::printf("largest normal %.4f\n", largest);
}
