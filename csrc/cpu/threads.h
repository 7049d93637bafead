// A pool of threads that survives a fork. Work is cut into items by the caller, never by the number of
// threads, so results do not depend on it.
#pragma once

#include <cstdint>

namespace popgrad {

// Threads that a call may use: POPGRAD_NUM_THREADS, or the cores that this process may run on, limited by
// OMP_NUM_THREADS.
int thread_count();
void set_thread_count(int count);  // throws std::invalid_argument unless 1 <= count <= 1024

using Body = void (*)(const void* context, int64_t item);
void run_items(int64_t items, double operations, Body body, const void* context);

// Calls body(item) for every item in [0, items), on several threads when `operations` in all are worth waking
// them for. A call from inside a body, or beside another call, runs on its own thread alone.
// Arithmetic rounds to the nearest and knows denormal numbers, whatever the caller has set: all threads do the same.
template <class F>
void parallel(int64_t items, double operations, const F& body) {
  run_items(
      items, operations, [](const void* context, int64_t item) { (*static_cast<const F*>(context))(item); }, &body);
}

// What a thread that called parallel() does now and then between two items, every millisecond or so; null: nothing. It
// may throw, which ends the call. Other threads' items, and those inside of items, go on to their ends.
using BetweenItems = void (*)();
extern constinit thread_local BetweenItems between_items;

}  // namespace popgrad
