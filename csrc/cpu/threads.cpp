#include "threads.h"

#include <dlfcn.h>
#include <pthread.h>
#if defined(__linux__)
#include <sched.h>
#endif

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <fstream>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>

#include "float_mode.h"

namespace popgrad {
namespace {

int available_cores() {
  int cores = std::max(1, int(std::thread::hardware_concurrency()));
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0) cores = CPU_COUNT(&set);
  // A container's share of the processors: "max 100000", or microseconds in each so many.
  double share = 0, period = 0;
  if (std::ifstream("/sys/fs/cgroup/cpu.max") >> share >> period && share > 0 && period > 0)
    cores = int(std::min(double(cores), std::ceil(share / period)));
#endif
  return cores;
}

// Process pools such as joblib's share the cores out between their workers by OMP_NUM_THREADS. It may list one number
// for each level of nested parallelism; the first counts. Whatever else it holds is not for us to judge.
int shared_out_cores() {
  const int cores = available_cores();
  const char* const text = std::getenv("OMP_NUM_THREADS");
  int count = 0;
  if (!text || std::from_chars(text, text + std::strlen(text), count).ec != std::errc() || count < 1) return cores;
  return std::min(count, cores);
}

int first_count() {
  const char* const text = std::getenv("POPGRAD_NUM_THREADS");
  if (!text || !*text) return shared_out_cores();
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

// Calls between_items about as often as ten million operations take, in one call of parallel() or in many.
class Look {
 public:
  Look(int64_t items, double operations)
      : look_(between_items), each_(operations / double(std::max<int64_t>(items, 1))) {}
  void operator()() {
    if (!look_ || (unseen_ += each_) < 1e7) return;
    unseen_ = 0;
    look_();
  }

 private:
  static thread_local double unseen_;  // operations
  const BetweenItems look_;
  const double each_;
};
constinit thread_local double Look::unseen_ = 0;

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

  void work(int thread, Look* look) {
    try {
      for (int k = 0; k < shares; ++k) {
        const int share = (thread + k) % shares;
        const int64_t end = first(share + 1);
        for (int64_t i; (i = next[share].item.fetch_add(1, std::memory_order_relaxed)) < end;) {
          body(context, i);
          if (look) (*look)();
        }
      }
    } catch (...) {
      const std::lock_guard lock(error_lock);
      if (!error) error = std::current_exception();
      for (int k = 0; k < shares; ++k) next[k].item = items;
    }
  }
};

thread_local bool inside = false;     // a body that calls run_items again finds itself here
thread_local bool borrowing = false;  // see Borrowing

// How many forks lie between this process and the one that loaded the library.
std::atomic<int> forks = 0;

class Pool {
 public:
  std::mutex use;  // one job at a time

  void run(Job& job, int helpers, Look* look) {
    const int generation = forks;
    {
      const std::lock_guard lock(mutex_);
      try {
        while (int(helpers_.size()) < helpers) {
          helpers_.emplace_back();
          std::thread([this, number = int(helpers_.size()) - 1] { serve(number); }).detach();
        }
      } catch (const std::system_error&) {
        helpers_.pop_back();
        helpers = int(helpers_.size());  // the system has no more threads to give: fewer do the work
      }
      job_ = &job;
      call_ = ++ticket_ * most_helpers + uint64_t(helpers);
    }
    for (int k = 0; k < helpers; ++k)
      if (helpers_[size_t(k)].asleep) helpers_[size_t(k)].wake.notify_one();
    job.work(0, look);
    if (forks != generation)  // by what looked between items; the helpers, and what they had begun, are not here
      throw std::runtime_error("[popgrad] this process was forked in the middle of a call, and cannot go on with it");
    {
      const std::lock_guard lock(mutex_);
      call_ = ticket_ * most_helpers;  // all is done or being done: who has not come may have no processor to run on
    }
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
    set_float_mode(plain_floats);
    inside = true;
    Helper* own;
    {
      const std::lock_guard lock(mutex_);
      own = &helpers_[size_t(number)];
    }
    uint64_t seen = 0;
    const auto called = [&] {
      const uint64_t call = call_;
      return call / most_helpers != seen && uint64_t(number) < call % most_helpers;
    };
    for (;;) {
      const bool awake = soon(called);
      std::unique_lock lock(mutex_);
      if (!awake) {
        own->asleep = true;
        own->wake.wait(lock, called);
        own->asleep = false;
      }
      if (!called()) continue;  // called off meanwhile
      seen = ticket_;
      Job* const job = job_;  // there until every thread that came has gone
      ++busy_;
      lock.unlock();
      job->work(number + 1, nullptr);
      if (--busy_ == 0) {
        lock.lock();  // so that it cannot fall between the other's look and its sleep
        done_.notify_one();
      }
    }
  }

