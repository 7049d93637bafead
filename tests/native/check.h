// The whole test framework: a check that fails prints where and what, and the program ends with 1.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <sstream>

// CHECK(condition, "name", value, ...): the pairs after the condition are printed when it does not hold.
#define CHECK(condition, ...) \
  if (!(condition)) popgrad::test::fail(__FILE__, __LINE__, #condition __VA_OPT__(, ) __VA_ARGS__)

namespace popgrad::test {

template <class... Values>
[[noreturn]] void fail(const char* file, int line, const char* condition, const Values&... values) {
  std::ostringstream text;
  text.precision(17);
  text << file << ":" << line << ": " << condition;
  ((text << " " << values), ...);
  std::fprintf(stderr, "%s\n", text.str().c_str());
  std::exit(1);
}

[[noreturn]] inline void skip(const char* reason) {
  std::printf("skipped: %s\n", reason);
  std::exit(77);
}

}  // namespace popgrad::test
