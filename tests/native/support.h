// What several tests need: made-up numbers, memory of exact size, and a Philox written from the paper.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <numbers>
#include <type_traits>
#include <vector>

#include "check.h"
#include "cpu/detect.h"

namespace popgrad::test {

// SplitMix64 (Steele et al. 2014): test data that owes nothing to the generator under test.
struct Rng {
  uint64_t state;
  uint64_t next() {
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  double uniform(double low, double high) { return low + (high - low) * double(next() >> 11) * 0x1p-53; }
};

// Exactly `size` elements that end where the allocation ends, aligned to one element and no more: the address
// sanitizer sees any access past the end, and a kernel that assumes aligned vectors faults.
template <class T>
class Exact {
 public:
  explicit Exact(size_t size) : size_(size), memory_(static_cast<T*>(std::malloc((size + 1) * sizeof(T))), std::free) {
    for (size_t i = 0; i <= size; ++i) memory_.get()[i] = T(0);
  }
  Exact(size_t size, Rng& rng, double low, double high) : Exact(size) {
    for (size_t i = 0; i < size; ++i) data()[i] = T(rng.uniform(low, high));
  }
  template <class U>
  explicit Exact(const std::vector<U>& values) : Exact(values.size()) {
    for (size_t i = 0; i < size_; ++i) data()[i] = T(values[i]);
  }
  Exact(const Exact& other) : Exact(other.size_) {
    if (size_) std::memcpy(data(), other.data(), size_ * sizeof(T));
  }
  Exact& operator=(const Exact&) = delete;

  size_t size() const { return size_; }
  T* data() { return memory_.get() + 1; }
  const T* data() const { return memory_.get() + 1; }
  T& operator[](size_t i) { return data()[i]; }
  const T& operator[](size_t i) const { return data()[i]; }
  T* begin() { return data(); }
  T* end() { return data() + size_; }

 private:
  size_t size_;
  std::unique_ptr<T[], void (*)(void*)> memory_;
};

// The same bits, or both NaN: which NaN an operation yields depends on the order of its operands.
template <class T>
bool same_bits(T a, T b) {
  return (a != a && b != b) || std::memcmp(&a, &b, sizeof(T)) == 0;
}

template <class T>
void check_same(const Exact<T>& a, const Exact<T>& b, const char* what, const char* where) {
  CHECK(a.size() == b.size(), what, where);
  for (size_t i = 0; i < a.size(); ++i) CHECK(same_bits(a[i], b[i]), what, where, "element", i, a[i], b[i]);
}

// Numbers that tell apart what a compiler may not exchange: infinities, NaN, denormals, -0, huge and tiny.
template <class T>
void sprinkle(Exact<T>& values, size_t first) {
  using L = std::numeric_limits<T>;
  const T odd[] = {L::infinity(), -L::infinity(), L::quiet_NaN(), L::denorm_min(),
                   -L::min(),     T(-0.0),        L::max(),       L::epsilon()};
  for (size_t i = first, k = 0; i < values.size(); i += 13, ++k) values[i] = odd[k % 8];
}

// One tensor that any rule can step, its states stored as `packing` says; each array ends where its memory ends.
template <class T>
struct Tensor {
  Packing packing;
  Exact<T> w, g, average;
  std::vector<Exact<T>> numbers;
  std::vector<Exact<uint16_t>> halves;
  std::vector<Exact<uint8_t>> bytes;
  std::vector<Exact<float>> scales;
  Exact<double> kept;

  Tensor(const StepRule& rule, size_t n, Rng& rng, Packing stored = Packing::none)
      : packing(stored),
        w(n, rng, -2, 2),
        g(n, rng, -3, 3),
        average(n, rng, -2, 2),
        kept(size_t(rule.kept), rng, 0.05, 0.95) {
    for (size_t i = 0; i < n; i += 7) g[i] = T(0);
    for (size_t i = 3; i < n; i += 11) g[i] *= T(1000);
    const size_t blocks = packing == Packing::bytes ? (n + packed_block - 1) / packed_block : 0;
    for (int k = 0; k < rule.states; ++k) {
      numbers.emplace_back(packing == Packing::none ? n : 0, rng, 0, 2);
      halves.emplace_back(packing == Packing::bfloat16 ? n : 0, rng, 0x3C00, 0x4000);  // the bits of 2^-7 to 2
      bytes.emplace_back(packing == Packing::bytes ? n : 0, rng, 0, 256);
      scales.emplace_back(blocks, rng, 0.1, 2);
    }
  }

