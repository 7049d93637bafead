// The noise of members that are not stored: its layout against a Philox of the test's own, bit by bit between
// instruction sets, and sums over it against sums over what was drawn.
#include "api.h"
#include "kernels/random.h"
#include "support.h"

using namespace popgrad;
using namespace popgrad::test;

namespace {

template <class T>
const NoiseFns<T>& fns(const Kernels& kernels) {
  if constexpr (std::is_same_v<T, float>)
    return *kernels.noise_f32;
  else
    return *kernels.noise_f64;
}

constexpr uint64_t seed = 0x0123456789ABCDEFu;
constexpr uint32_t stream = 8;

template <class T>
Exact<T> drawn(const Kernels& kernels, uint32_t member, size_t begin, size_t end) {
  Exact<T> out(end - begin);
  fns<T>(kernels).draw(seed, stream, member, begin, end, out.data());
  return out;
}

// Coordinate i, as random.h describes it, in double.
double reference(uint32_t member, size_t i) {
  const size_t block = i / 256, quarter = i / 64 % 4, lane = i % 64;
  const ReferenceDraws draws(seed, stream, 0, member, uint32_t(block * 64 + lane));
  return quarter % 2 ? draws.other_normal(int(quarter / 2)) : draws.normal(int(quarter / 2));
}

template <class T>
void check_type(const Kernels& kernels) {
  const char* const isa = kernels.name;
  for (const uint32_t member : {0u, 7u, 0xFFFFFFFFu}) {
    const Exact<T> whole = drawn<T>(kernels, member, 0, 1000);
    for (size_t i = 0; i < whole.size(); ++i) {
      CHECK(std::abs(double(whole[i]) - reference(member, i)) <= 2e-6, isa, member, i, double(whole[i]));
      CHECK(whole[i] == T(test_target::noise(seed, stream, member, i)), isa, member, i);
    }
    for (const size_t begin : {size_t(0), size_t(256), size_t(768)})
      for (const size_t end : {begin, begin + 1, begin + 65, size_t(1000)}) {
        if (end < begin || end > 1000) continue;
        const Exact<T> part = drawn<T>(kernels, member, begin, end);
        for (size_t i = 0; i < part.size(); ++i) CHECK(part[i] == whole[begin + i], isa, begin, end, i);
      }
  }
  // The last block that 32 bits can number.
  const size_t far = (size_t(1) << 34) - 256;
  const Exact<T> last = drawn<T>(kernels, 3, far, far + 256);
  for (size_t i = 0; i < last.size(); ++i) CHECK(std::abs(double(last[i]) - reference(3, far + i)) <= 2e-6, isa, i);

  Rng rng{1};
  const Exact<double> weights(200, rng, -1, 1);
  Exact<T> sum(300);
  fns<T>(kernels).combine(seed, stream, weights.data(), weights.size(), 256, 556, sum.data());
  for (size_t i = 0; i < sum.size(); ++i) {
    double want = 0;
    for (uint32_t p = 0; p < weights.size(); ++p)
      want += weights[p] * double(test_target::noise(seed, stream, p, 256 + i));
    CHECK(std::abs(double(sum[i]) - want) <= (sizeof(T) == sizeof(float) ? 1e-5 : 1e-13), isa, i, double(sum[i]), want);
  }
}

// Rows, sums and values by way of api.h, whose last numbers end where their memory ends.
template <class T>
void check_api(int rank) {
  const std::vector<Layer> layers = dense_layers({9, 21, 5}, 1);
  const Shape shape{layers.data(), int(layers.size())};
  std::vector<NoisePart> parts = {{21, 9}, {0, 21}, {5, 21}, {0, 5}};
  const size_t n = parameter_count(parts), popsize = 30;
  if (rank == 0) parts = {{0, int64_t(n)}};
  Rng rng{2};
  const Exact<T> center(n, rng, -1, 1);
  const Perturbations<T> p{center.data(), 0.25, popsize, true, seed, stream, rank, parts};
  Exact<T> all(popsize * n), some(3 * n);
  rows(p, 0, popsize, all.data());
  rows(p, 14, 3, some.data());
  for (size_t i = 0; i < some.size(); ++i) CHECK(some[i] == all[14 * n + i], rank, i);

  const Exact<double> weights(popsize, rng, -1, 1);
  Exact<T> sum(n);
  combine_noise(p, weights.data(), sum.data());
  for (size_t i = 0; i < n; ++i) {
    double want = 0;
    for (size_t k = 0; k < popsize; ++k) want += weights[k] * 4 * (double(all[k * n + i]) - double(center[i]));
    CHECK(std::abs(double(sum[i]) - want) <= (sizeof(T) == sizeof(float) ? 2e-5 : 1e-12), rank, i, double(sum[i]),
          want);
  }

  const Exact<T> X(100 * 9, rng, -1, 1), y(100 * 5, rng, -1, 1);
  const auto data = pack(Batch<T>{X.data(), y.data(), nullptr, nullptr, 100, 9, 5});
  int score = 0;
  while (kernels().scores[score].labels) ++score;
  Exact<double> made(popsize), stored(popsize);
  evaluate(shape, score, p, data, made.data());
  evaluate(shape, score, all.data(), popsize, data, stored.data());
  for (size_t k = 0; k < popsize; ++k)
    CHECK(std::abs(made[k] - stored[k]) <= (sizeof(T) == sizeof(float) ? 1e-5 : 1e-12), rank, k, made[k], stored[k]);
}

}  // namespace

int main() {
  for (const Kernels* const kernels : supported_targets()) {
    check_type<float>(*kernels);
    check_type<double>(*kernels);
  }
  for (const int rank : {0, 1, 3}) {
    check_api<float>(rank);
    check_api<double>(rank);
  }
}
