#include "threads.h"

#include <pthread.h>
#if defined(__linux__)
#include <sched.h>
#endif

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>

namespace popgrad {
namespace {

int available_cores() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
#endif
  const unsigned cores = std::thread::hardware_concurrency();
  return cores > 0 ? int(cores) : 1;
}

int first_count() {
  const char* const text = std::getenv("POPGRAD_NUM_THREADS");
  if (!text || !*text) return available_cores();
  int count = 0;
  const char* const end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, count);
  if (error != std::errc() || stop != end || count < 1 || count > 1024)
    throw std::invalid_argument("[popgrad] POPGRAD_NUM_THREADS must be a whole number from 1 to 1024, got '" +
                                std::string(text) + "'");
  return count;
}

std::atomic<int>& count_setting() {
  static std::atomic<int> count{first_count()};
  return count;
}

// Items are dealt out in shares that lie side by side, one for each thread, so that the same call finds the same memory
// near the same thread; who is done with its own share takes from the others'.
struct Job {
  static constexpr int most_shares = 64;  // more threads begin with another's share
  struct alignas(64) Next {
    std::atomic<int64_t> item;
  };

  const int64_t items;
  const Body body;
  const void* const context;
  const int shares;
  Next next[most_shares];
  std::exception_ptr error{};
  std::mutex error_lock{};

  Job(int64_t items_in, Body body_in, const void* context_in, int threads)
      : items(items_in), body(body_in), context(context_in), shares(std::min(threads, most_shares)) {
    for (int k = 0; k < shares; ++k) next[k].item.store(first(k), std::memory_order_relaxed);
  }
  int64_t first(int share) const { return items / shares * share + std::min<int64_t>(items % shares, share); }

  void work(int thread) {
    try {
      for (int k = 0; k < shares; ++k) {
        const int share = (thread + k) % shares;
        const int64_t end = first(share + 1);
        for (int64_t i; (i = next[share].item.fetch_add(1, std::memory_order_relaxed)) < end;) body(context, i);
      }
    } catch (...) {
      const std::lock_guard lock(error_lock);
      if (!error) error = std::current_exception();
      for (int k = 0; k < shares; ++k) next[k].item = items;
    }
  }
};

thread_local bool inside = false;  // a body that calls run_items again finds itself here

class Pool {
 public:
  std::mutex use;  // one job at a time

  void run(Job& job, int helpers) {
    bool sleepers;
    {
      const std::lock_guard lock(mutex_);
      try {
        for (; threads_ < helpers; ++threads_) std::thread([this, number = threads_] { serve(number); }).detach();
      } catch (const std::system_error&) {
        helpers = threads_;  // the system has no more threads to give: fewer do the work
      }
      job_ = &job;
      invited_ = helpers;
      busy_ = helpers;
      ++ticket_;
      sleepers = sleepers_ > 0;
    }
    if (sleepers) wake_.notify_all();
    job.work(0);
    if (soon([this] { return busy_ == 0; })) return;
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return busy_ == 0; });
  }

 private:
  // Whether it comes true within some fifty microseconds: to sleep and to be woken takes as long, and in training the
  // next call is often that near. Threads that yield meanwhile end up on one processor, on which they take turns.
  template <class F>
  static bool soon(const F& condition) {
    using Clock = std::chrono::steady_clock;
    const auto end = Clock::now() + std::chrono::microseconds(50);
    do {
      for (int k = 0; k < 32; ++k) {
        if (condition()) return true;
        pause();
      }
    } while (Clock::now() < end);
    return condition();
  }

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  void serve(int number) {
    uint64_t seen = 0;
    for (;;) {
      const bool awake = soon([&] { return ticket_ != seen; });
      std::unique_lock lock(mutex_);
      if (!awake) {
        ++sleepers_;
        wake_.wait(lock, [&] { return ticket_ != seen; });
        --sleepers_;
      }
      seen = ticket_;
      if (number >= invited_) continue;
      Job* const job = job_;  // there until every thread that was invited has come and gone
      lock.unlock();
      inside = true;
      job->work(number + 1);
      if (--busy_ == 0) {
        lock.lock();  // so that it cannot fall between the other's look and its sleep
        done_.notify_one();
      }
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  Job* job_ = nullptr;
  std::atomic<uint64_t> ticket_ = 0;
  std::atomic<int> busy_ = 0;
  int threads_ = 0, invited_ = 0, sleepers_ = 0;
};

// Never destroyed: its threads may still wait when the process ends. A forked child has none of the threads
// and perhaps locked mutexes, so it starts with a pool of its own and leaves the old one where it is.
std::atomic<Pool*> pool{nullptr};

Pool& current_pool() {
  static const int registered = pthread_atfork(nullptr, nullptr, [] { pool = nullptr; });
  (void)registered;
  Pool* found = pool.load();
  if (found) return *found;
  Pool* const made = new Pool;
  if (pool.compare_exchange_strong(found, made)) return *made;
  delete made;
  return *found;
}

}  // namespace

int thread_count() { return count_setting().load(); }

void set_thread_count(int count) {
  if (count < 1 || count > 1024)
    throw std::invalid_argument("[set_num_threads] expected a whole number from 1 to 1024, got " +
                                std::to_string(count));
  count_setting() = count;
}

void run_items(int64_t items, Body body, const void* context, bool threaded) {
  const int64_t wanted = std::min<int64_t>(thread_count(), items);
  if (threaded && wanted > 1 && !inside) {
    Pool& shared = current_pool();
    if (std::unique_lock use(shared.use, std::try_to_lock); use.owns_lock()) {
      const struct Inside {
        Inside() { inside = true; }
        ~Inside() { inside = false; }
      } mark;
      Job job(items, body, context, int(wanted));
      shared.run(job, int(wanted) - 1);
      if (job.error) std::rethrow_exception(job.error);
      return;
    }
  }
  for (int64_t i = 0; i < items; ++i) body(context, i);
}

}  // namespace popgrad
