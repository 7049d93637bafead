// Activation functions: value(z), and slope(z, a), the derivative at z, given a = value(z).
// All propagate NaN, so that a broken network is never mistaken for a good one.
#pragma once

#include "math.h"

namespace popgrad::POPGRAD_TARGET {

template <class T>
struct Identity {
  static POPGRAD_HD T value(T z) { return z; }
  static POPGRAD_HD T slope(T, T) { return T(1); }
};

template <class T>
struct Relu {
  static POPGRAD_HD T value(T z) { return z < T(0) ? T(0) : z; }
  static POPGRAD_HD T slope(T z, T) { return z > T(0) ? T(1) : T(0); }
};

template <class T>
struct LeakyRelu {  // slope 0.01 below zero, PyTorch's default
  static POPGRAD_HD T value(T z) { return z < T(0) ? T(0.01) * z : z; }
  static POPGRAD_HD T slope(T z, T) { return z > T(0) ? T(1) : T(0.01); }
};

template <class T>
struct Elu {  // Clevert et al. 2016, alpha = 1
  static POPGRAD_HD T value(T z) { return z < T(0) ? expm1(z < T(0) ? z : T(0)) : z; }
  static POPGRAD_HD T slope(T z, T a) { return z < T(0) ? a + T(1) : T(1); }
};

template <class T>
struct Tanh {
  static POPGRAD_HD T value(T z) { return tanh(z); }
  static POPGRAD_HD T slope(T, T a) { return T(1) - a * a; }
};

template <class T>
struct Sigmoid {
  static POPGRAD_HD T value(T z) {
    const T e = exp(-abs(z)), d = T(1) / (T(1) + e);  // the exponential never overflows
    return z < T(0) ? e * d : d;
  }
  static POPGRAD_HD T slope(T, T a) { return a * (T(1) - a); }
};

template <class T>
struct Silu {
  static POPGRAD_HD T value(T z) { return z * Sigmoid<T>::value(z); }
  static POPGRAD_HD T slope(T z, T) {
    const T s = Sigmoid<T>::value(z);
    return s * (T(1) + z * (T(1) - s));
  }
};

template <class T>
struct Gelu {  // Hendrycks & Gimpel 2016, exact: z times the normal distribution function
  static POPGRAD_HD T value(T z) { return z * normal_cdf(z); }
  static POPGRAD_HD T slope(T z, T) { return normal_cdf(z) + z * exp(T(-0.5) * z * z) * T(0.39894228040143267794); }
};

template <class T>
struct Softplus {
  static POPGRAD_HD T value(T z) { return (z < T(0) ? T(0) : z) + log1p(exp(-abs(z))); }
  static POPGRAD_HD T slope(T z, T) { return Sigmoid<T>::value(z); }
};

template <class T>
struct Sine {
  static POPGRAD_HD T value(T z) { return sin(z); }
  static POPGRAD_HD T slope(T z, T) { return cos(z); }
};

template <class T>
struct Step {  // Heaviside; the derivative is zero wherever it exists, so that a request for a gradient is an error
  static POPGRAD_HD T value(T z) { return z > T(0) ? T(1) : z <= T(0) ? T(0) : z; }
  static POPGRAD_HD T slope(T, T) { return T(0); }
};

}  // namespace popgrad::POPGRAD_TARGET

// X(struct, public name, has a gradient)
#define ACTIVATIONS(X)             \
  X(Identity, "identity", true)    \
  X(Relu, "relu", true)            \
  X(LeakyRelu, "leaky_relu", true) \
  X(Elu, "elu", true)              \
  X(Gelu, "gelu", true)            \
  X(Silu, "silu", true)            \
  X(Tanh, "tanh", true)            \
  X(Sigmoid, "sigmoid", true)      \
  X(Softplus, "softplus", true)    \
  X(Sine, "sin", true)             \
  X(Step, "step", false)
