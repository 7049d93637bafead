// Words of two bfloat16 numbers: how they are made, and their products by AVX-512 BF16.
#pragma once

#include <immintrin.h>

#include "../product.h"

namespace popgrad::POPGRAD_TARGET {
namespace {

constexpr int64_t words_of(int64_t count) { return (count + 1) / 2; }

// A word times another, added to a float, sixteen at once.
struct Words {
  using In = uint32_t;
  static POPGRAD_HD Vectors<float>::Vec add(Vectors<float>::Vec sum, uint32_t left, Vectors<uint32_t>::Vec right) {
    const __m512i both = _mm512_set1_epi32(int(left));
    return (Vectors<float>::Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)both, (__m512bh)right);
  }
};

// The numbers 0, 16, 1, 17, ... of two halves of 16.
alignas(64) constexpr uint16_t by_turns[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                               8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};

// Words of the numbers of two rows, sixteen lanes.
POPGRAD_HD void store_words(const float* first, const float* second, uint32_t* to) {
  // The conversion puts the second row behind the first.
  const __m512bh both = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(second), _mm512_loadu_ps(first));
  _mm512_storeu_si512(to, _mm512_permutexvar_epi16(_mm512_load_si512(by_turns), (__m512i)both));
}

// Sixteen words of up to 32 numbers that lie side by side; the rest is zero.
POPGRAD_HD __m512i round_pairs(const float* from, int64_t count) {
  const uint32_t some = count >= 32 ? ~0u : count > 0 ? (1u << count) - 1 : 0;
  return (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(__mmask16(some >> 16), from + 16),
                                      _mm512_maskz_loadu_ps(__mmask16(some), from));
}

// `words` words of a row of `count` numbers and zeros, words >= count / 2.
POPGRAD_HD void round_row(const float* from, int64_t count, uint32_t* to, int64_t words) {
  int64_t k = 0;
  for (; 2 * k + 32 <= count; k += 16)
    _mm512_storeu_si512(
        to + k, (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + 2 * k + 16), _mm512_loadu_ps(from + 2 * k)));
  for (; k < words; k += 16) {
    const __mmask16 some = words - k < 16 ? __mmask16((1u << (words - k)) - 1) : __mmask16(0xFFFF);
    _mm512_mask_storeu_epi32(to + k, some, round_pairs(from + 2 * k, count - 2 * k));
  }
}

// The words of up to 32 numbers of sixteen rows, side by side: word k of row r is at to[k * to_stride + r].
POPGRAD_HD void turn_pairs(const float* from, int64_t from_stride, int64_t count, uint32_t* to, int64_t to_stride) {
  using V = Vectors<uint32_t>;
  V::Vec row[16];
#pragma GCC unroll 16
  for (int r = 0; r < 16; ++r) row[r] = (V::Vec)round_pairs(from + r * from_stride, count);
  exchange_all<uint32_t, 1>(row);
  if (count > 30) {
#pragma GCC unroll 16
    for (int k = 0; k < 16; ++k) V::store(to + k * to_stride, row[k]);
  } else {
#pragma GCC unroll 16
    for (int k = 0; k < 16; ++k)
      if (2 * k < count) V::store(to + k * to_stride, row[k]);
  }
}

// From sixteen words of two rows, pairs along the row, 32 words of pairs across the rows. Without a second row, its
// numbers are zero.
POPGRAD_HD void cross_pairs(const uint32_t* first, const uint32_t* second, uint32_t* to) {
  alignas(64) static constexpr uint16_t low[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                   8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i a = _mm512_loadu_si512(first), b = second ? _mm512_loadu_si512(second) : _mm512_setzero_si512();
  const __m512i order = _mm512_load_si512(low), next = _mm512_add_epi16(order, _mm512_set1_epi16(16));
  _mm512_storeu_si512(to, _mm512_permutex2var_epi16(a, order, b));
  _mm512_storeu_si512(to + 16, _mm512_permutex2var_epi16(a, next, b));
}

}  // namespace
}  // namespace popgrad::POPGRAD_TARGET
