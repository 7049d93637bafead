// exp, log, tanh, ...: in float as straight-line arithmetic, so that the compiler vectorizes loops that call them; in
// double as calls of the math library (accurate to the last place, but scalar).
//
// The float versions are accurate to a few units in the last place over the whole range, propagate NaN, and use only
// + - * / and bit operations. Without contraction, they give the same bits on every backend. Polynomials are Taylor
// series long enough for their interval, unless a comment says otherwise.
#pragma once

#include "config.h"

namespace popgrad::POPGRAD_TARGET {

POPGRAD_HD float sqrt(float x) { return POPGRAD_MATH(sqrtf)(x); }
POPGRAD_HD double sqrt(double x) { return POPGRAD_MATH(sqrt)(x); }
POPGRAD_HD float abs(float x) { return POPGRAD_MATH(fabsf)(x); }
POPGRAD_HD double abs(double x) { return POPGRAD_MATH(fabs)(x); }

// -1, 0 or 1; NaN stays NaN.
template <class T>
POPGRAD_HD T sign(T x) {
  return x > T(0) ? T(1) : x < T(0) ? T(-1) : x;
}

POPGRAD_HD float float_from_bits(uint32_t bits) { return __builtin_bit_cast(float, bits); }
POPGRAD_HD uint32_t bits_from_float(float x) { return __builtin_bit_cast(uint32_t, x); }

// Replaces denormal floats by zero, for values that decay forever. Some processors are many times slower with denormal
// numbers, and rounding keeps the smallest ones from ever becoming zero. Doubles take too long to become denormal.
inline constexpr float least_normal = 1.17549435e-38f;
POPGRAD_HD float without_denormals(float x) { return abs(x) < least_normal ? 0.0f : x; }
POPGRAD_HD double without_denormals(double x) { return x; }
// The same for a running average, unless a gradient was just added. Bit operations let every loop vectorize.
POPGRAD_HD float faded(float average, float joined) {
  const uint32_t keep = uint32_t(!(abs(average) < least_normal)) | uint32_t(joined != 0.0f);
  return float_from_bits(bits_from_float(average) & (0u - keep));
}
POPGRAD_HD double faded(double average, double) { return average; }

// Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, which is then in the low bits of the sum.
inline constexpr float round_shift = 12582912.0f;

// exp(r) - 1 for |r| <= log(2) / 2: r + r^2 p(r), with p fitted to a relative error below 1.4e-8.
POPGRAD_HD float expm1_reduced(float r) {
  float p = 0.0013946497f;
  p = p * r + 0.0083666109f;
  p = p * r + 0.041666280f;
  p = p * r + 0.16666543f;
  p = p * r + 0.5f;
  return r * r * p + r;
}

// exp(x) = 2^n exp(r), |r| <= log(2) / 2; below 2^-125.5 it is zero, above 2^128 infinite.
POPGRAD_HD float exp(float x) {
  const float above = x < -87.3f ? -87.3f : x, limited = above > 89.0f ? 89.0f : above;
  const float t = limited * 1.44269504089f + round_shift, n = t - round_shift;
  const float r = (limited - n * 0.693359375f) + n * 2.12194440e-4f;  // log(2) in two parts (Cody & Waite)
  // 2^n in two factors: 2^128 alone is not a finite float.
  const float result = (expm1_reduced(r) * 2.0f + 2.0f) * float_from_bits((bits_from_float(t) + 126u) << 23);
  return x < -87.3f ? 0.0f : result;
}
POPGRAD_HD double exp(double x) { return POPGRAD_MATH(exp)(x); }

// 2 atanh(z) = log((1 + z) / (1 - z)) for |z| <= 1/3.
POPGRAD_HD float twice_atanh(float z) {
  const float s = z * z;
  float p = 1.0f / 15;
  p = p * s + 1.0f / 13;
  p = p * s + 1.0f / 11;
  p = p * s + 1.0f / 9;
  p = p * s + 1.0f / 7;
  p = p * s + 1.0f / 5;
  p = p * s + 1.0f / 3;
  return 2.0f * z + 2.0f * z * s * p;
}

// log(x) for normal x > 0 and +infinity; NaN stays NaN. No caller passes zero, negative or denormal numbers.
POPGRAD_HD float log(float x) {
  // x = 2^n m with m in [sqrt(1/2), sqrt(2)), so that log(m) loses nothing near x = 1.
  const int32_t shifted = int32_t(bits_from_float(x) - 0x3F3504F3u);
  const float n = float(shifted >> 23);
  const float m = float_from_bits(bits_from_float(x) - (uint32_t(shifted) & 0xFF800000u));
  const float result = n * 0.693359375f + (twice_atanh((m - 1.0f) / (m + 1.0f)) - n * 2.12194440e-4f);
  return x > 3.40282347e38f || x != x ? x : result;  // above the largest float
}
POPGRAD_HD double log(double x) { return POPGRAD_MATH(log)(x); }

// log(1 + x) for x in [0, 1].
POPGRAD_HD float log1p(float x) { return twice_atanh(x / (2.0f + x)); }
POPGRAD_HD double log1p(double x) { return POPGRAD_MATH(log1p)(x); }

// exp(x) - 1 for x <= 0, as 2^n (exp(r) - 1) + (2^n - 1) with r as in exp. Near zero, n = 0, so that no digits are
// lost.
POPGRAD_HD float expm1(float x) {
  const float limited = x < -20.0f ? -20.0f : x;
  const float t = limited * 1.44269504089f + round_shift, n = t - round_shift;
  const float r = (limited - n * 0.693359375f) + n * 2.12194440e-4f;
  const float power = float_from_bits((bits_from_float(t) + 127u) << 23);
  return power * expm1_reduced(r) + (power - 1.0f);
}
POPGRAD_HD double expm1(double x) { return POPGRAD_MATH(expm1)(x); }

// (1 - exp(-2 |x|)) / (1 + exp(-2 |x|)), with the sign of x.
POPGRAD_HD float tanh(float x) {
  const float e = expm1(-2.0f * abs(x)), size = abs(e) / (2.0f + e);
  return float_from_bits(bits_from_float(size) | (bits_from_float(x) & 0x80000000u));
}
POPGRAD_HD double tanh(double x) { return POPGRAD_MATH(tanh)(x); }

// The standard normal distribution function, erfc(-x / sqrt(2)) / 2; in the tail its relative error is that of
// rounding x^2, 2e-5 at -13.
// erfc(t) exp(t^2) is a polynomial in 1 / (1 + 0.38 t), fitted to 2e-8 for t in [0, 13].
POPGRAD_HD float normal_cdf(float x) {
  const float t = abs(x) * 0.70710678118f, u = 1.0f / (1.0f + 0.38f * t);
  float p = 0.0590604262f;
  p = p * u - 0.2627519751f;
  p = p * u + 0.3648719385f;
  p = p * u - 0.1626641730f;
  p = p * u + 0.2308963371f;
  p = p * u + 0.1382597709f;
  p = p * u + 0.2040121262f;
  p = p * u + 0.2139036206f;
  p = p * u + 0.2144119486f;
  const float tail = 0.5f * p * u * exp(-t * t);
  return x > 0.0f ? 1.0f - tail : tail;
}
POPGRAD_HD double normal_cdf(double x) { return 0.5 * POPGRAD_MATH(erfc)(x * -0.70710678118654752440); }

// sin and cos for |x| <= pi / 2.
POPGRAD_HD float sin_polynomial(float x) {
  const float s = x * x;
  float p = -1.0f / 39916800;
  p = p * s + 1.0f / 362880;
  p = p * s - 1.0f / 5040;
  p = p * s + 1.0f / 120;
  p = p * s - 1.0f / 6;
  return x + x * s * p;
}
POPGRAD_HD float cos_polynomial(float x) {
  const float s = x * x;
  float p = 1.0f / 479001600;
  p = p * s - 1.0f / 3628800;
  p = p * s + 1.0f / 40320;
  p = p * s - 1.0f / 720;
  p = p * s + 1.0f / 24;
  p = p * s - 0.5f;
  return 1.0f + s * p;
}

// x - n pi for the nearest integer n, with pi in three parts, and the sign (-1)^n. Accurate up to |x| = 10^4; beyond,
// only the range of the result is guaranteed.
POPGRAD_HD float reduce_pi(float x, float* sign) {
  const float t = x * 0.31830988618f + round_shift, n = t - round_shift;
  *sign = float_from_bits(0x3F800000u | (bits_from_float(t) << 31));
  const float r = ((x - n * 3.140625f) - n * 9.677410125732422e-4f) + n * 8.742277657e-8f;
  return r < -2.0f ? -2.0f : r > 2.0f ? 2.0f : r;
}
POPGRAD_HD float sin(float x) {
  float sign;
  const float r = reduce_pi(x, &sign);
  return sign * sin_polynomial(r);
}
POPGRAD_HD double sin(double x) { return POPGRAD_MATH(sin)(x); }
POPGRAD_HD float cos(float x) {
  float sign;
  const float r = reduce_pi(x, &sign);
  return sign * cos_polynomial(r);
}
POPGRAD_HD double cos(double x) { return POPGRAD_MATH(cos)(x); }

}  // namespace popgrad::POPGRAD_TARGET
