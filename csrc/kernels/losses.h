// Losses and metrics per sample, for a block of samples in adjacent lanes.
//
// z holds the network's raw outputs, output by output: z[o * lanes + i] is output o of sample i. y holds the
// targets in the same layout: one row of class indices for a loss over labels, otherwise one row per output. A score
// writes value[i] for each sample and, unless slope is null, d value[i] / d z into slope, which may alias z.
#pragma once

#include "math.h"

namespace popgrad::POPGRAD_TARGET {

inline constexpr int max_lanes = 64;  // samples per block; fixed, so that sums do not depend on the target

// Softmax and negative log-likelihood of the label, shifted by the largest output to avoid overflow.
template <class T>
struct CrossEntropy {
  static constexpr bool labels = true, differentiable = true;
  static POPGRAD_HD void score(const T* z, const T* y, int outputs, int lanes, T* value, T* slope) {
    T top[max_lanes], sum[max_lanes], picked[max_lanes];
    for (int i = 0; i < lanes; ++i) top[i] = z[i], sum[i] = T(0), picked[i] = T(0);
    for (int o = 1; o < outputs; ++o)
      for (int i = 0; i < lanes; ++i) top[i] = top[i] < z[o * lanes + i] ? z[o * lanes + i] : top[i];
    for (int o = 0; o < outputs; ++o)
      for (int i = 0; i < lanes; ++i) {
        const T shifted = z[o * lanes + i] - top[i], e = exp(shifted);
        sum[i] += e;
        picked[i] += y[i] == T(o) ? shifted : T(0);
        if (slope) slope[o * lanes + i] = e;
      }
    for (int i = 0; i < lanes; ++i) value[i] = log(sum[i]) - picked[i];
    if (!slope) return;
    for (int i = 0; i < lanes; ++i) sum[i] = T(1) / sum[i];
    for (int o = 0; o < outputs; ++o)
      for (int i = 0; i < lanes; ++i) {
        T& d = slope[o * lanes + i];
        d = d * sum[i] - (y[i] == T(o) ? T(1) : T(0));
      }
  }
};

// A score that is the mean over outputs of a function of one output and one target.
template <class T, class Each, bool has_slope>
struct MeanOver {
  static constexpr bool labels = false, differentiable = has_slope;
  static POPGRAD_HD void score(const T* z, const T* y, int outputs, int lanes, T* value, T* slope) {
    const T share = T(1) / T(outputs);
    for (int i = 0; i < lanes; ++i) value[i] = T(0);
    for (int o = 0; o < outputs; ++o)
      for (int i = 0; i < lanes; ++i) {
        const T out = z[o * lanes + i], target = y[o * lanes + i];
        value[i] += share * Each::value(out, target);
        if (slope) slope[o * lanes + i] = share * Each::slope(out, target);
      }
  }
};

template <class T>
struct Squared {
  static POPGRAD_HD T value(T z, T y) { return (z - y) * (z - y); }
  static POPGRAD_HD T slope(T z, T y) { return T(2) * (z - y); }
};

template <class T>
struct Absolute {
  static POPGRAD_HD T value(T z, T y) { return abs(z - y); }
  static POPGRAD_HD T slope(T z, T y) { return z > y ? T(1) : z < y ? T(-1) : z - y; }
};

template <class T>
struct HuberEach {  // Huber 1964 with delta = 1
  static POPGRAD_HD T value(T z, T y) {
    const T d = abs(z - y);
    return d < T(1) ? T(0.5) * d * d : d - T(0.5);
  }
  static POPGRAD_HD T slope(T z, T y) { return z - y > T(1) ? T(1) : z - y < T(-1) ? T(-1) : z - y; }
};

template <class T>
struct BinaryEach {  // computed from the logit, since the sigmoid could saturate
  static POPGRAD_HD T value(T z, T y) { return (z < T(0) ? T(0) : z) - z * y + log1p(exp(-abs(z))); }
  static POPGRAD_HD T slope(T z, T y) {
    const T e = exp(-abs(z)), d = T(1) / (T(1) + e);
    return (z < T(0) ? e * d : d) - y;
  }
};

template <class T>
struct BinaryErrorEach {  // a logit above zero predicts 1; 0 * z propagates NaN
  static POPGRAD_HD T value(T z, T y) { return ((z > T(0)) != (y > T(0.5)) ? T(1) : T(0)) + T(0) * z; }
  static POPGRAD_HD T slope(T, T) { return T(0); }
};

template <class T>
struct MeanSquared : MeanOver<T, Squared<T>, true> {};
template <class T>
struct MeanAbsolute : MeanOver<T, Absolute<T>, true> {};
template <class T>
struct Huber : MeanOver<T, HuberEach<T>, true> {};
template <class T>
struct BinaryCrossEntropy : MeanOver<T, BinaryEach<T>, true> {};
template <class T>
struct BinaryErrorRate : MeanOver<T, BinaryErrorEach<T>, false> {};

// 0 if the label's output is the largest (the first one in a tie), otherwise 1; 0 * z propagates NaN.
template <class T>
struct ErrorRate {
  static constexpr bool labels = true, differentiable = false;
  static POPGRAD_HD void score(const T* z, const T* y, int outputs, int lanes, T* value, T*) {
    T top[max_lanes], best[max_lanes], check[max_lanes];
    for (int i = 0; i < lanes; ++i) top[i] = z[i], best[i] = T(0), check[i] = T(0) * z[i];
    for (int o = 1; o < outputs; ++o)
      for (int i = 0; i < lanes; ++i) {
        const T out = z[o * lanes + i];
        best[i] = top[i] < out ? T(o) : best[i];
        top[i] = top[i] < out ? out : top[i];
        check[i] += T(0) * out;
      }
    for (int i = 0; i < lanes; ++i) value[i] = (best[i] == y[i] ? T(0) : T(1)) + check[i];
  }
};

}  // namespace popgrad::POPGRAD_TARGET

// X(struct, public name). Scores that are differentiable are losses; all are metrics.
#define SCORES(X)                               \
  X(CrossEntropy, "cross_entropy")              \
  X(BinaryCrossEntropy, "binary_cross_entropy") \
  X(MeanSquared, "mse")                         \
  X(MeanAbsolute, "mae")                        \
  X(Huber, "huber")                             \
  X(ErrorRate, "error_rate")                    \
  X(BinaryErrorRate, "binary_error_rate")