  // Each sleeps by itself: a job for two threads wakes one, however many there are.
  struct Helper {
    std::condition_variable wake{};
    std::atomic<bool> asleep = false;
  };
  static constexpr uint64_t most_helpers = 1 << 11;

  std::mutex mutex_;
  std::condition_variable done_;
  std::deque<Helper> helpers_;
  Job* job_ = nullptr;
  uint64_t ticket_ = 0;
  std::atomic<uint64_t> call_ = 0;  // ticket_ * most_helpers + the helpers that are called, the first ones
  std::atomic<int> busy_ = 0;
};

// Entry points of an OpenMP runtime, either GNU's or LLVM's.
struct OpenMP {
  void (*parallel)(void (*body)(void*), void* context, unsigned threads, unsigned flags);  // GOMP_parallel
  int (*thread)();                                                                         // omp_get_thread_num
  int (*most_threads)();                                                                   // omp_get_max_threads
};
std::atomic<const OpenMP*> openmp{nullptr};

// Runs the job on the OpenMP team of this thread. The team has the size that the runtime's owner uses, because the
// runtime would end or start threads for any other size. Threads beyond `threads` return at once. The runtime may also
// supply fewer threads: those take over all shares of the job.
void run_on(const OpenMP& runtime, Job& job, int threads) {
  struct Context {
    const OpenMP& runtime;
    Job& job;
    const int threads;
  } context{runtime, job, threads};
  runtime.parallel(
      [](void* given) {
        const auto& [runtime, job, threads] = *static_cast<Context*>(given);
        const int thread = runtime.thread();
        if (thread >= threads) return;
        const WithFloatMode mode(plain_floats);
        const bool before = std::exchange(inside, true);
        job.work(thread, nullptr);
        inside = before;
      },
      &context, unsigned(runtime.most_threads()), 0);
}

// Never destroyed: its threads may still wait when the process ends.
std::atomic<Pool*> pool{nullptr};

// A forked child has only the thread that forked, and mutexes of the pool may be locked. The child leaves the old pool
// where it is and makes a new one. It never borrows threads: GNU's OpenMP waits forever for threads that a fork lost.
[[maybe_unused]] const int fork_handler = pthread_atfork(nullptr, nullptr, [] {
  pool = nullptr;
  openmp = nullptr;
  inside = borrowing = false;
  ++forks;
});

Pool& current_pool() {
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

constinit thread_local BetweenItems between_items = nullptr;

bool borrow_threads(const char* library) {
  static std::mutex one_at_a_time;
  static OpenMP found;
  const std::lock_guard lock(one_at_a_time);
  if (forks > 0) return false;
  if (openmp) return true;
  void* const handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
  if (!handle) return false;
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(handle, name));
    return function != nullptr;
  };
  if (find(found.parallel, "GOMP_parallel") && find(found.thread, "omp_get_thread_num") &&
      find(found.most_threads, "omp_get_max_threads"))
    openmp = &found;
  else
    dlclose(handle);
  return openmp;  // and the handle stays open, so that the runtime is never unloaded
}

Borrowing::Borrowing() : before_(std::exchange(borrowing, true)) {}
Borrowing::~Borrowing() { borrowing = before_; }

void run_items(int64_t items, double operations, Body body, const void* context) {
  // About 20 microseconds of arithmetic, for each thread; to wake one that sleeps costs 5 to 50.
  constexpr double worth_waking = 3e5;
  if (inside) {
    for (int64_t i = 0; i < items; ++i) body(context, i);
    return;
  }
  const struct Inside {
    WithFloatMode mode{plain_floats};
    Inside() { inside = true; }
    ~Inside() { inside = false; }
  } mark;
  Look look(items, operations);
  const double useful = 1 + operations / worth_waking;
  const int64_t wanted = std::min({int64_t(thread_count()), items, useful < 1024 ? int64_t(useful) : 1024});
  if (wanted > 1) {
    Pool& shared = current_pool();
    if (std::unique_lock use(shared.use, std::try_to_lock); use.owns_lock()) {
      Job job(items, body, context, int(wanted));
      const OpenMP* const runtime = borrowing && !between_items ? openmp.load() : nullptr;
      if (runtime && runtime->most_threads() > 1)  // it has spinning threads; more of our own would only add to them
        run_on(*runtime, job, int(wanted));
      else
        shared.run(job, int(wanted) - 1, &look);
      if (job.error) std::rethrow_exception(job.error);
      return;
    }
  }
  for (int64_t i = 0; i < items; ++i) {
    body(context, i);
    look();
  }
}

}  // namespace popgrad
