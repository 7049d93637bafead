// The eight tile registers of AMX in plain arithmetic, as Intel's manual describes TILELOADD, TDPBF16PS and TILESTORED,
// except for the order of the sums and denormal numbers.
#pragma once

#include <cstdint>
#include <cstring>

#include "check.h"

namespace popgrad::test {

class EmulatedTiles {
 public:
  EmulatedTiles() { CHECK(!in_use, "a thread has one set of tiles"), in_use = true; }
  ~EmulatedTiles() { in_use = false; }

  template <int t>
  static void load(const void* from, int64_t stride) {
    for (int row = 0; row < 16; ++row) std::memcpy(tile[t][row], static_cast<const char*>(from) + row * stride, 64);
  }
  template <int t>
  static void store(void* to, int64_t stride) {
    for (int row = 0; row < 16; ++row) std::memcpy(static_cast<char*>(to) + row * stride, tile[t][row], 64);
  }
  template <int c, int a, int b>
  static void dot() {
    for (int m = 0; m < 16; ++m)
      for (int k = 0; k < 16; ++k)
        for (int n = 0; n < 16; ++n) {
          float sum;
          std::memcpy(&sum, &tile[c][m][n], 4);
          for (const int half : {0, 16}) sum += number(tile[a][m][k] >> half) * number(tile[b][k][n] >> half);
          std::memcpy(&tile[c][m][n], &sum, 4);
        }
  }

 private:
  static float number(uint32_t half) {
    const uint32_t bits = half << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  }
  inline static uint32_t tile[8][16][16];
  inline static bool in_use = false;
};

}  // namespace popgrad::test
