// States in sixteen or eight bits. A value between two that can be stored becomes either of them, with the chance that
// makes it right on average: a running average moves by less than half a step at a time, and would stand still if
// rounded to the nearest.
#pragma once

#include "math.h"

namespace popgrad::POPGRAD_TARGET {

// 32 bits that look random in every bit. Wellons 2018, "lowbias32".
POPGRAD_HD uint32_t scramble(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7FEB352Du;
  x = (x ^ (x >> 15)) * 0x846CA68Bu;
  return x ^ (x >> 16);
}
POPGRAD_HD float chance(uint32_t random) { return float(int32_t(random >> 8)) * 0x1p-24f; }

// bfloat16: the upper half of a float, rounded by chance or to the nearest, ties to even. NaN stays NaN, infinity stays
// infinity.
POPGRAD_HD uint16_t to_bfloat16(float x, uint32_t random) {
  const uint32_t bits = bits_from_float(x);
  const uint32_t rounded = (bits + (random >> 16)) >> 16, exact = (bits >> 16) | (x != x ? 0x40u : 0u);
  return uint16_t((bits & 0x7F800000u) == 0x7F800000u ? exact : rounded);
}
POPGRAD_HD uint16_t to_bfloat16(float x) {
  const uint32_t bits = bits_from_float(x);
  const uint32_t rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
  return uint16_t(x != x ? bits >> 16 | 0x40u : rounded);
}
POPGRAD_HD float from_bfloat16(uint16_t bits) { return float_from_bits(uint32_t(bits) << 16); }

struct Half {
  using Code = uint16_t;
  POPGRAD_HD static float decode(uint16_t code, float) { return from_bfloat16(code); }
  POPGRAD_HD static uint16_t encode(float x, float, uint32_t random) { return to_bfloat16(x, random); }
};

// Bytes: powers of the code, so that small values keep their size to some percent; `scale` is the largest magnitude of
// the block. Codes -127 to 127 squared reach down to 6e-5 of it; codes 0 to 255 to the fourth power to 2e-10, for
// averages of squares, whose root is divided by: those that are not zero never become zero, except in whole blocks
// whose scale is below least_scale, where the smallest codes would not be normal numbers any more.
inline constexpr float least_scale = 0x1p-94f;
inline constexpr float largest_scale = 0x1p126f;  // the inverse of a larger one is no normal number: it counts as NaN

struct SignedByte {
  using Code = uint8_t;
  POPGRAD_HD static float decode(uint8_t byte, float scale) {
    const float code = float(int8_t(byte));
    return code * abs(code) * (scale * (1.0f / 16129));
  }
  POPGRAD_HD static uint8_t encode(float x, float inverse, uint32_t random) {
    const float a = abs(x) * inverse, root = sqrt(a) * 127.0f;
    const int low = root < 126.0f ? int(root) : 126;
    const float below = float(low * low), gap = float(2 * low + 1);
    const int code = low + (a * 16129.0f - below > chance(random) * gap ? 1 : 0);
    return uint8_t(x < 0.0f ? -code : code);
  }
};

struct PositiveByte {
  using Code = uint8_t;
  POPGRAD_HD static float decode(uint8_t byte, float scale) {
    const float code = float(int(byte)), square = code * code;
    return square * square * (scale * (1.0f / 4228250625.0f));
  }
  POPGRAD_HD static uint8_t encode(float x, float inverse, uint32_t random) {
    const float a = x * inverse, root = sqrt(sqrt(a)) * 255.0f;
    const int low = root < 254.0f ? int(root) : 254;
    const float under = float(low) * float(low), over = float(low + 1) * float(low + 1);
    const float below = under * under, gap = over * over - below;
    const int code = low + (a * 4228250625.0f - below > chance(random) * gap ? 1 : 0);
    return uint8_t(code == 0 && x > 0.0f ? 1 : code);
  }
};

}  // namespace popgrad::POPGRAD_TARGET
