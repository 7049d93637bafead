// Update rules, in order of increasing complexity. One struct is one optimizer on every backend.
//   w     a parameter, changed in place        g   its gradient
//   s[k]  the k-th state, zero before step 1   the members are constant during one step
// `fields` lists the members in order. Python computes them in double, including 1 - beta, and rounds each once.
// `positive`: the states may be stored in 8 bits; bit k is set if state k is never negative.
// `fades`: bit k is set if state k is a running average of gradients. Without new gradients, the state is set to zero
// before it becomes denormal. Averages of squares do not fade, since their smallest values matter next to a small
// epsilon.
// To add a rule: write the struct, add it to STEP_RULES, then see CONTRIBUTING.md, "A gradient optimizer".
#pragma once

#include "math.h"

namespace popgrad::POPGRAD_TARGET {

// Gradient descent, stochastic if g is from a minibatch. Robbins & Monro 1951.
template <class T>
struct Sgd {
  static constexpr int states = 0;
  static constexpr const char* fields = "learning_rate";
  T learning_rate;
  POPGRAD_HD void operator()(T& w, T g, T*) const { w -= learning_rate * g; }
};

// Momentum. Polyak 1964. s = {v}. gain = 1: heavy ball. gain = 1 - beta: a running average of the gradient, whose
// magnitude does not depend on beta. gain = learning rate with rate = 1: the velocity of Keras and scikit-learn.
template <class T>
struct Momentum {
  static constexpr int states = 1, positive = 0, fades = 1;
  static constexpr const char* fields = "rate beta gain";
  T rate, beta, gain;
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    s[0] = beta * s[0] + gain * g;
    w -= rate * s[0];
  }
};

// Nesterov 1983, in the form of Sutskever et al. 2013, with w at the look-ahead point. s = {v}; gain as above.
template <class T>
struct Nesterov {
  static constexpr int states = 1, fades = 1;
  static constexpr const char* fields = "rate beta gain";
  T rate, beta, gain;
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    const T fresh = gain * g;
    s[0] = beta * s[0] + fresh;
    w -= rate * (fresh + beta * s[0]);
  }
};

// Sign descent. Bernstein et al. 2018, arXiv:1802.04434, Algorithm 1.
template <class T>
struct SignSgd {
  static constexpr int states = 0;
  static constexpr const char* fields = "learning_rate";
  T learning_rate;
  POPGRAD_HD void operator()(T& w, T g, T*) const { w -= learning_rate * sign(g); }
};

// Signum: the sign of the averaged gradient. Bernstein et al. 2018, Algorithm 2. s = {v}.
template <class T>
struct Signum {
  static constexpr int states = 1, fades = 1;
  static constexpr const char* fields = "learning_rate beta gain";
  T learning_rate, beta, gain;  // gain = 1 - beta
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    s[0] = beta * s[0] + gain * g;
    w -= learning_rate * sign(s[0]);
  }
};

// Lion. Chen et al. 2023, arXiv:2302.06675, Algorithm 2: the step uses beta1, the update of m uses beta2. s = {m}.
template <class T>
struct Lion {
  static constexpr int states = 1, positive = 0, fades = 1;
  static constexpr const char* fields = "learning_rate beta1 gain1 beta2 gain2";
  T learning_rate, beta1, gain1, beta2, gain2;
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    w -= learning_rate * sign(beta1 * s[0] + gain1 * g);
    s[0] = beta2 * s[0] + gain2 * g;
  }
};

// Resilient propagation, iRprop-: after a change of sign, the gradient counts as zero. Igel & Husken 2000, algorithm 3;
// Riedmiller & Braun 1993. s = {last g, length}; first = the initial length at t = 1, then zero.
template <class T>
struct Rprop {
  static constexpr int states = 2;
  static constexpr const char* fields = "shrink grow shortest longest first";
  T shrink, grow, shortest, longest, first;
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    const T agree = g * s[0];
    const T length = (s[1] + first) * (agree > T(0) ? grow : agree < T(0) ? shrink : T(1));
    s[1] = length < shortest ? shortest : length > longest ? longest : length;
    s[0] = agree < T(0) ? T(0) : g;
    w -= s[1] * sign(s[0]);
  }
};

