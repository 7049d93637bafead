// What the sources of one instruction set define for its table.
#pragma once

#include "../kernels/activations.h"
#include "../kernels/layer_rules.h"
#include "../kernels/losses.h"
#include "../kernels/move_rules.h"
#include "../kernels/step_rules.h"
#include "../table.h"

namespace popgrad::POPGRAD_TARGET {

#define POPGRAD_ONE(...) +1
inline constexpr int step_count = 0 STEP_RULES(POPGRAD_ONE) LAYER_RULES(POPGRAD_ONE);
inline constexpr int move_count = 0 MOVE_RULES(POPGRAD_ONE);
inline constexpr int activation_count = 0 ACTIVATIONS(POPGRAD_ONE);
inline constexpr int score_count = 0 SCORES(POPGRAD_ONE);
#undef POPGRAD_ONE

extern const StepRule step_rules[step_count];  // elementwise.cpp
extern const StepRule plain_rules[most_states + 1];
extern const MoveRule move_rules[move_count];
extern const RowFns<float> rows_f32;
extern const RowFns<double> rows_f64;
extern const NoiseFns<float> noise_f32;  // noise.cpp
extern const NoiseFns<double> noise_f64;

void shuffle(uint64_t seed, uint32_t stream, uint32_t generation, int64_t n, int64_t* out);
double beta(uint64_t seed, uint32_t stream, uint32_t generation, double alpha);

extern const GradientFns<float> gradient_f32;  // gradient.cpp
extern const GradientFns<double> gradient_f64;

extern const Kernels kernels;  // network.cpp

}  // namespace popgrad::POPGRAD_TARGET
