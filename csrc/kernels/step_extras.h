// What any update rule can have done in its sweep, around the rule: see StepExtras in table.h for the order.
#pragma once

#include "math.h"

namespace popgrad::POPGRAD_TARGET {

template <class T>
struct Around {
  T scale, clip, l2, decay, l1, mix;

  POPGRAD_HD T gradient(T w, T g) const {
    g = g * scale;
    g = g > clip ? clip : g < -clip ? -clip : g;  // NaN passes
    return g + l2 * w;
  }
  // The same where nothing is clipped.
  POPGRAD_HD T unclipped(T w, T g) const { return g * scale + l2 * w; }
  // 1 - decay as one factor would be rounded to float, by as much as a small decay changes in twenty steps.
  POPGRAD_HD T decayed(T w) const { return w - decay * w; }
  // The proximal step of l1 |w|: soft thresholding.
  POPGRAD_HD T shrink(T w) const { return w > l1 ? w - l1 : w < -l1 ? w + l1 : w != w || l1 == T(0) ? w : T(0); }
};

template <class T, class Extras>
Around<T> around_of(const Extras* e) {
  return e ? Around<T>{T(e->scale), T(e->clip), T(e->l2), T(e->decay), T(e->l1), T(e->mix)} : Around<T>{};
}

}  // namespace popgrad::POPGRAD_TARGET
