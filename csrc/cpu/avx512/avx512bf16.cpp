// bfloat16 by AVX-512 BF16: a word of two numbers times another, added to a float, sixteen at once.
#include "bfloat16.h"

namespace popgrad::POPGRAD_TARGET {
namespace {

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
