// Update rules that depend on sums over a whole tensor. Each takes two sweeps:
//   measure   first sweep: may change the states, but not w; its terms in `sums` are summed over the tensor
//   settle    once per tensor, in double: computes members from the sums; the first `kept` members persist
//   ()        second sweep, as in step_rules.h
// The sums of a tensor that is not adapted are zero. `whole`: the sums are over all tensors, and settle is called once.
#pragma once

#include "math.h"

namespace popgrad::POPGRAD_TARGET {

// The factor |w| / |u| of a layer; 1 if either norm is zero.
POPGRAD_HD double trust_ratio(double weights, double update) {
  return weights > 0 && update > 0 ? sqrt(weights / update) : 1.0;
}

// LARS. You, Gitman & Ginsburg 2017, arXiv:1708.03888, Algorithm 1. s = {v}; the update includes the decay. settle
// computes ratio = trust |w| / (|g| + decay |w|).
template <class T>
struct Lars {
  static constexpr int states = 1, sums = 2, fades = 1;
  static constexpr const char* fields = "ratio learning_rate momentum decay trust epsilon";
  T ratio, learning_rate, momentum, decay, trust, epsilon;
  POPGRAD_HD void measure(T w, T g, T*, double* sum) const {
    sum[0] = double(w) * double(w);
    sum[1] = double(g) * double(g);
  }
  POPGRAD_HD void settle(const double* sum) {
    const double weights = sqrt(sum[0]), gradient = sqrt(sum[1]);
    ratio = T(weights > 0 && gradient > 0 ? trust * weights / (gradient + decay * weights + epsilon) : 1.0);
  }
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    s[0] = momentum * s[0] + learning_rate * (ratio * (g + decay * w));
    w -= s[0];
  }
};

// LAMB. You et al. 2020, arXiv:1904.00962, Algorithm 2. s = {m, v}; settle multiplies rate by |w| / |update|.
template <class T>
struct Lamb {
  static constexpr int states = 2, sums = 2;
  static constexpr const char* fields = "rate beta1 gain1 scale1 beta2 gain2 scale2 epsilon decay";
  T rate, beta1, gain1, scale1, beta2, gain2, scale2, epsilon, decay;  // scaleK: the bias corrections
  POPGRAD_HD T update(T w, const T* s) const { return scale1 * s[0] / (sqrt(s[1]) * scale2 + epsilon) + decay * w; }
  POPGRAD_HD void measure(T w, T g, T* s, double* sum) const {
    s[0] = beta1 * s[0] + gain1 * g;
    s[0] = faded(s[0], g);
    s[1] = beta2 * s[1] + gain2 * g * g;
    const T u = update(w, s);
    sum[0] = double(w) * double(w);
    sum[1] = double(u) * double(u);
  }
  POPGRAD_HD void settle(const double* sum) { rate = T(rate * trust_ratio(sum[0], sum[1])); }
  POPGRAD_HD void operator()(T& w, T, T* s) const { w -= rate * update(w, s); }
};

// NovoGrad. Ginsburg et al. 2019, arXiv:1905.11286, Algorithm 1: one second moment v per layer. s = {m}; first = 1 at
// t = 1, where v is the squared norm. settle computes scale.
template <class T>
struct NovoGrad {
  static constexpr int states = 1, sums = 1, kept = 1, fades = 1;
  static constexpr const char* fields = "v scale learning_rate beta1 gain1 beta2 gain2 epsilon first decay";
  T v, scale, learning_rate, beta1, gain1, beta2, gain2, epsilon, first, decay;
  POPGRAD_HD void measure(T, T g, T*, double* sum) const { sum[0] = double(g) * double(g); }
  POPGRAD_HD void settle(const double* sum) {
    v = T(first != T(0) ? sum[0] : beta2 * v + gain2 * sum[0]);
    scale = T(1 / (sqrt(double(v)) + epsilon));
  }
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    s[0] = beta1 * s[0] + gain1 * (g * scale + decay * w);
    w -= learning_rate * s[0];
  }
};