  StepArgs<T> args(const StepExtras* extras = nullptr, bool with_average = false) {
    StepArgs<T> args{};
    args.w = w.data(), args.g = g.data(), args.kept = kept.data();
    args.n = w.size(), args.packing = packing, args.extras = extras;
    args.adapt = true, args.noise = 0x12345678u;
    if (with_average) args.average = average.data();
    for (size_t k = 0; k < numbers.size(); ++k) {
      args.state[k] = packing == Packing::none       ? static_cast<void*>(numbers[k].data())
                      : packing == Packing::bfloat16 ? static_cast<void*>(halves[k].data())
                                                     : static_cast<void*>(bytes[k].data());
      args.scales[k] = scales[k].data();
    }
    return args;
  }
};

template <class T>
void check_same(const Tensor<T>& a, const Tensor<T>& b, const char* what, const char* where) {
  check_same(a.w, b.w, what, where);
  check_same(a.average, b.average, what, where);
  check_same(a.kept, b.kept, what, where);
  for (size_t k = 0; k < a.numbers.size(); ++k) {
    check_same(a.numbers[k], b.numbers[k], what, where);
    check_same(a.halves[k], b.halves[k], what, where);
    check_same(a.bytes[k], b.bytes[k], what, where);
    check_same(a.scales[k], b.scales[k], what, where);
  }
}

inline std::vector<const Kernels*> supported_targets() {
  std::vector<const Kernels*> found;
  for (const Target& target : targets())
    if (target.supported && !target.bfloat16) found.push_back(target.kernels);
  return found;
}

// For a program that is run once per instruction set: skips where this processor lacks the forced one.
inline void require_forced_target() {
  const char* const forced = std::getenv("POPGRAD_ISA");
  if (!forced) return;
  for (const Target& target : targets())
    if (std::strcmp(target.name, forced) == 0 && !target.supported)
      skip("this processor lacks the instruction set that POPGRAD_ISA names");
}

// Philox 4x32-10 from Salmon et al. 2011, section 3.3 and table 2: a block of two words (R, L) becomes
// (high(M R) ^ k ^ L, low(M R)), twice, with the right halves exchanged; the key grows by its Weyl constant.
inline std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const auto multiply = [](uint32_t a, uint32_t b) { return uint64_t{a} * uint64_t{b}; };
    const uint64_t first = multiply(0xD2511F53u, counter[0]), second = multiply(0xCD9E8D57u, counter[2]);
    counter = {uint32_t(second >> 32) ^ counter[1] ^ key[0], uint32_t(second & 0xFFFFFFFFu),
               uint32_t(first >> 32) ^ counter[3] ^ key[1], uint32_t(first & 0xFFFFFFFFu)};
    key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
  }
  return counter;
}

// The draws of one coordinate, in double.
struct ReferenceDraws {
  std::array<uint32_t, 4> word;
  ReferenceDraws(uint64_t seed, uint32_t stream, uint32_t generation, uint32_t member, uint32_t index)
      : word(philox({index, member, generation, stream}, {uint32_t(seed), uint32_t(seed >> 32)})) {}
  double uniform(int k) const { return double(word[size_t(k)] >> 8) / 16777216.0; }
  double normal(int k) const { return on_circle(k, false); }
  double other_normal(int k) const { return on_circle(k, true); }

 private:
  double on_circle(int k, bool other) const {  // Box & Muller 1958, with the quadrants of random.h
    // Rounded to float, as there: how fine the short radii are is part of what is drawn.
    const double u = double(float(double(word[size_t(2 * k)]) + 0.5)) / 4294967296.0;
    const uint32_t v = word[size_t(2 * k + 1)];
    const double angle = (double((v & 0x3FFFFFFFu) >> 6) / 16777216.0 - 0.5) * std::numbers::pi / 2;
    const double side = bool(v >> 30 & 1u) != other ? std::sin(angle) : std::cos(angle);
    return std::sqrt(-2 * std::log(u)) * (v >> 31 ? -side : side);
  }
};

inline size_t words(const char* text) {
  size_t count = *text != 0;
  for (; *text; ++text) count += *text == ' ';
  return count;
}

// Values in (0, 1) for fields whose meaning does not matter here.
inline Exact<double> some_fields(const char* names, size_t rows, Rng& rng) {
  return Exact<double>(words(names) * rows, rng, 0.05, 0.95);
}

// A rule's functions for T.
template <class T, class Rule>
auto fn(const Rule& rule) {
  if constexpr (std::is_same_v<T, float>)
    return rule.f32;
  else
    return rule.f64;
}
template <class T>
auto measure_fn(const StepRule& rule) {
  if constexpr (std::is_same_v<T, float>)
    return rule.measure_f32;
  else
    return rule.measure_f64;
}

// One step over a range by a table's own functions, as api.h does it for a tensor of one piece; `fields` as settled.
template <class T>
void run_rule(const StepRule& rule, double* fields, const StepArgs<T>& args, size_t begin, size_t end) {
  if (rule.sums) {
    Exact<double> sums(size_t(rule.sums));
    for (int k = 0; k < rule.kept; ++k) fields[k] = args.kept[k];
    measure_fn<T>(rule)(fields, args, begin, end, sums.data());
    if (!args.adapt)
      for (double& sum : sums) sum = 0;
    rule.settle(fields, sums.data());
    for (int k = 0; k < rule.kept; ++k) args.kept[k] = fields[k];
  }
  fn<T>(rule)(fields, args, begin, end);
}

}  // namespace popgrad::test
