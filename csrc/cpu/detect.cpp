#include "detect.h"

#include <cstdlib>
#include <stdexcept>

#include "targets.h"  // generated: POPGRAD_TARGETS(X), POPGRAD_HALF_TARGETS(X)

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
#define X(target)            \
  namespace target {         \
  extern const HalfFns half; \
  }
POPGRAD_HALF_TARGETS(X)
#undef X

namespace {

[[maybe_unused]] bool runs_baseline() { return true; }
#if defined(__x86_64__)
// Bits of CPUID's leaf 7 for which compilers have no name yet.
enum Register { eax_register, ebx_register, ecx_register, edx_register };
bool has_feature(unsigned subleaf, Register which, int bit) {
  unsigned found[4] = {};
  return __get_cpuid_count(7, subleaf, &found[0], &found[1], &found[2], &found[3]) && (found[which] >> bit & 1u);
}
[[maybe_unused]] bool runs_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
[[maybe_unused]] bool runs_avx512() {
  return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
[[maybe_unused]] bool runs_avx512bf16() { return runs_avx512() && has_feature(1, eax_register, 5); }
[[maybe_unused]] bool runs_amx() {
  if (!runs_avx512bf16() || !has_feature(0, edx_register, 22) || !has_feature(0, edx_register, 24)) return false;
#if defined(__linux__)
  // The system saves the tiles of a process that has asked for it (Linux 5.16), for threads of now and later.
  constexpr long request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}
#endif

}  // namespace

const std::vector<Target>& targets() {
  static const std::vector<Target> all = [] {
    std::vector<Target> all;
#define X(target) all.push_back({#target, &target::kernels, nullptr, runs_##target()});
    POPGRAD_TARGETS(X)
#undef X
    [[maybe_unused]] const Kernels* const last = all.back().kernels;
#define X(target) all.push_back({#target, last, &target::half, runs_##target()});
    POPGRAD_HALF_TARGETS(X)
#undef X
    return all;
  }();
  return all;
}

const Target& pick_target() {
  const char* const forced = std::getenv("POPGRAD_ISA");
  if (!forced || !*forced) {
    const Target* best = nullptr;
    for (const Target& target : targets())
      if (target.supported) best = &target;
    return *best;  // the baseline always runs
  }
  std::string built;
  for (const Target& target : targets()) {
    if (std::string(forced) == target.name) {
      if (target.supported) return target;
      throw std::runtime_error("[popgrad] POPGRAD_ISA=" + std::string(forced) +
                               " was built, but this processor cannot run it; unset it or name another");
    }
    built += std::string(built.empty() ? "" : ", ") + target.name;
  }
  throw std::runtime_error("[popgrad] POPGRAD_ISA=" + std::string(forced) + " is not in this build; it holds " + built);
}

}  // namespace popgrad