// Averaged stochastic gradient descent. Polyak & Juditsky 1992, with the schedules of Xu 2011. s = {average};
// decay = 1 - lambda * rate, mix = the weight of the new parameters in the average.
template <class T>
struct Asgd {
  static constexpr int states = 1;
  static constexpr const char* fields = "rate decay mix";
  T rate, decay, mix;
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    w = w * decay - rate * g;
    s[0] += mix * (w - s[0]);
  }
};

// In the following rules, epsilon is added outside a square root, and `root` inside it. `first` is the initial value of
// a state: added at t = 1, zero afterwards.

// AdaGrad. Duchi, Hazan & Singer 2011, figure 1 (diagonal). s = {sum of g^2}.
template <class T>
struct AdaGrad {
  static constexpr int states = 1;
  static constexpr const char* fields = "rate root epsilon first";
  T rate, root, epsilon, first;
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    s[0] = s[0] + first + g * g;
    w -= rate * g / (sqrt(s[0] + root) + epsilon);
  }
};

// RMSprop. Tieleman & Hinton 2012, lecture 6.5. s = {v}.
template <class T>
struct RmsProp {
  static constexpr int states = 1;
  static constexpr const char* fields = "rate rho gain root epsilon first";
  T rate, rho, gain, root, epsilon, first;  // gain = 1 - rho
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    s[0] = rho * (s[0] + first) + gain * g * g;
    w -= rate * g / (sqrt(s[0] + root) + epsilon);
  }
};

// RMSprop divided by the running standard deviation. Graves 2013, arXiv:1308.0850, eq. 38 to 45. s = {v, mean g}; if
// rounding makes the variance negative, it counts as zero.
template <class T>
struct RmsPropCentered {
  static constexpr int states = 2, fades = 1 << 1;
  static constexpr const char* fields = "rate rho gain root epsilon first";
  T rate, rho, gain, root, epsilon, first;
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    s[0] = rho * (s[0] + first) + gain * g * g;
    s[1] = rho * s[1] + gain * g;
    const T variance = s[0] - s[1] * s[1];
    w -= rate * g / (sqrt((variance < T(0) ? T(0) : variance) + root) + epsilon);
  }
};

// RMSprop with heavy-ball momentum. s = {v, velocity}; the learning rate is either inner or rate, and the other is 1.
template <class T>
struct RmsPropMomentum {
  static constexpr int states = 2, fades = 1 << 1;
  static constexpr const char* fields = "rate rho gain root epsilon first momentum inner";
  T rate, rho, gain, root, epsilon, first, momentum, inner;
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    s[0] = rho * (s[0] + first) + gain * g * g;
    s[1] = momentum * s[1] + inner * g / (sqrt(s[0] + root) + epsilon);
    w -= rate * s[1];
  }
};

// Centered RMSprop with heavy-ball momentum. s = {v, mean g, velocity}.
template <class T>
struct RmsPropCenteredMomentum {
  static constexpr int states = 3, fades = 1 << 1 | 1 << 2;
  static constexpr const char* fields = "rate rho gain root epsilon first momentum inner";
  T rate, rho, gain, root, epsilon, first, momentum, inner;
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    s[0] = rho * (s[0] + first) + gain * g * g;
    s[1] = rho * s[1] + gain * g;
    const T variance = s[0] - s[1] * s[1];
    s[2] = momentum * s[2] + inner * g / (sqrt((variance < T(0) ? T(0) : variance) + root) + epsilon);
    w -= rate * s[2];
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

// Adam. Kingma & Ba 2015, arXiv:1412.6980, Algorithm 1. s = {m, v}. The bias corrections are constants of the sweep:
// rate = learning_rate / (1 - beta1^t), scale = 1 / sqrt(1 - beta2^t), and `root` is divided by scale^2. For the form
// in section 2 of the paper, scale = 1, and rate includes both corrections.
template <class T>
struct Adam {
  static constexpr int states = 2, positive = 1 << 1, fades = 1;
  static constexpr const char* fields = "rate beta1 gain1 beta2 gain2 root scale epsilon";
  T rate, beta1, gain1, beta2, gain2, root, scale, epsilon;
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    s[0] = beta1 * s[0] + gain1 * g;
    s[1] = beta2 * s[1] + gain2 * g * g;
    w -= rate * s[0] / (sqrt(s[1] + root) * scale + epsilon);
  }
};

