// States in sixteen or eight bits: what is kept, what is lost, and that it is right on average.
#include "kernels/packing.h"

#include <algorithm>

#include "support.h"

using namespace popgrad;
using namespace popgrad::test;
namespace codes = popgrad::test_target;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// There and back, in a block whose scale is 1.5.
template <class Format>
float rounded(float x, uint32_t random) {
  return Format::decode(Format::encode(x, 1 / 1.5f, random), 1.5f);
}

void test_codes_survive() {
  for (uint32_t code = 0; code <= 0xFFFF; ++code) {
    const float x = codes::from_bfloat16(uint16_t(code));
    for (const uint32_t random : {0u, 0x80000000u, ~0u}) {
      const uint16_t back = codes::to_bfloat16(x, random);
      CHECK(x != x ? codes::from_bfloat16(back) != codes::from_bfloat16(back) : back == code, "code", code);
    }
  }
  for (const float scale : {0x1p-94f, 1e-20f, 0.3f, 1.0f, 1e30f})
    for (int code = -127; code <= 255; ++code)
      for (const uint32_t random : {0x400u << 8, 0x80000000u, ~(0x400u << 8)}) {  // but for what rounding can bring
        const float signed_one = codes::SignedByte::decode(uint8_t(code), scale);
        const float positive_one = codes::PositiveByte::decode(uint8_t(code), scale);
        if (code <= 127)
          CHECK(codes::SignedByte::encode(signed_one, 1 / scale, random) == uint8_t(code), "code", code, scale);
        if (code >= 0)
          CHECK(codes::PositiveByte::encode(positive_one, 1 / scale, random) == uint8_t(code), "code", code, scale);
      }
}

// Over many draws the mean is x, within some standard errors, and every draw is a neighbor.
template <class Format>
void test_mean(const char* name, float low, float high, double widest_gap) {
  Rng rng{7};
  constexpr int draws = 20'000;
  for (int trial = 0; trial < 200; ++trial) {
    const float x = float(rng.uniform(low, high));
    double sum = 0, least = 1e30, most = -1e30;
    for (int k = 0; k < draws; ++k) {
      const double y = rounded<Format>(x, codes::scramble(uint32_t(trial * draws + k)));
      sum += y;
      least = std::min(least, y), most = std::max(most, y);
    }
    CHECK(least <= x + 1e-6 * std::abs(x) && x <= most + 1e-6 * std::abs(x), name, x, least, most);
    CHECK(most - least <= widest_gap, name, x, least, most);
    // The standard deviation of a choice between two neighbors is at most half of what lies between them.
    const double error = 0.5 * (most - least) / std::sqrt(double(draws));
    CHECK(std::abs(sum / draws - x) <= 5 * error + 1e-6 * std::abs(x), name, x, sum / draws, error);
  }
}

void test_corners() {
  Rng rng{3};
  for (int k = 0; k < 100'000; ++k) {
    const uint32_t random = uint32_t(rng.next());
    CHECK(codes::to_bfloat16(0.0f, random) == 0 && codes::to_bfloat16(-0.0f, random) == 0x8000);
    CHECK(codes::from_bfloat16(codes::to_bfloat16(infinity, random)) == infinity);
    CHECK(codes::from_bfloat16(codes::to_bfloat16(-infinity, random)) == -infinity);
    CHECK(codes::SignedByte::encode(0.0f, 1.0f, random) == 0 && codes::SignedByte::encode(-0.0f, 1.0f, random) == 0);
    CHECK(codes::PositiveByte::encode(0.0f, 1.0f, random) == 0);
    // The root of an average of squares is divided by: what is not zero must not become it.
    const float tiny = float(std::exp(rng.uniform(std::log(1e-38), 0)));
    const float kept = rounded<codes::PositiveByte>(tiny, random);
    CHECK(kept > 0 && kept >= tiny / 16 && kept <= std::max(4e-10f, 16 * tiny), tiny, kept);
    CHECK(codes::chance(random) >= 0 && codes::chance(random) < 1);
  }
}

// Momentum that keeps what it has: a step packs what it unpacked.
struct Block {
  std::vector<float> values;
  Exact<float> w, g, scales;
  Exact<uint8_t> bytes;
  Exact<uint16_t> halves;
  explicit Block(size_t n)
      : values(n), w(n), g(n), scales((n + packed_block - 1) / packed_block), bytes(n), halves(n) {}

  void step(const Kernels& kernels, Packing packing, double beta, double gain, uint32_t noise) {
    StepArgs<float> args{};
    args.w = w.data(), args.g = g.data(), args.n = w.size();
    args.state[0] = packing == Packing::bytes ? static_cast<void*>(bytes.data()) : halves.data();
    args.scales[0] = scales.data(), args.packing = packing, args.noise = noise;
    const Exact<double> fields(std::vector<double>{0.0, beta, gain});
    for (int k = 0; k < kernels.step_count; ++k)
      if (std::strcmp(kernels.steps[k].name, "Momentum") == 0)
        return kernels.steps[k].f32(fields.data(), args, 0, args.n);
    CHECK(false, "no rule Momentum");
  }
  float decoded(size_t i, Packing packing) const {
    return packing == Packing::bytes ? codes::SignedByte::decode(bytes[i], scales[i / packed_block])
                                     : codes::from_bfloat16(halves[i]);
  }
};

