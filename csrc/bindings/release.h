// Python's lock, given up while a kernel runs.
#pragma once

#include <Python.h>

#include <chrono>

namespace popgrad::bindings {

// Releases the GIL for its lifetime. If Python shuts down meanwhile, as it does with daemon threads, the thread stops
// here forever. Python 3.14 does this itself; earlier versions unwind the thread, which ends the process.
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

// The same, and an exception raised by a signal handler, such as KeyboardInterrupt, ends the kernel. For kernels that
// change only their output. Handlers run in Python's main thread only.
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