// AMSGrad. Reddi, Kale & Kumar 2018, Algorithm 2. s = {m, v, largest v}. With correct = 1, the state is the largest raw
// v, and scale corrects its bias (PyTorch). With correct = 1 / (1 - beta2^t), the state is the largest corrected v
// (optax).
template <class T>
struct AmsGrad {
  static constexpr int states = 3, fades = 1;
  static constexpr const char* fields = "rate beta1 gain1 beta2 gain2 correct root scale epsilon";
  T rate, beta1, gain1, beta2, gain2, correct, root, scale, epsilon;
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    s[0] = beta1 * s[0] + gain1 * g;
    s[1] = beta2 * s[1] + gain2 * g * g;
    const T now = s[1] * correct;
    s[2] = now > s[2] ? now : s[2];
    w -= rate * s[0] / (sqrt(s[2] + root) * scale + epsilon);
  }
};

// AdaMax. Kingma & Ba 2015, Algorithm 2. s = {m, u}; inside is added to |g| inside the maximum (PyTorch, optax),
// epsilon is added to u (Keras).
template <class T>
struct AdaMax {
  static constexpr int states = 2, fades = 1;
  static constexpr const char* fields = "rate beta1 gain1 beta2 inside epsilon";
  T rate, beta1, gain1, beta2, inside, epsilon;
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    s[0] = beta1 * s[0] + gain1 * g;
    const T old = beta2 * s[1], now = abs(g) + inside;
    s[1] = old > now ? old : now;
    w -= rate * s[0] / (s[1] + epsilon);
  }
};

// NAdam. Dozat 2016, Algorithm 8. s = {m, v}; rate_g and rate_m are the learning rate times the momentum schedule with
// bias corrections: (1 - mu_t) / (1 - prod mu) for the gradient, mu_{t+1} / (1 - prod mu mu_{t+1}) for m.
template <class T>
struct NAdam {
  static constexpr int states = 2, fades = 1;
  static constexpr const char* fields = "rate_g rate_m beta1 gain1 beta2 gain2 root scale epsilon";
  T rate_g, rate_m, beta1, gain1, beta2, gain2, root, scale, epsilon;
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    s[0] = beta1 * s[0] + gain1 * g;
    s[1] = beta2 * s[1] + gain2 * g * g;
    w -= (rate_g * g + rate_m * s[0]) / (sqrt(s[1] + root) * scale + epsilon);
  }
};

// RAdam. Liu et al. 2020, arXiv:1908.03265, Algorithm 2. s = {m, v}; either adaptive or plain is zero, depending on t
// alone.
template <class T>
struct RAdam {
  static constexpr int states = 2, fades = 1;
  static constexpr const char* fields = "adaptive plain beta1 gain1 beta2 gain2 root scale epsilon";
  T adaptive, plain, beta1, gain1, beta2, gain2, root, scale, epsilon;
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    s[0] = beta1 * s[0] + gain1 * g;
    s[1] = beta2 * s[1] + gain2 * g * g;
    w -= s[0] * (adaptive / (sqrt(s[1] + root) * scale + epsilon) + plain);
  }
};

// AdaBelief. Zhuang et al. 2020, arXiv:2010.07468, Algorithm 2: the variance around m instead of the raw moment.
// `root` is added to s in every step, so that it accumulates. s = {m, s}.
template <class T>
struct AdaBelief {
  static constexpr int states = 2, fades = 1;
  static constexpr const char* fields = "rate beta1 gain1 beta2 gain2 root scale epsilon";
  T rate, beta1, gain1, beta2, gain2, root, scale, epsilon;
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    s[0] = beta1 * s[0] + gain1 * g;
    const T surprise = g - s[0];
    s[1] = beta2 * s[1] + gain2 * surprise * surprise + root;
    w -= rate * s[0] / (sqrt(s[1]) * scale + epsilon);
  }
};

