// bfloat16 by AMX: products of tiles of 16 rows of 64 bytes. `Tiles` are the eight registers of a thread:
//   Tiles() configures them; ~Tiles() releases them
//   load<t>(from, stride), store<t>(to, stride): 16 rows, `stride` bytes apart
//   dot<c, a, b>(): c(m, n) += a(m, 2k) b(k, 2n) + a(m, 2k + 1) b(k, 2n + 1), floats c, bfloat16 a and b
#pragma once

#include "../../kernels/config.h"

namespace popgrad::POPGRAD_TARGET {
namespace {

template <class Tiles>
struct TileUnit {
  static constexpr int64_t depth_step = 32, row_step = 16;
  Tiles tiles;

  // Computes `down` times `across` tiles of z (1 or 2 each), so that each loaded tile is used that many times.
  template <bool down, bool across>
  static void block(const Tiles& tiles, const uint32_t* W, int64_t words, const uint32_t* x, int64_t lanes, float* z) {
    const int64_t row = 4 * lanes, weights = 4 * words;
    float* const below = z + 16 * lanes;
    tiles.template load<0>(z, row);
    if constexpr (across) tiles.template load<1>(z + 16, row);
    if constexpr (down) tiles.template load<2>(below, row);
    if constexpr (down && across) tiles.template load<3>(below + 16, row);
    for (int64_t k = 0; k < words; k += 16) {
      const uint32_t* const right = x + k * lanes;
      tiles.template load<4>(W + k, weights);
      tiles.template load<6>(right, row);
      tiles.template dot<0, 4, 6>();
      if constexpr (across) {
        tiles.template load<7>(right + 16, row);
        tiles.template dot<1, 4, 7>();
      }
      if constexpr (down) {
        tiles.template load<5>(W + 16 * words + k, weights);
        tiles.template dot<2, 5, 6>();
        if constexpr (across) tiles.template dot<3, 5, 7>();
      }
    }
    tiles.template store<0>(z, row);
    if constexpr (across) tiles.template store<1>(z + 16, row);
    if constexpr (down) tiles.template store<2>(below, row);
    if constexpr (down && across) tiles.template store<3>(below + 16, row);
  }

  void layer(const uint32_t* W, const float* bias, int64_t words, int64_t outputs, const uint32_t* x, int64_t lanes,
             float* z) const {
    const int64_t rows = (outputs + row_step - 1) / row_step * row_step;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t s = 0; s < lanes; ++s) z[r * lanes + s] = r < outputs ? bias[r] : 0.0f;
    constexpr decltype(&block<true, true>) blocks[2][2] = {{block<false, false>, block<false, true>},
                                                           {block<true, false>, block<true, true>}};
    for (int64_t r = 0; r < rows; r += 32)
      for (int64_t s = 0; s < lanes; s += 32)
        blocks[r + 16 < rows][s + 16 < lanes](tiles, W + r * words, words, x + s, lanes, z + r * lanes + s);
  }
};

}  // namespace
}  // namespace popgrad::POPGRAD_TARGET