// Prodigy. Mishchenko & Defazio 2023, arXiv:2306.06101, Algorithm 4, as in the authors' code: Adam whose learning rate
// is an estimate d of the distance to the solution. s = {m, v, r, start}; kept: d, the largest estimate, the numerator.
// rate = learning_rate with bias correction; first = 1 at t = 1; step = d * rate, with d before this step.
template <class T>
struct Prodigy {
  static constexpr int states = 4, sums = 2, kept = 3;
  static constexpr bool whole = true;
  static constexpr const char* fields =
      "d largest numerator step rate beta1 gain1 beta2 gain2 beta3 epsilon start growth coefficient decay first";
  T d, largest, numerator, step, rate, beta1, gain1, beta2, gain2, beta3, epsilon, start, growth, coefficient, decay,
      first;
  POPGRAD_HD void measure(T w, T g, T* s, double* sum) const {
    s[3] = s[3] + first * w;
    sum[0] = double(g) * (double(s[3]) - double(w));
    const T scaled = d * g;
    s[0] = beta1 * s[0] + gain1 * scaled;
    s[0] = faded(s[0], g);
    s[1] = beta2 * s[1] + gain2 * scaled * scaled;
    s[2] = beta3 * s[2] + d / start * (d * rate) * g;
    sum[1] = abs(double(s[2]));
  }
  POPGRAD_HD void settle(const double* sum) {
    step = d * rate;
    numerator = beta3 * numerator + d / start * step * T(sum[0]);
    if (!(sum[1] > 0)) return;  // no gradient so far
    const T estimate = coefficient * numerator / T(sum[1]);
    if (d == start) d = d > estimate ? d : estimate;
    largest = largest > estimate ? largest : estimate;
    const T limit = d * growth;
    d = largest < limit ? largest : limit;
  }
  POPGRAD_HD void operator()(T& w, T, T* s) const {
    w -= decay * step * w;
    w -= step * s[0] / (sqrt(s[1]) + d * epsilon);
  }
};

// DoG. Ivgi, Hinder & Carmon 2023, arXiv:2302.12022: the distance from the start over the root of the sum of squared
// gradients is the learning rate. s = {start, average}; kept: the largest distance and the sum. first = 1 at t = 1,
// where the distance is relative (1 + |w|). step = the learning rate of this step; mix = the weight of w in the
// average.
template <class T>
struct Dog {
  static constexpr int states = 2, sums = 2, kept = 2;
  static constexpr bool whole = true;
  static constexpr const char* fields = "distance total step scale epsilon relative decay mix first";
  T distance, total, step, scale, epsilon, relative, decay, mix, first;
  POPGRAD_HD void measure(T w, T g, T* s, double* sum) const {
    s[0] = s[0] + first * w;
    const double far = first != T(0) ? double(w) : double(w) - double(s[0]);
    sum[0] = far * far;
    sum[1] = double(g) * double(g);
  }
  POPGRAD_HD void settle(const double* sum) {
    const T far = T(first != T(0) ? relative * (1 + sqrt(sum[0])) : sqrt(sum[0]));
    distance = distance > far ? distance : far;
    total += T(sum[1]);
    step = T(scale * distance / sqrt(double(total) + epsilon));
  }
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    w -= step * (g + decay * w);
    s[1] += mix * (w - s[1]);
  }
};

// For hypergradient descent, Baydin et al. 2018, arXiv:1703.04782: the product of the gradient with the step before.
// s = {the parameters before that step}, which become w; w stays as it is. kept: the product.
template <class T>
struct Progress {
  static constexpr int states = 1, sums = 1, kept = 1;
  static constexpr bool whole = true;
  static constexpr const char* fields = "product";
  T product;
  POPGRAD_HD void measure(T w, T g, T* s, double* sum) const { sum[0] = double(g) * (double(s[0]) - double(w)); }
  POPGRAD_HD void settle(const double* sum) { product = T(sum[0]); }
  POPGRAD_HD void operator()(T& w, T, T* s) const { s[0] = w; }
};

}  // namespace popgrad::POPGRAD_TARGET

#define LAYER_RULES(X) X(Lars) X(Lamb) X(NovoGrad) X(Prodigy) X(Dog) X(Progress)
