// What any update rule can have done in its sweep, around the rule: see StepExtras in table.h for the order.
#pragma once

#include "fields.h"
#include "math.h"

namespace popgrad::POPGRAD_TARGET {

// Weight decay alone is common, and what is left out of its sweep takes as long as Adam.
enum Extent { rule_alone, decay_alone, everything };

template <class T>
struct Around {
  T scale, clip, l2, decay, l1, mix;

  // What the rule takes for its gradient.
  template <Extent extent>
  POPGRAD_HD T pull(T w, T g) const {
    if constexpr (extent == rule_alone) return g;
    g = g * scale;
    if constexpr (extent == everything) g = g > clip ? clip : g < -clip ? -clip : g;  // NaN passes
    return g + l2 * w;
  }
  // 1 - decay as one factor would be rounded to float, by as much as a small decay changes in twenty steps.
  POPGRAD_HD T decayed(T w) const { return w - decay * w; }
  // The proximal step of l1 |w|: soft thresholding.
  POPGRAD_HD T shrink(T w) const { return w > l1 ? w - l1 : w < -l1 ? w + l1 : w != w || l1 == T(0) ? w : T(0); }
};

// The update of one parameter, without its running average.
template <Extent extent, class Rule, class T>
POPGRAD_HD void update(const Rule& rule, const Around<T>& around, T g, T& w, T* states) {
  const T pull = around.template pull<extent>(w, g);
  if constexpr (extent != rule_alone) w = around.decayed(w);
  rule(w, pull, states);
  if constexpr (fades_of<Rule>() != 0)
    for (int k = 0; k < Rule::states; ++k)
      if (fades_of<Rule>() >> k & 1) states[k] = faded(states[k], pull);
  if constexpr (extent == everything) w = around.shrink(w);
}

template <class T, class Extras>
POPGRAD_HD Around<T> around_of(const Extras* e) {
  return e ? Around<T>{T(e->scale), T(e->clip), T(e->l2), T(e->decay), T(e->l1), T(e->mix)} : Around<T>{};
}

}  // namespace popgrad::POPGRAD_TARGET
