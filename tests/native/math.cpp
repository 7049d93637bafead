// The float functions of kernels/math.h against the mathematical library in double, over dense sweeps, with
// the bounds that the rest of the library may rely on. The build compiles this file with and without
// contraction.
#include "kernels/math.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "support.h"

using namespace popgrad::test;
namespace fast = popgrad::test_target;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

// Distance from the exact value in units in the last place of float there (of the smallest normal below it).
double ulps(float got, double exact) {
  if (std::isnan(exact) || std::isinf(float(exact))) return same_bits(got, float(exact)) ? 0 : 1e9;
  const double size = std::max(std::abs(exact), double(std::numeric_limits<float>::min()));
  return std::abs(double(got) - exact) / std::ldexp(1.0, std::ilogb(size) - 23);
}

// Every float in [low, high] whose bits are a multiple of `stride` away from the last.
template <class F>
void sweep(float low, float high, uint32_t stride, const F& visit) {
  const auto ordered = [](float x) {  // monotone in x
    const int32_t bits = std::bit_cast<int32_t>(x);
    return bits < 0 ? int64_t{INT32_MIN} - bits : int64_t{bits};
  };
  const int64_t last = ordered(high);
  for (int64_t i = ordered(low); i <= last; i += stride)
    visit(std::bit_cast<float>(i < 0 ? int32_t(int64_t{INT32_MIN} - i) : int32_t(i)));
  visit(high);
}

template <class F, class G>
void within_ulps(const char* name, float low, float high, double bound, const F& f, const G& exact) {
  double worst = 0;
  float where = low;
  sweep(low, high, 1009, [&](float x) {
    const double error = ulps(f(x), exact(double(x)));
    if (!(error <= worst)) worst = error, where = x;
  });
  std::printf("%-12s [%g, %g]: %.2f ulp at %.9g\n", name, double(low), double(high), worst, double(where));
  CHECK(worst <= bound, name, where, f(where), exact(double(where)));
}

template <class F, class G>
void within(const char* name, float low, float high, double bound, const F& f, const G& exact) {
  double worst = 0;
  float where = low;
  sweep(low, high, 1009, [&](float x) {
    const double error = std::abs(double(f(x)) - exact(double(x)));
    if (!(error <= worst)) worst = error, where = x;
  });
  std::printf("%-12s [%g, %g]: %.3g at %.9g\n", name, double(low), double(high), worst, double(where));
  CHECK(worst <= bound, name, where, f(where), exact(double(where)));
}

}  // namespace

