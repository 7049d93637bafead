// Moves of a population, in order of increasing complexity. One struct is one elementwise move.
//   x[k]     coordinate of the k-th array that the move writes (x[0] is the member itself)
//   s[k]     the same coordinate of the k-th source: another member's row, a center, a bound
//   draws    the random numbers of this coordinate of this member in this generation
//   chosen   whether this is the coordinate that was chosen for this member
// `fields` lists the members of the struct in order; their values are shared, or one row per member of the population.
// To add a move: write the struct, add it to MOVE_RULES, then see CONTRIBUTING.md, "A metaheuristic".
#pragma once

#include "random.h"

namespace popgrad::POPGRAD_TARGET {

// a + u (b - a) for u in [0, 1). If b - a overflows, it is computed in two halves.
template <class T>
POPGRAD_HD T between(T a, T b, T u) {
  const T width = b - a, half = T(0.5) * b - T(0.5) * a;
  return width - width == T(0) ? a + width * u : a + half * u + half * u;
}

// A uniform point between two bounds. s = {lower, upper}.
template <class T>
struct Uniform {
  static constexpr int outputs = 1, sources = 2;
  static constexpr const char* fields = "";
  POPGRAD_HD void operator()(T* x, const T* s, const Draws& draws, bool) const {
    x[0] = between(s[0], s[1], T(draws.uniform(0)));
  }
};

// A point outside its bounds is reflected at the bound that it crossed. If the reflected point is outside too, or the
// point is NaN, a new point is drawn uniformly between the bounds. A bound may be infinite. s = {lower, upper}.
template <class T>
struct Reflect {
  static constexpr int outputs = 1, sources = 2;
  static constexpr const char* fields = "";
  POPGRAD_HD void operator()(T* x, const T* s, const Draws& draws, bool) const {
    const T reflected = x[0] < s[0] ? s[0] + (s[0] - x[0]) : x[0] > s[1] ? s[1] - (x[0] - s[1]) : x[0];
    const T drawn = between(s[0], s[1], T(draws.uniform(0)));
    const T kept = drawn > s[1] ? s[1] : drawn;  // rounding may exceed the bound
    const bool inside = reflected >= s[0] && reflected <= s[1];
    x[0] = inside || kept - kept != T(0) ? reflected : kept;
  }
};

// An isotropic normal step from a center; a negative sigma takes the antithetic step. s = {center}.
template <class T>
struct Gaussian {
  static constexpr int outputs = 1, sources = 1;
  static constexpr const char* fields = "sigma";
  T sigma;
  POPGRAD_HD void operator()(T* x, const T* s, const Draws& draws, bool) const {
    x[0] = s[0] + sigma * T(draws.normal(0));
  }
};

// A normal step whose width differs by coordinate. s = {center, spread}.
// Socha & Dorigo 2008, "Ant colony optimization for continuous domains", eq. 5 and 7 (width is xi).
template <class T>
struct SpreadGaussian {
  static constexpr int outputs = 1, sources = 2;
  static constexpr const char* fields = "width";
  T width;
  POPGRAD_HD void operator()(T* x, const T* s, const Draws& draws, bool) const {
    x[0] = s[0] + width * s[1] * T(draws.normal(0));
  }
};

// A point of the crown inner < |x - center| <= outer in the maximum norm: all coordinates are uniform within outer, and
// the chosen coordinate is between the two radii, so that the point is never in the inner box. The radii are in units
// of the scale, which may differ by coordinate. s = {center, scale}.
// Chelouah & Siarry 2000, "Tabu search applied to global optimization", section 3.2.
template <class T>
struct Crown {
  static constexpr int outputs = 1, sources = 2;
  static constexpr const char* fields = "inner outer";
  T inner, outer;
  POPGRAD_HD void operator()(T* x, const T* s, const Draws& draws, bool chosen) const {
    const T u = T(draws.uniform(0));
    const T size = (chosen ? outer - (outer - inner) * u : outer * u) * s[1];
    x[0] = draws.uniform(1) < 0.5f ? s[0] - size : s[0] + size;
  }
};

// Uniform crossover (Syswerda 1989), then Gaussian mutation of a fraction `rate` of the genes, with standard deviation
// sigma in units of the scale. s = {mother, father, scale}.
template <class T>
struct Crossover {
  static constexpr int outputs = 1, sources = 3;
  static constexpr const char* fields = "rate sigma";
  T rate, sigma;
  POPGRAD_HD void operator()(T* x, const T* s, const Draws& draws, bool) const {
    const T gene = draws.uniform(0) < 0.5f ? s[0] : s[1];
    const T step = sigma * s[2] * T(draws.normal(1));
    x[0] = T(draws.uniform(1)) < rate ? gene + step : gene;
  }
};

// DE/rand/1/bin. Storn & Price 1997, eq. 2 to 5. s = {own, a, b, c}; the chosen coordinate always crosses.
template <class T>
struct Differential {
  static constexpr int outputs = 1, sources = 4;
  static constexpr const char* fields = "factor crossover_rate";
  T factor, crossover_rate;
  POPGRAD_HD void operator()(T* x, const T* s, const Draws& draws, bool chosen) const {
    const T mutant = s[1] + factor * (s[2] - s[3]);
    x[0] = T(draws.uniform(0)) < crossover_rate || chosen ? mutant : s[0];
  }
};

// Particle swarm: position and velocity after the next move. Kennedy & Eberhart 1995 with the inertia weight of Shi &
// Eberhart 1998, eq. 1 and 2; fresh random numbers per coordinate.
// x = {position, velocity}, s = {old position, old velocity, own best, best of the neighborhood}.
template <class T>
struct ParticleSwarm {
  static constexpr int outputs = 2, sources = 4;
  static constexpr const char* fields = "inertia cognitive social";
  T inertia, cognitive, social;
  POPGRAD_HD void operator()(T* x, const T* s, const Draws& draws, bool) const {
    const T own = cognitive * T(draws.uniform(0)) * (s[2] - s[0]);
    const T common = social * T(draws.uniform(1)) * (s[3] - s[0]);
    x[1] = inertia * s[1] + own + common;
    x[0] = s[0] + x[1];
  }
};

// Particle swarm: the state after the fitness of the candidate is known. failed = 1: the fitness is not finite; the
// particle keeps its position, and its velocity is reversed and halved. drawn = 1: the candidate was drawn anew, not
// moved; the particle takes its position with velocity zero. In a coordinate where the move left the box, the moved
// velocity is reversed and halved. SPSO 2011 (Clerc, hal-00764996).
// x = {position, velocity}, s = {candidate, moved velocity, lower, upper}.
template <class T>
struct ParticleArrival {
  static constexpr int outputs = 2, sources = 4;
  static constexpr const char* fields = "failed drawn";
  T failed, drawn;
  POPGRAD_HD void operator()(T* x, const T* s, const Draws&, bool) const {
    const T reached = without_denormals(x[0] + s[1]);
    const bool reflected = (reached < s[2] || reached > s[3]) && s[1] - s[1] == T(0);
    const T traveled = reflected ? T(-0.5) * s[1] : s[0] - x[0];
    x[1] = failed != T(0) ? T(-0.5) * x[1] : drawn != T(0) ? T(0) : traveled;
    x[0] = failed != T(0) ? x[0] : s[0];
  }
};

}  // namespace popgrad::POPGRAD_TARGET

#define MOVE_RULES(X) \
  X(Uniform)          \
  X(Reflect) X(Gaussian) X(SpreadGaussian) X(Crown) X(Crossover) X(Differential) X(ParticleSwarm) X(ParticleArrival)
