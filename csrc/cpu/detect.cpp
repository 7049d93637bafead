#include "detect.h"

#include <cstdlib>
#include <stdexcept>

#include "targets.h"  // generated: POPGRAD_TARGETS(X)

namespace popgrad {

#define X(target)               \
  namespace target {            \
  extern const Kernels kernels; \
  }
POPGRAD_TARGETS(X)
#undef X

namespace {

[[maybe_unused]] bool runs_baseline() { return true; }
#if defined(__x86_64__)
[[maybe_unused]] bool runs_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
[[maybe_unused]] bool runs_avx512() {
  return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
#endif

}  // namespace

const std::vector<Target>& targets() {
#define X(target) {&target::kernels, runs_##target()},
  static const std::vector<Target> all = {POPGRAD_TARGETS(X)};
#undef X
  return all;
}

const Kernels& pick_kernels() {
  const char* const forced = std::getenv("POPGRAD_ISA");
  if (!forced || !*forced) {
    const Kernels* best = nullptr;
    for (const Target& target : targets())
      if (target.supported) best = target.kernels;
    return *best;  // the baseline always runs
  }
  std::string built;
  for (const Target& target : targets()) {
    if (std::string(forced) == target.kernels->name) {
      if (target.supported) return *target.kernels;
      throw std::runtime_error("[popgrad] POPGRAD_ISA=" + std::string(forced) +
                               " was built, but this processor cannot run it; unset it or name another");
    }
    built += std::string(built.empty() ? "" : ", ") + target.kernels->name;
  }
  throw std::runtime_error("[popgrad] POPGRAD_ISA=" + std::string(forced) + " is not in this build; it holds " + built);
}

}  // namespace popgrad
