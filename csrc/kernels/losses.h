// Losses and metrics per sample, for a block of samples in adjacent lanes.
//
// z holds the network's raw outputs, output by output: z[o * lanes + i] is output o of sample i. y holds the
// targets in the same layout: one row of class indices for a loss over labels, otherwise one row per output. A score
// writes value[i] for each sample and, unless slope is null, d value[i] / d z into slope, which may alias z. `setting`
// is the number that a score has, such as the delta of Huber; others ignore it.
#pragma once

#include "math.h"

namespace popgrad::POPGRAD_TARGET {

inline constexpr int max_lanes = 64;  // samples per block; fixed, so that sums do not depend on the target

// Softmax and negative log-likelihood of the label, shifted by the largest output to avoid overflow. The setting is
// label smoothing (Szegedy et al. 2016, section 7): that share of the label's target is spread over all outputs.
template <class T>
struct CrossEntropy {
  static constexpr bool labels = true, differentiable = true;
  static POPGRAD_HD void score(const T* z, const T* y, int outputs, int lanes, T setting, T* value, T* slope) {
    if (setting > T(0))
      score_smoothed<true>(z, y, outputs, lanes, setting, value, slope);
    else
      score_smoothed<false>(z, y, outputs, lanes, setting, value, slope);
  }

 private:
  template <bool smooth>
  static POPGRAD_HD void score_smoothed(const T* z, const T* y, int outputs, int lanes, T smoothing, T* value,
                                        T* slope) {
    const T share = smoothing / T(outputs);
    T top[max_lanes], sum[max_lanes], picked[max_lanes], total[max_lanes];
    for (int i = 0; i < lanes; ++i) top[i] = z[i], sum[i] = T(0), picked[i] = T(0), total[i] = T(0);
    for (int o = 1; o < outputs; ++o)
      for (int i = 0; i < lanes; ++i) top[i] = top[i] < z[o * lanes + i] ? z[o * lanes + i] : top[i];
    for (int o = 0; o < outputs; ++o)
      for (int i = 0; i < lanes; ++i) {
        const T shifted = z[o * lanes + i] - top[i], e = exp(shifted);
        sum[i] += e;
        picked[i] += y[i] == T(o) ? shifted : T(0);
        if (smooth) total[i] += shifted;
        if (slope) slope[o * lanes + i] = e;
      }
    for (int i = 0; i < lanes; ++i) {
      if (smooth) picked[i] = (T(1) - smoothing) * picked[i] + share * total[i];
      value[i] = log(sum[i]) - picked[i];
    }
    if (!slope) return;
    for (int i = 0; i < lanes; ++i) sum[i] = T(1) / sum[i];
    for (int o = 0; o < outputs; ++o)
      for (int i = 0; i < lanes; ++i) {
        T& d = slope[o * lanes + i];
        T target = y[i] == T(o) ? T(1) : T(0);
        if (smooth) target = (T(1) - smoothing) * target + share;
        d = d * sum[i] - target;
      }
  }
};

// x^p for x in [0, 1] and p >= 0, given log(x).
template <class T>
POPGRAD_HD T power_of(T log_x, T p) {
  return p > T(0) ? exp(p * log_x) : T(1) + T(0) * log_x;
}

// Focal loss of softmax (Lin et al. 2017, equation 4 without alpha): -q^gamma log p, where p is the probability of the
// label and q = 1 - p, a sum over the other outputs, so that neither loses its digits near one.
template <class T>
struct Focal {
  static constexpr bool labels = true, differentiable = true;
  static POPGRAD_HD void score(const T* z, const T* y, int outputs, int lanes, T setting, T* value, T* slope) {
    T top[max_lanes], rest[max_lanes], picked[max_lanes], own[max_lanes], factor[max_lanes];
    for (int i = 0; i < lanes; ++i) top[i] = z[i], rest[i] = T(0), picked[i] = T(0), own[i] = T(0);
    for (int o = 1; o < outputs; ++o)
      for (int i = 0; i < lanes; ++i) top[i] = top[i] < z[o * lanes + i] ? z[o * lanes + i] : top[i];
    for (int o = 0; o < outputs; ++o)
      for (int i = 0; i < lanes; ++i) {
        const T shifted = z[o * lanes + i] - top[i], e = exp(shifted);
        const bool is_label = y[i] == T(o);
        rest[i] += is_label ? T(0) : e;
        own[i] += is_label ? e : T(0);
        picked[i] += is_label ? shifted : T(0);
        if (slope) slope[o * lanes + i] = e;
      }
    for (int i = 0; i < lanes; ++i) {
      const T sum = own[i] + rest[i], p = own[i] / sum, q = rest[i] / sum, near = rest[i] < T(1) ? rest[i] : T(0);
      const T log_p = picked[i] == T(0) && rest[i] < T(1) ? -log1p(near) : picked[i] - log(sum);
      const T weight = power_of(log(q), setting), ratio = q > T(0) ? log_p / q : T(0) * q - T(1);
      value[i] = -weight * log_p;
      // d value / d log p, and the scale of the exponentials.
      factor[i] = weight * ((p > T(0) ? setting * p * ratio : T(0) * p) - T(1));
      top[i] = T(1) / sum;
      rest[i] = q;
    }
    if (!slope) return;
    for (int o = 0; o < outputs; ++o)
      for (int i = 0; i < lanes; ++i) {
        T& d = slope[o * lanes + i];
        d = factor[i] * (y[i] == T(o) ? rest[i] : -d * top[i]);
      }
  }
};

// A score that is the mean over outputs of a function of one output, one target and the setting.
template <class T, class Each, bool has_slope>
struct MeanOver {
  static constexpr bool labels = false, differentiable = has_slope;
  static POPGRAD_HD void score(const T* z, const T* y, int outputs, int lanes, T setting, T* value, T* slope) {
    const T share = T(1) / T(outputs);
    for (int i = 0; i < lanes; ++i) value[i] = T(0);
    for (int o = 0; o < outputs; ++o)
      for (int i = 0; i < lanes; ++i) {
        const T out = z[o * lanes + i], target = y[o * lanes + i];
        value[i] += share * Each::value(out, target, setting);
        if (slope) slope[o * lanes + i] = share * Each::slope(out, target, setting);
      }
  }
};

template <class T>
struct Squared {
  static POPGRAD_HD T value(T z, T y, T) { return (z - y) * (z - y); }
  static POPGRAD_HD T slope(T z, T y, T) { return T(2) * (z - y); }
};

template <class T>
struct Absolute {
  static POPGRAD_HD T value(T z, T y, T) { return abs(z - y); }
  static POPGRAD_HD T slope(T z, T y, T) { return z > y ? T(1) : z < y ? T(-1) : z - y; }
};

template <class T>
struct HuberEach {  // Huber 1964
  static POPGRAD_HD T value(T z, T y, T delta) {
    const T d = abs(z - y);
    return d < delta ? T(0.5) * d * d : delta * (d - T(0.5) * delta);
  }
  static POPGRAD_HD T slope(T z, T y, T delta) { return z - y > delta ? delta : z - y < -delta ? -delta : z - y; }
};

template <class T>
struct QuantileEach {  // Koenker & Bassett 1978
  static POPGRAD_HD T value(T z, T y, T tau) { return y > z ? tau * (y - z) : (T(1) - tau) * (z - y); }
  static POPGRAD_HD T slope(T z, T y, T tau) { return z > y ? T(1) - tau : z < y ? -tau : z - y; }
};

template <class T>
struct PoissonEach {  // the negative log-likelihood of a count y with mean exp(z), without log(y!)
  static POPGRAD_HD T value(T z, T y, T) { return exp(z) - y * z; }
  static POPGRAD_HD T slope(T z, T y, T) { return exp(z) - y; }
};

template <class T>
struct PoissonDevianceEach {  // 2 (y log(y / exp(z)) - y + exp(z)), by the log of the ratio, to keep digits where it is
                              // small
  static POPGRAD_HD T value(T z, T y, T) {
    const T r = z - log(y > T(0) ? y : T(1));
    return T(2) * (y > T(0) ? y * (expm1(r) - r) : exp(z));
  }
  static POPGRAD_HD T slope(T, T, T) { return T(0); }
};

template <class T>
struct BinaryEach {  // computed from the logit, since the sigmoid could saturate; smoothing moves targets toward 1/2
  static POPGRAD_HD T smoothed(T y, T smoothing) { return y * (T(1) - smoothing) + T(0.5) * smoothing; }
  static POPGRAD_HD T value(T z, T y, T smoothing) {
    return (z < T(0) ? T(0) : z) - z * smoothed(y, smoothing) + log1p(exp(-abs(z)));
  }
  static POPGRAD_HD T slope(T z, T y, T smoothing) {
    const T e = exp(-abs(z)), d = T(1) / (T(1) + e);
    return (z < T(0) ? e * d : d) - smoothed(y, smoothing);
  }
};

template <class T>
struct BinaryFocalEach {  // Lin et al. 2017: y times the loss of target 1 plus (1 - y) times that of target 0
  struct Parts {
    T p, q, log_p, log_q, own, other;  // own: q^gamma, other: p^gamma
  };
  static POPGRAD_HD Parts parts(T z, T gamma) {
    const T e = exp(-abs(z)), d = T(1) / (T(1) + e), l = log1p(e);
    const T log_p = (z < T(0) ? z : T(0)) - l, log_q = (z < T(0) ? T(0) : -z) - l;
    return {z < T(0) ? e * d : d, z < T(0) ? d : e * d, log_p, log_q, power_of(log_q, gamma), power_of(log_p, gamma)};
  }
  static POPGRAD_HD T value(T z, T y, T gamma) {
    const Parts at = parts(z, gamma);
    return -(y * at.own * at.log_p + (T(1) - y) * at.other * at.log_q);
  }
  static POPGRAD_HD T slope(T z, T y, T gamma) {
    const Parts at = parts(z, gamma);
    return y * at.own * (gamma * at.p * at.log_p - at.q) - (T(1) - y) * at.other * (gamma * at.q * at.log_q - at.p);
  }
};

template <class T>
struct BinaryErrorEach {  // a logit above zero predicts 1; 0 * z propagates NaN
  static POPGRAD_HD T value(T z, T y, T) { return ((z > T(0)) != (y > T(0.5)) ? T(1) : T(0)) + T(0) * z; }
  static POPGRAD_HD T slope(T, T, T) { return T(0); }
};

template <class T>
struct MeanSquared : MeanOver<T, Squared<T>, true> {};
template <class T>
struct MeanAbsolute : MeanOver<T, Absolute<T>, true> {};
template <class T>
struct Huber : MeanOver<T, HuberEach<T>, true> {};
template <class T>
struct Quantile : MeanOver<T, QuantileEach<T>, true> {};
template <class T>
struct Poisson : MeanOver<T, PoissonEach<T>, true> {};
template <class T>
struct PoissonDeviance : MeanOver<T, PoissonDevianceEach<T>, false> {};
template <class T>
struct BinaryFocal : MeanOver<T, BinaryFocalEach<T>, true> {};
template <class T>
struct BinaryCrossEntropy : MeanOver<T, BinaryEach<T>, true> {};
template <class T>
struct BinaryErrorRate : MeanOver<T, BinaryErrorEach<T>, false> {};

// 0 if the label's output is the largest (the first one in a tie), otherwise 1; 0 * z propagates NaN.
template <class T>
struct ErrorRate {
  static constexpr bool labels = true, differentiable = false;
  static POPGRAD_HD void score(const T* z, const T* y, int outputs, int lanes, T, T* value, T*) {
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
  X(Focal, "focal")                             \
  X(BinaryFocal, "binary_focal")                \
  X(MeanSquared, "mse")                         \
  X(MeanAbsolute, "mae")                        \
  X(Huber, "huber")                             \
  X(Quantile, "quantile")                       \
  X(Poisson, "poisson")                         \
  X(PoissonDeviance, "poisson_deviance")        \
  X(ErrorRate, "error_rate")                    \
  X(BinaryErrorRate, "binary_error_rate")