// Yogi. Zaheer et al. 2018, Algorithm 2: v moves toward g^2 by an amount that does not depend on v.
// s = {m, v}, with Adam's bias corrections.
template <class T>
struct Yogi {
  static constexpr int states = 2, fades = 1;
  static constexpr const char* fields = "rate beta1 gain1 gain2 root scale epsilon first";
  T rate, beta1, gain1, gain2, root, scale, epsilon, first;
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    s[0] = beta1 * (s[0] + first) + gain1 * g;
    const T square = g * g, old = s[1] + first;
    s[1] = old - gain2 * sign(old - square) * square;
    w -= rate * s[0] / (sqrt(s[1] + root) * scale + epsilon);
  }
};

// ADOPT. Taniguchi et al. 2024, arXiv:2411.02853, Algorithm 2: g is divided by the root of the *previous* v, clipped to
// t^(1/4), then averaged. s = {m, v}. The first step only sets v = g^2: Python passes beta2 = 0, gain2 = 1, gain1 = 0
// and learning_rate = 0.
template <class T>
struct Adopt {
  static constexpr int states = 2, fades = 1;
  static constexpr const char* fields = "learning_rate beta1 gain1 beta2 gain2 limit epsilon";
  T learning_rate, beta1, gain1, beta2, gain2, limit, epsilon;
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    const T root = sqrt(s[1]), d = g / (root > epsilon ? root : epsilon);
    s[0] = beta1 * s[0] + gain1 * (d > limit ? limit : d < -limit ? -limit : d);
    s[1] = beta2 * s[1] + gain2 * g * g;
    w -= learning_rate * s[0];
  }
};

// AdEMAMix. Pagliardini, Ablin & Grangier 2024, arXiv:2409.03137, Algorithm 1: a second, slow average of the gradient.
// s = {fast m, slow m, v}; scale1 = 1 / (1 - beta1^t). The slow m has no bias correction.
template <class T>
struct AdEmaMix {
  static constexpr int states = 3, fades = 1 | 1 << 1;
  static constexpr const char* fields =
      "learning_rate beta1 gain1 scale1 beta3 gain3 alpha beta2 gain2 root scale2 epsilon";
  T learning_rate, beta1, gain1, scale1, beta3, gain3, alpha, beta2, gain2, root, scale2, epsilon;
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    s[0] = beta1 * s[0] + gain1 * g;
    s[1] = beta3 * s[1] + gain3 * g;
    s[2] = beta2 * s[2] + gain2 * g * g;
    w -= learning_rate * (scale1 * s[0] + alpha * s[1]) / (sqrt(s[2] + root) * scale2 + epsilon);
  }
};

// Adan. Xie et al. 2022, arXiv:2208.06677, Algorithm 1, in the authors' code. s = {m, difference, n, last g};
// seen = 0 at the first step, which has no difference. shrink = 1 / (1 + learning_rate * weight_decay).
template <class T>
struct Adan {
  static constexpr int states = 4, fades = 1 | 1 << 1;
  static constexpr const char* fields =
      "rate beta1 gain1 rate_d beta2 gain2 beta3 gain3 root scale epsilon seen shrink";
  T rate, beta1, gain1, rate_d, beta2, gain2, beta3, gain3, root, scale, epsilon, seen, shrink;
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    const T difference = seen * (g - s[3]), ahead = g + beta2 * difference;
    s[0] = beta1 * s[0] + gain1 * g;
    s[1] = beta2 * s[1] + gain2 * difference;
    s[2] = beta3 * s[2] + gain3 * ahead * ahead;
    s[3] = g;
    w = (w - (rate * s[0] + rate_d * s[1]) / (sqrt(s[2] + root) * scale + epsilon)) * shrink;
  }
};

