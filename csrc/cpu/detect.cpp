#include "detect.h"

#include <cstdlib>
#include <stdexcept>

#include "targets.h"  // generated: POPGRAD_TARGETS(X), POPGRAD_BFLOAT16_TARGETS(X)

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace popgrad {

#define X(target)               \
  namespace target {            \
  extern const Kernels kernels; \
  }
POPGRAD_TARGETS(X)
#undef X
#define X(target)                    \
  namespace target {                 \
  extern const Bfloat16Fns bfloat16; \
  }
POPGRAD_BFLOAT16_TARGETS(X)
#undef X

namespace {

[[maybe_unused]] bool runs_baseline() { return true; }
#if defined(__x86_64__)
[[maybe_unused]] bool runs_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
[[maybe_unused]] bool runs_avx512() {
  return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
[[maybe_unused]] bool runs_avx512bf16() { return runs_avx512() && __builtin_cpu_supports("avx512bf16"); }

// Linux, from 5.16 on, grants tiles to all threads of a process that asks for them; other systems do not.
constexpr int tile_data = 18;
[[maybe_unused]] bool runs_amx() {
#if defined(__linux__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned bfloat16 = 1u << 22, tiles = 1u << 24;  // in EDX of leaf 7
  if (!runs_avx512bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & bfloat16) || !(d & tiles)) return false;
  constexpr long get_supported = 0x1021;
  unsigned long supported = 0;
  return syscall(SYS_arch_prctl, get_supported, &supported) == 0 && (supported >> tile_data & 1u);
#else
  return false;
#endif
}
#endif

std::vector<Target>& all_targets() {
  // Never destroyed: threads may still run its kernels when the process ends.
  static std::vector<Target>& made = *new std::vector<Target>([] {
    std::vector<Target> all;
#define X(target) all.push_back({#target, &target::kernels, nullptr, runs_##target()});
    POPGRAD_TARGETS(X)
#undef X
    [[maybe_unused]] const Kernels* const last = all.back().kernels;
#define X(target) all.push_back({#target, last, &target::bfloat16, runs_##target()});
    POPGRAD_BFLOAT16_TARGETS(X)
#undef X
    return all;
  }());
  return made;
}

// Whether a supported target can be used now: the system may refuse tiles, for example if a thread's signal stack is
// too small.
bool usable(const Target& target) {
#if defined(__x86_64__) && defined(__linux__)
  constexpr long request_permission = 0x1023;
  if (std::string(target.name) == "amx" && syscall(SYS_arch_prctl, request_permission, tile_data) != 0) return false;
#endif
  return !target.bfloat16 || target.bfloat16->works();
}

}  // namespace

const std::vector<Target>& targets() { return all_targets(); }

const Target& pick_target() {
  const char* const forced = std::getenv("POPGRAD_ISA");
  if (!forced || !*forced) {
    for (auto target = all_targets().rbegin(); target != all_targets().rend(); ++target)
      if (target->supported = target->supported && usable(*target); target->supported) return *target;
    return targets().front();  // the baseline always runs
  }
  std::string built;
  for (const Target& target : targets()) {
    if (std::string(forced) == target.name) {
      if (target.supported && usable(target)) return target;
      throw std::runtime_error("[popgrad] POPGRAD_ISA=" + std::string(forced) +
                               " was built, but this processor or system cannot run it; unset it or name another");
    }
    built += std::string(built.empty() ? "" : ", ") + target.name;
  }
  throw std::runtime_error("[popgrad] POPGRAD_ISA=" + std::string(forced) + " is not in this build; it holds " + built);
}

}  // namespace popgrad
