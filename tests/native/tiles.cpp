// The loops around the tiles of AMX, on tiles in plain arithmetic: every shape against a sum in double.
#include "cpu/avx512/tiles.h"

#include <bit>

#include "emulated_tiles.h"
#include "support.h"

using namespace popgrad;
using namespace popgrad::test;

namespace {

uint16_t bfloat16(double value) { return uint16_t(std::bit_cast<uint32_t>(float(value)) >> 16); }
double number(uint32_t word, int64_t which) {
  return double(std::bit_cast<float>(which ? word & 0xFFFF0000u : word << 16));
}

void check_layer(int64_t outputs, int64_t depth, int64_t lanes) {
  Rng rng{uint64_t(outputs * 1000 + depth * 10 + lanes)};
  const int64_t rows = (outputs + 15) / 16 * 16;
  Exact<uint32_t> W(size_t(rows * depth / 2));
  Exact<uint32_t> x(size_t(depth / 2 * lanes));
  Exact<float> bias(size_t(outputs), rng, -1, 1), z(size_t(rows * lanes));
  const auto word = [&rng] { return bfloat16(rng.uniform(-1, 1)) | uint32_t(bfloat16(rng.uniform(-1, 1))) << 16; };
  for (int64_t i = 0; i < outputs * depth / 2; ++i) W[size_t(i)] = word();
  for (uint32_t& both : x) both = word();
  for (float& value : z) value = std::numeric_limits<float>::quiet_NaN();  // what is there before must not matter
  const test_target::TileUnit<EmulatedTiles> unit;
  unit.layer(W.data(), bias.data(), depth / 2, outputs, x.data(), lanes, z.data());
  for (int64_t o = 0; o < outputs; ++o)
    for (int64_t s = 0; s < lanes; ++s) {
      double want = double(bias[size_t(o)]);
      for (int64_t k = 0; k < depth; ++k)
        want += number(W[size_t((o * depth + k) / 2)], k % 2) * number(x[size_t(k / 2 * lanes + s)], k % 2);
      const float got = z[size_t(o * lanes + s)];
      CHECK(std::abs(double(got) - want) <= 1e-5, outputs, depth, lanes, "output", o, "lane", s, got, want);
    }
}

}  // namespace

int main() {
  for (const int64_t outputs : {1, 15, 16, 17, 31, 32, 33, 48, 100})
    for (const int64_t depth : {32, 64, 160})
      for (const int64_t lanes : {16, 32, 48, 64}) check_layer(outputs, depth, lanes);
}
