// Update rules, in order of increasing complexity. One struct is one optimizer on every backend.
//   w     a parameter, changed in place        g   its gradient
//   s[k]  the k-th state, zero before step 1   the members are constant during one step
// The members are the words of `fields`, in that order; Python computes them in double (1 - beta too, which
// float would round badly) and each is rounded once.
// To add one: write the struct, add it to STEP_RULES, then see CONTRIBUTING.md, "A gradient optimizer".
#pragma once

#include "math.h"

namespace popgrad::POPGRAD_TARGET {

// Gradient descent; whether it is stochastic is decided by what g was computed from. Robbins & Monro 1951.
template <class T>
struct Sgd {
  static constexpr int states = 0;
  static constexpr const char* fields = "learning_rate";
  T learning_rate;
  POPGRAD_HD void operator()(T& w, T g, T*) const { w -= learning_rate * g; }
};

// Momentum as a running average of the gradient: the step keeps its length whatever beta is. s = {v}.
template <class T>
struct Momentum {
  static constexpr int states = 1;
  static constexpr const char* fields = "learning_rate beta gain";
  T learning_rate, beta, gain;  // gain = 1 - beta
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    s[0] = beta * s[0] + gain * g;
    w -= learning_rate * s[0];
  }
};

// The heavy ball. Polyak 1964. s = {v}; the learning rate stays outside v, as in PyTorch.
template <class T>
struct HeavyBall {
  static constexpr int states = 1;
  static constexpr const char* fields = "learning_rate momentum";
  T learning_rate, momentum;
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    s[0] = momentum * s[0] + g;
    w -= learning_rate * s[0];
  }
};

// Nesterov 1983, in the form of Sutskever et al. 2013 with w at the point looked ahead to. s = {v}.
template <class T>
struct Nesterov {
  static constexpr int states = 1;
  static constexpr const char* fields = "learning_rate momentum";
  T learning_rate, momentum;
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    s[0] = momentum * s[0] + g;
    w -= learning_rate * (g + momentum * s[0]);
  }
};

// AdaGrad. Duchi, Hazan & Singer 2011, figure 1 (diagonal). s = {sum of g^2}.
template <class T>
struct AdaGrad {
  static constexpr int states = 1;
  static constexpr const char* fields = "learning_rate epsilon";
  T learning_rate, epsilon;
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    s[0] += g * g;
    w -= learning_rate * g / (sqrt(s[0]) + epsilon);
  }
};

// RMSprop. Tieleman & Hinton 2012, lecture 6.5. s = {v}; epsilon outside the root, as in PyTorch.
template <class T>
struct RmsProp {
  static constexpr int states = 1;
  static constexpr const char* fields = "learning_rate rho gain epsilon";
  T learning_rate, rho, gain, epsilon;  // gain = 1 - rho
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    s[0] = rho * s[0] + gain * g * g;
    w -= learning_rate * g / (sqrt(s[0]) + epsilon);
  }
};

// AdaDelta. Zeiler 2012, arXiv:1212.5701, Algorithm 1. s = {E[g^2], E[dx^2]}; both epsilons inside the roots.
template <class T>
struct AdaDelta {
  static constexpr int states = 2;
  static constexpr const char* fields = "learning_rate rho gain epsilon";
  T learning_rate, rho, gain, epsilon;  // gain = 1 - rho
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    s[0] = rho * s[0] + gain * g * g;
    const T d = sqrt(s[1] + epsilon) / sqrt(s[0] + epsilon) * g;
    s[1] = rho * s[1] + gain * d * d;
    w -= learning_rate * d;
  }
};

// Adam. Kingma & Ba 2015, arXiv:1412.6980, Algorithm 1. s = {m, v}; rate = learning_rate / (1 - beta1^t),
// scale = 1 / sqrt(1 - beta2^t): the two bias corrections, taken out of the sweep.
template <class T>
struct Adam {
  static constexpr int states = 2;
  static constexpr const char* fields = "rate beta1 gain1 beta2 gain2 scale epsilon";
  T rate, beta1, gain1, beta2, gain2, scale, epsilon;
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    s[0] = beta1 * s[0] + gain1 * g;
    s[1] = beta2 * s[1] + gain2 * g * g;
    w -= rate * s[0] / (sqrt(s[1]) * scale + epsilon);
  }
};

// AdamW. Loshchilov & Hutter 2019, arXiv:1711.05101, Algorithm 2: the weights decay before the step, by
// keep = 1 - learning_rate * weight_decay (PyTorch's reading: the schedule scales the decay too).
template <class T>
struct AdamW {
  static constexpr int states = 2;
  static constexpr const char* fields = "rate beta1 gain1 beta2 gain2 scale epsilon keep";
  T rate, beta1, gain1, beta2, gain2, scale, epsilon, keep;
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    s[0] = beta1 * s[0] + gain1 * g;
    s[1] = beta2 * s[1] + gain2 * g * g;
    w = w * keep - rate * s[0] / (sqrt(s[1]) * scale + epsilon);
  }
};

}  // namespace popgrad::POPGRAD_TARGET

#define STEP_RULES(X) X(Sgd) X(Momentum) X(HeavyBall) X(Nesterov) X(AdaGrad) X(RmsProp) X(AdaDelta) X(Adam) X(AdamW)