void test_blocks(const Kernels& kernels) {
  for (const Packing packing : {Packing::bfloat16, Packing::bytes})
    for (const size_t n : {1, 255, 256, 257, 1000}) {
      Rng rng{n};
      Block block(n);
      for (size_t i = 0; i < n; ++i) block.g[i] = float(rng.uniform(-1, 1)) * (i < packed_block ? 1 : 1e-20f);
      block.step(kernels, packing, 0, 1, 1);
      for (size_t i = 0; i < n; ++i) {  // each block has a scale of its own
        const float unit = i < packed_block ? 1 : 1e-20f;
        CHECK(std::abs(block.decoded(i, packing) - block.g[i]) < unit / 63, n, i, block.g[i]);
        CHECK(block.g[i] * block.decoded(i, packing) >= 0, n, i);
      }
      const Block before(block);
      for (uint32_t t = 2; t < 20; ++t) block.step(kernels, packing, 1, 0, t);
      size_t changed = 0;  // the arithmetic of a byte has some chance, about 1e-5, to miss the code it came from
      for (size_t i = 0; i < n; ++i) {
        const float was = before.decoded(i, packing), is = block.decoded(i, packing),
                    unit = i < packed_block ? 1 : 1e-20f;
        CHECK(std::abs(is - was) < unit / 63, n, i, was, is);
        changed += std::abs(is - was) > 1e-5f * unit;
      }
      CHECK(changed <= (packing == Packing::bytes ? 3 : 0), n, changed);

      // Small changes add up: each is a tenth of a step between codes or less.
      for (size_t i = 0; i < n; ++i) block.g[i] = 1;
      for (uint32_t t = 0; t < 1000; ++t) block.step(kernels, packing, 0.999, 0.001, t);
      double sum = 0;
      for (size_t i = 0; i < n; ++i) sum += block.decoded(i, packing);
      if (n >= 255) CHECK(std::abs(sum / double(n) - (1 - std::exp(-1.0))) < 0.05, n, sum / double(n));
    }
}

// The same numbers in another block or at another step are rounded in another way.
void test_noise(const Kernels& kernels) {
  for (const Packing packing : {Packing::bfloat16, Packing::bytes}) {
    Block one(512), other(512);
    for (size_t i = 0; i < 512; ++i) one.g[i] = other.g[i] = i % 256 == 0 ? 1.0f : 0.3f;
    one.step(kernels, packing, 0, 1, 1);
    other.step(kernels, packing, 0, 1, 2);
    int blocks = 0, steps = 0;
    for (size_t i = 1; i < 256; ++i) {
      blocks += one.decoded(i, packing) != one.decoded(i + 256, packing);
      steps += one.decoded(i, packing) != other.decoded(i, packing);
    }
    CHECK(blocks > 40 && steps > 40, blocks, steps);
  }
}

// One value that is not finite poisons its block of bytes, and in sixteen bits itself alone.
void test_poison(const Kernels& kernels) {
  for (const float bad : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN()}) {
    Block block(600);
    for (size_t i = 0; i < 600; ++i) block.g[i] = 1;
    block.g[300] = bad;
    block.step(kernels, Packing::bytes, 0, 1, 5);
    block.step(kernels, Packing::bfloat16, 0, 1, 5);
    for (size_t i = 0; i < 600; ++i) {
      const float byte = block.decoded(i, Packing::bytes), half = block.decoded(i, Packing::bfloat16);
      CHECK((byte != byte) == (i >= 256 && i < 512), bad, i, byte);
      CHECK(same_bits(half, block.g[i]), bad, i, half);
    }
    for (size_t i = 0; i < 600; ++i) block.g[i] = 0;
    block.step(kernels, Packing::bytes, 0.5, 1, 6);
    CHECK(block.decoded(0, Packing::bytes) == 0.5f && std::isnan(block.decoded(400, Packing::bytes)));
  }
  // A block as good as zero is zero, and an empty one stays so.
  Block block(300);
  for (float& g : block.g) g = 1e-36f;
  block.g[299] = -0.0f;
  block.step(kernels, Packing::bytes, 0, 1, 5);
  for (size_t i = 0; i < 300; ++i) CHECK(block.decoded(i, Packing::bytes) == 0, i);
  // The largest numbers that there are.
  for (float& g : block.g) g = codes::largest_scale;
  block.step(kernels, Packing::bytes, 0, 1, 5);
  for (size_t i = 0; i < 300; ++i) CHECK(std::abs(block.decoded(i, Packing::bytes) / block.g[i] - 1) < 1e-5f, i);
}

}  // namespace

int main() {
  test_codes_survive();
  test_mean<codes::Half>("bfloat16", -3, 3, 1.0 / 64);
  test_mean<codes::Half>("bfloat16", 1e-30f, 1e-28f, 1e-30);
  test_mean<codes::SignedByte>("signed byte", -1.5f, 1.5f, 1.5 * 2 / 127);
  test_mean<codes::SignedByte>("signed byte", -1e-3f, 1e-3f, 1.5 / 127);
  test_mean<codes::PositiveByte>("positive byte", 1e-8f, 1.5f, 1.5 * 4 / 255);
  test_mean<codes::PositiveByte>("positive byte", 1e-8f, 1e-4f, 2e-5);
  test_corners();
  for (const Kernels* kernels : supported_targets()) {
    test_blocks(*kernels);
    test_noise(*kernels);
    test_poison(*kernels);
  }
}