int main() {
#if defined(__FMA__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) skip("this processor lacks AVX2 or FMA");
#endif
  const auto exp = [](float x) { return fast::exp(x); };
  const auto log = [](float x) { return fast::log(x); };
  const auto log1p = [](float x) { return fast::log1p(x); };
  const auto tanh = [](float x) { return fast::tanh(x); };
  const auto expm1 = [](float x) { return fast::expm1(x); };
  const auto cdf = [](float x) { return fast::normal_cdf(x); };
  const auto sin = [](float x) { return fast::sin(x); };
  const auto cos = [](float x) { return fast::cos(x); };
  const auto exact_cdf = [](double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); };

  within_ulps("exp", -86.9f, 100, 2, exp, [](double x) { return std::exp(x); });
  within("exp", -infinity, -86.9f, 1.9e-38, exp, [](double x) { return std::exp(x); });
  within_ulps("log", std::numeric_limits<float>::min(), infinity, 3, log, [](double x) { return std::log(x); });
  within_ulps("log1p", 0, 1, 3, log1p, [](double x) { return std::log1p(x); });
  within_ulps("tanh", -infinity, infinity, 3, tanh, [](double x) { return std::tanh(x); });
  within_ulps("expm1", -infinity, 0, 2, expm1, [](double x) { return std::expm1(x); });
  within_ulps("normal_cdf", -3, infinity, 24, cdf, exact_cdf);
  within_ulps("normal_cdf", -13, -3, 300, cdf, exact_cdf);
  within("normal_cdf", -infinity, -13, 1e-37, cdf, exact_cdf);
  within_ulps(
      "sin_poly", -1.5707964f, 1.5707964f, 3, [](float x) { return fast::sin_polynomial(x); },
      [](double x) { return std::sin(x); });
  within(
      "cos_poly", -1.5707964f, 1.5707964f, 2e-7, [](float x) { return fast::cos_polynomial(x); },
      [](double x) { return std::cos(x); });
  within("sin", -100, 100, 5e-7, sin, [](double x) { return std::sin(x); });
  within("cos", -100, 100, 5e-7, cos, [](double x) { return std::cos(x); });
  within("sin", -1e4f, 1e4f, 1e-6, sin, [](double x) { return std::sin(x); });
  within("cos", -1e4f, 1e4f, 1e-6, cos, [](double x) { return std::cos(x); });

  struct Case {
    const char* name;
    float got, want;
  };
  const Case cases[] = {
      {"exp(inf)", fast::exp(infinity), infinity},
      {"exp(-inf)", fast::exp(-infinity), 0},
      {"exp(0)", fast::exp(0.0f), 1},
      {"exp(-0)", fast::exp(-0.0f), 1},
      {"exp(max)", fast::exp(std::numeric_limits<float>::max()), infinity},
      {"exp(lowest)", fast::exp(std::numeric_limits<float>::lowest()), 0},
      {"log(inf)", fast::log(infinity), infinity},
      {"log(1)", fast::log(1.0f), 0},
      {"log1p(0)", fast::log1p(0.0f), 0},
      {"tanh(inf)", fast::tanh(infinity), 1},
      {"tanh(-inf)", fast::tanh(-infinity), -1},
      {"tanh(-0)", fast::tanh(-0.0f), -0.0f},
      {"tanh(0)", fast::tanh(0.0f), 0.0f},
      {"expm1(-inf)", fast::expm1(-infinity), -1},
      {"expm1(0)", fast::expm1(0.0f), 0},
      {"normal_cdf(inf)", fast::normal_cdf(infinity), 1},
      {"normal_cdf(-inf)", fast::normal_cdf(-infinity), 0},
      {"sin(0)", fast::sin(0.0f), 0},
      {"cos(0)", fast::cos(0.0f), 1},
      {"sin(inf)", fast::sin(infinity), not_a_number},
      {"cos(-inf)", fast::cos(-infinity), not_a_number},
      {"exp(nan)", fast::exp(not_a_number), not_a_number},
      {"log(nan)", fast::log(not_a_number), not_a_number},
      {"log1p(nan)", fast::log1p(not_a_number), not_a_number},
      {"tanh(nan)", fast::tanh(not_a_number), not_a_number},
      {"expm1(nan)", fast::expm1(not_a_number), not_a_number},
      {"normal_cdf(nan)", fast::normal_cdf(not_a_number), not_a_number},
      {"sin(nan)", fast::sin(not_a_number), not_a_number},
      {"cos(nan)", fast::cos(not_a_number), not_a_number},
      {"exp(-nan)", fast::exp(-not_a_number), not_a_number},
      {"log(-nan)", fast::log(-not_a_number), not_a_number},
  };
  for (const Case& c : cases) CHECK(same_bits(c.got, c.want), c.name, c.got, c.want);

  // double is the library's own: only the wiring can be wrong.
  for (double x = -20; x <= 20; x += 0.37) {
    CHECK(fast::exp(x) == std::exp(x) && fast::tanh(x) == std::tanh(x) && fast::sin(x) == std::sin(x), x);
    CHECK(fast::cos(x) == std::cos(x) && fast::expm1(x) == std::expm1(x), x);
    CHECK(fast::log(x + 21) == std::log(x + 21) && fast::log1p(x + 21) == std::log1p(x + 21), x);
    CHECK(std::abs(fast::normal_cdf(x) - exact_cdf(x)) <= 1e-13 * exact_cdf(x), x);
  }
}