// Sophia-G. Liu et al. 2023, arXiv:2305.14342, Algorithm 3: a Newton step with a diagonal estimate of the curvature,
// clipped to the learning rate. s = {m, h}; the rule Curvature updates h. rho scales h.
template <class T>
struct Sophia {
  static constexpr int states = 2, fades = 1;
  static constexpr const char* fields = "learning_rate beta1 gain1 rho epsilon";
  T learning_rate, beta1, gain1, rho, epsilon;
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    s[0] = beta1 * s[0] + gain1 * g;
    const T d = s[0] / (rho * s[1] + epsilon);
    w -= learning_rate * (d > T(1) ? T(1) : d < T(-1) ? T(-1) : d);
  }
};

// The running average of Sophia's estimate: the squared gradient for labels sampled from the model (Gauss-Newton-
// Bartlett, Algorithm 2). s = {m, h}; gain = (1 - beta2) times the number of samples. w does not change.
template <class T>
struct Curvature {
  static constexpr int states = 2;
  static constexpr const char* fields = "beta2 gain";
  T beta2, gain;
  POPGRAD_HD void operator()(T&, T g, T* s) const { s[1] = beta2 * s[1] + gain * g * g; }
};

// Schedule-Free SGD. Defazio et al. 2024, arXiv:2405.15682, Algorithm 1, with w = y, the point of the gradients.
// s = {z}; mix = the weight of z in the average x; ahead = learning_rate (1 - beta (1 - mix)); first = 1 at t = 1,
// where z starts from w.
template <class T>
struct ScheduleFreeSgd {
  static constexpr int states = 1;
  static constexpr const char* fields = "learning_rate mix ahead first";
  T learning_rate, mix, ahead, first;
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    const T z = s[0] + first * w;
    w = w + mix * (z - w) - ahead * g;
    s[0] = z - learning_rate * g;
  }
};

// Schedule-Free AdamW: Schedule-Free SGD with g divided by the root of its running mean square, and with weight decay
// at y. s = {z, v}.
template <class T>
struct ScheduleFreeAdamW {
  static constexpr int states = 2;
  static constexpr const char* fields = "learning_rate mix ahead first beta2 gain2 scale epsilon decay";
  T learning_rate, mix, ahead, first, beta2, gain2, scale, epsilon, decay;
  POPGRAD_HD void operator()(T& w, T g, T* s) const {
    const T z = s[0] + first * w;
    s[1] = beta2 * s[1] + gain2 * g * g;
    const T u = g / (sqrt(s[1]) * scale + epsilon) + decay * w;
    w = w + mix * (z - w) - ahead * u;
    s[0] = z - learning_rate * u;
  }
};

// An average of the weights, for wrappers; g is not used. s = {average}, which moves toward w by the share mix.
template <class T>
struct Average {
  static constexpr int states = 1;
  static constexpr const char* fields = "mix";
  T mix;
  POPGRAD_HD void operator()(T& w, T, T* s) const { s[0] += mix * (w - s[0]); }
};

// Lookahead. Zhang et al. 2019, arXiv:1907.08610, Algorithm 1. s = {slow}; w is then set to slow.
template <class T>
struct Lookback {
  static constexpr int states = 1;
  static constexpr const char* fields = "alpha";
  T alpha;
  POPGRAD_HD void operator()(T& w, T, T* s) const {
    s[0] += alpha * (w - s[0]);
    w = s[0];
  }
};

}  // namespace popgrad::POPGRAD_TARGET

// clang-format off
#define STEP_RULES(X)                                                                       \
  X(Sgd) X(Momentum) X(Nesterov) X(SignSgd) X(Signum) X(Lion) X(Rprop) X(Asgd) \
  X(AdaGrad) X(RmsProp) X(RmsPropCentered) X(RmsPropMomentum) X(RmsPropCenteredMomentum)    \
  X(AdaDelta) X(Adam) X(AmsGrad) X(AdaMax) X(NAdam) X(RAdam) X(AdaBelief) X(Yogi)  \
  X(Adopt) X(AdEmaMix) X(Adan) X(Sophia) X(Curvature) X(ScheduleFreeSgd) X(ScheduleFreeAdamW)       \
  X(Average) X(Lookback)
// clang-format on
