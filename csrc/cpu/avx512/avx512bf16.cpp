// bfloat16 by AVX-512 BF16: a word of two numbers times another, added to a float, sixteen at once.
#include "bfloat16.h"

namespace popgrad::POPGRAD_TARGET {
namespace {

struct Words {
  using In = uint32_t;
  static POPGRAD_HD Vectors<float>::Vec add(Vectors<float>::Vec sum, uint32_t left, Vectors<uint32_t>::Vec right) {
    const __m512i both = _mm512_set1_epi32(int(left));
    return (Vectors<float>::Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)both, (__m512bh)right);
  }
};

struct Unit {
  static constexpr int64_t depth_step = 2, row_step = 1;
  void layer(const uint32_t* W, const float* bias, int64_t words, int64_t outputs, const uint32_t* x, int64_t lanes,
             float* z) const {
    product(Product<float, Words>{.A = W,
                                  .row_stride = words,
                                  .depth_stride = 1,
                                  .B = x,
                                  .b_stride = lanes,
                                  .C = z,
                                  .c_stride = lanes,
                                  .start = bias,
                                  .add = false,
                                  .rows = outputs,
                                  .depth = words,
                                  .columns = lanes});
  }
};

}  // namespace

extern constinit const Bfloat16Fns bfloat16 = bfloat16_fns<Unit>;

}  // namespace popgrad::POPGRAD_TARGET
