// A thread's rounding mode and its treatment of denormal numbers. Everything has internal linkage, so that the linker
// cannot merge code between instruction sets, see csrc/README.md.
#pragma once

namespace popgrad {
namespace {

#if defined(__SSE2__)
using FloatMode = unsigned;
inline FloatMode float_mode() { return __builtin_ia32_stmxcsr(); }
inline void set_float_mode(FloatMode mode) { __builtin_ia32_ldmxcsr(mode); }
constexpr FloatMode plain_floats = 0x1F80, no_denormals = 0x8040;  // flush to zero, denormals are zeros
#elif defined(__aarch64__)
using FloatMode = unsigned long;
inline FloatMode float_mode() {
  FloatMode mode;
  asm volatile("mrs %0, fpcr" : "=r"(mode));
  return mode;
}
inline void set_float_mode(FloatMode mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
constexpr FloatMode plain_floats = 0, no_denormals = 1ul << 24;
#else
using FloatMode = unsigned;
inline FloatMode float_mode() { return 0; }
inline void set_float_mode(FloatMode) {}
constexpr FloatMode plain_floats = 0, no_denormals = 0;
#endif

// Sets a mode for the lifetime of the object.
class WithFloatMode {
 public:
  explicit WithFloatMode(FloatMode mode) { set_float_mode(mode); }
  ~WithFloatMode() { set_float_mode(before_); }
  WithFloatMode(const WithFloatMode&) = delete;

 private:
  FloatMode before_ = float_mode();
};

}  // namespace
}  // namespace popgrad
