#include "release.h"

#include <pybind11/pybind11.h>
#include <unistd.h>

#include "../cpu/threads.h"

namespace popgrad::bindings {

namespace {

constexpr auto patience = std::chrono::milliseconds(50);  // to take the lock may take 5 ms if another thread is busy
constinit thread_local Interruptible* current = nullptr;

}  // namespace

void Released::take() const {
  try {
    PyEval_RestoreThread(state_);
  } catch (...) {  // pthread_exit unwinds the thread, which no destructor here survives
    for (;;) pause();
  }
}

Interruptible::Interruptible() : outer_(current), next_(Clock::now() + patience) {
  current = this;
  between_items = look;
}

Interruptible::~Interruptible() {
  current = outer_;
  between_items = outer_ ? look : nullptr;
}

void Interruptible::look() {
  if (Clock::now() < current->next_) return;
  current->take();
  const bool raised = PyErr_CheckSignals() != 0;
  if (raised) {
    const pybind11::error_already_set error;  // fetches the exception, which needs the lock
    current->give();
    throw error;
  }
  current->give();
  current->next_ = Clock::now() + patience;
}

}  // namespace popgrad::bindings
