// The streams of random numbers: two purposes never share one. A stream is the first of the words, besides the seed,
// that random numbers are a function of (kernels/random.h).
#pragma once

#include <stdint.h>

// X(name, number). The numbers are part of every result: a change gives other bits.
#define STREAMS(X)                                                                                   \
  X(INITIALIZE, 1)        /* the weights of a model */                                               \
  X(START, 2)             /* the first population of a search */                                     \
  X(MOVE, 3)              /* every later population */                                               \
  X(SHUFFLE, 4)           /* the order of samples in an epoch */                                     \
  X(CHOOSE, 5)            /* O(P) decisions of a search; drawn by NumPy's Philox */                  \
  X(DIVIDE, 6)            /* which samples are held out; drawn by NumPy's Philox */                  \
  X(LABELS, 7)            /* labels from a model's own predictions; drawn by NumPy's Philox */       \
  X(PERTURB, 8)           /* candidates of a population that is not stored */                        \
  X(RACE, 9)              /* the order of samples in a race; drawn by NumPy's Philox */              \
  X(BOUNDS, 10)           /* candidates that a reflection does not bring back within their bounds */ \
  X(BOOTSTRAP, 11)        /* samples drawn with replacement; drawn by NumPy's Philox */              \
  X(NOISE, 13)            /* noise on the inputs of training gradients */                            \
  X(MIXUP, 14)            /* the partners of a batch, and how much of them is mixed in */            \
  X(GRADIENT, 16)         /* noise that is added to gradients */                                     \
  X(DROPOUT, 0xD0000000u) /* the masks of the first layer; those of layer l are in DROPOUT + l */

namespace popgrad {

#define X(name, number) name = number,
enum class Stream : uint32_t { STREAMS(X) };
#undef X

}  // namespace popgrad
