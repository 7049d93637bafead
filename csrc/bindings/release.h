// Python's lock, given up while a kernel runs.
#pragma once

#include <Python.h>

#include <chrono>

namespace popgrad::bindings {

// For as long as this lives. Where Python ends meanwhile, which it does beside threads that are daemons, the thread
// stops here for good, as it would in Python 3.14 by itself; before, it would be unwound, and that ends the process.
class Released {
 public:
  Released() : state_(PyEval_SaveThread()) {}
  ~Released() { take(); }
  Released(const Released&) = delete;

 protected:
  void take() const;
  void give() { state_ = PyEval_SaveThread(); }

 private:
  PyThreadState* state_;
};

// The same, and what a handler of a signal raises, KeyboardInterrupt most of all, ends the kernel: for kernels that
// change nothing but their output. Handlers run in Python's main thread only.
class Interruptible : Released {
 public:
  Interruptible();
  ~Interruptible();

 private:
  using Clock = std::chrono::steady_clock;
  static void look();

  Interruptible* const outer_;
  Clock::time_point next_;
};

}  // namespace popgrad::bindings
