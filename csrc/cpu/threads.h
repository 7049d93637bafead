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

// Finds the OpenMP runtime (libgomp, or libiomp5 and libomp, which export the same functions) that is, or that is
// linked by, the loaded library of this name. Threads of a runtime spin for a while after its last parallel region.
// They would compete with the pool for the processors, so a call that follows such a region borrows them instead.
// Returns whether there are threads to borrow: false if no such library is loaded, and in a process that was forked.
bool borrow_threads(const char* library);

// While an object of this class lives, calls of parallel() by this thread run on borrowed threads, if there are any.
// The partition into items and the order of sums stay the same, hence so do the bits. A call with `between_items` never
// borrows: it may run a signal handler that forks, which OpenMP does not survive.
class Borrowing {
 public:
  Borrowing();
  ~Borrowing();
  Borrowing(const Borrowing&) = delete;

 private:
  const bool before_;
};

}  // namespace popgrad
