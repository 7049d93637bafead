// A pool of threads that survives a fork. Work is cut into items by the caller, never by the number of
// threads, so results do not depend on it.
#pragma once

#include <cstdint>

namespace popgrad {

// Threads that a call may use: POPGRAD_NUM_THREADS, or the cores this process may run on.
int thread_count();
void set_thread_count(int count);  // throws std::invalid_argument unless 1 <= count <= 1024

using Body = void (*)(const void* context, int64_t item);
void run_items(int64_t items, Body body, const void* context, bool threaded);

// Calls body(item) for every item in [0, items), on several threads when `operations` in all are worth waking
// them for. A call from inside a body, or beside another call, runs on its own thread alone.
template <class F>
void parallel(int64_t items, double operations, const F& body) {
  constexpr double worth_waking =
      3e5;  // about 20 microseconds of arithmetic; to wake a thread that sleeps costs 5 to 50
  run_items(
      items, [](const void* context, int64_t item) { (*static_cast<const F*>(context))(item); }, &body,
      operations > worth_waking);
}

}  // namespace popgrad
