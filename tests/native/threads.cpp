// The pool of threads: every item once, errors, nested and concurrent calls, and a fork while it runs.
#include "cpu/threads.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <stdexcept>
#include <string>
#include <thread>

#include "api.h"
#include "cpu/float_mode.h"
#include "support.h"

using namespace popgrad;
using namespace popgrad::test;

namespace {

template <class F>
void run(int64_t items, const F& body) {
  parallel(items, 9e7, body);
}

// The sum of 0 .. items - 1, in a way that shows an item done twice or never.
int64_t count_items(int64_t items) {
  std::vector<std::atomic<int>> done(size_t(items) + 1);
  run(items, [&](int64_t i) { ++done[size_t(i)]; });
  int64_t sum = 0;
  for (int64_t i = 0; i < items; ++i) {
    CHECK(done[size_t(i)] == 1, "item", i, "of", items, "was done", done[size_t(i)].load(), "times");
    sum += i;
  }
  CHECK(done[size_t(items)] == 0);
  return sum;
}

template <class F>
std::string message_of(const F& f) {
  try {
    f();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

// A computation of the library that is split over threads. Its bits are known to be the same for any number.
std::vector<float> long_step() {
  const StepRule& rule = kernels().steps[0];
  std::vector<float> w(400'000, 1.0f), g(w.size());
  for (size_t i = 0; i < g.size(); ++i) g[i] = float(i % 97);
  const double fields[most_fields] = {0.1};
  StepArgs<float> args{};
  args.w = w.data(), args.g = g.data(), args.n = w.size(), args.fields = fields;
  step(rule, &args, 1);
  return w;
}

// Forks, runs `child` there, and gives its exit status; a child that hangs is ended and counts as -1.
template <class F>
int in_child(const F& child) {
  const pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) _exit(child() ? 0 : 3);
  for (int i = 0; i < 3000; ++i) {
    int status = 0;
    const pid_t ended = waitpid(pid, &status, WNOHANG);
    CHECK(ended >= 0);
    if (ended == pid) return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  return -1;
}

}  // namespace

int main() {
  require_forced_target();
  for (const int threads : {1, 2, 3, 8, 5}) {
    set_thread_count(threads);
    CHECK(thread_count() == threads);
    for (const int64_t items : {0, 1, 2, 3, 7, 8, 9, 1000})
      for (int repeat = 0; repeat < 20; ++repeat) count_items(items);
  }
  for (const int bad : {0, -1, 1025})
    CHECK(message_of([&] { set_thread_count(bad); }).find(std::to_string(bad)) != std::string::npos, bad);
  CHECK(thread_count() == 5);

  // They are really several, and not more than asked for.
  set_thread_count(4);
  std::atomic<int> inside{0}, most{0};
  run(16, [&](int64_t) {
    const int now = ++inside;
    for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    --inside;
  });
  CHECK(most >= 1 && most <= 4, most.load());
  // A body that waits for another item's body ends only if there is a second thread.
  std::atomic<int> arrived{0};
  run(2, [&](int64_t) {
    ++arrived;
    for (int i = 0; i < 3000 && arrived < 2; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  });
  CHECK(arrived == 2);
  const auto caller = std::this_thread::get_id();
  parallel(2, 1e3, [&](int64_t) { CHECK(caller == std::this_thread::get_id(), "too short to wake another"); });

  // An error in any item, on any thread, reaches the caller; what was not begun is dropped; the pool lives
  // on.
  for (const int threads : {1, 4}) {
    set_thread_count(threads);
    for (const int64_t culprit : {0, 1, 99, 199}) {
      std::atomic<int> done{0};
      const std::string message = message_of([&] {
        run(200, [&](int64_t i) {
          if (i == culprit) throw std::runtime_error("item " + std::to_string(i));
          ++done;
        });
      });
      CHECK(message == "item " + std::to_string(culprit), message);
      CHECK(done < 200, done.load());
      count_items(100);
    }
    CHECK(message_of([] { run(50, [](int64_t) { throw std::runtime_error("every"); }); }) == "every");
    count_items(100);
  }

  // What looks between items: on the caller's thread alone, not inside of items, as often as much work asks for, be it
  // one call or many.
  static std::atomic<int> looks;
  static std::thread::id looker;
  looks = 0, looker = caller;
  between_items = [] {
    CHECK(looker == std::this_thread::get_id());
    ++looks;
  };
  const auto sleepy = [](int64_t) {
    parallel(100, 1e9, [](int64_t) {});
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  };
  for (const int threads : {1, 4}) {
    set_thread_count(threads);
    const int before = looks;
    parallel(100, 1e6, sleepy);
    CHECK(looks <= before + 1, "a short call");
    parallel(100, 1e9, sleepy);
    CHECK(looks > before && looks <= before + 101, looks - before);
    const int after = looks;
    for (int k = 0; k < 1000; ++k) parallel(2, 2e5, [](int64_t) {});
    CHECK(looks >= after + 10 && looks <= after + 21, looks - after);
  }
  between_items = [] { throw std::runtime_error("enough"); };
  for (const int threads : {1, 4}) {
    set_thread_count(threads);
    std::atomic<int> done{0};
    const auto slow = [&](int64_t) {
      ++done;
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    };
    CHECK(message_of([&] { parallel(10'000, 1e9, slow); }) == "enough");
    CHECK(done < 10'000, done.load());
  }
  // It may also fork: the child cannot go on, since it has no helpers, and must not wait for them.
  static pid_t kid;
  kid = -1;
  between_items = [] {
    if (kid < 0 && (kid = fork()) == 0) alarm(20);
  };
  const std::string message = message_of([&] { parallel(1000, 1e9, sleepy); });
  between_items = nullptr;
  if (kid == 0) _exit(message.find("forked") != message.npos && count_items(100) == 4950 ? 0 : 3);
  CHECK(kid > 0 && message.empty(), message);
  int status = 0;
  CHECK(waitpid(kid, &status, 0) == kid && status == 0, status);
  count_items(100);

  // However the caller rounds, and whatever it makes of denormal numbers: all items do as the language has it.
  const FloatMode usual = float_mode();
#if defined(__SSE2__)
  const FloatMode upwards = 0x4000;
#else
  const FloatMode upwards = 0;
#endif
  for (const int threads : {1, 4}) {
    set_thread_count(threads);
    const WithFloatMode odd(usual | no_denormals | upwards);
    const FloatMode set = float_mode();
    std::atomic<int> right{0};
    parallel(64, 1e6, [&](int64_t) {
      volatile float least = 1.2e-38f, one = 1.0f, little = 1e-9f;
      right += least / 2 > 0 && one + little == one;
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    });
    CHECK(right == 64, threads, right.load());
    CHECK(float_mode() == set, "the caller's mode is as it was");
  }

  // A call from inside a body.
  std::atomic<int64_t> total{0};
  run(6, [&](int64_t) { run(10, [&](int64_t i) { run(3, [&](int64_t k) { total += i * k; }); }); });
  CHECK(total == 6 * 45 * 3, total.load());
  CHECK(message_of([] { run(4, [](int64_t) { run(4, [](int64_t) { throw std::runtime_error("inner"); }); }); }) ==
        "inner");
  count_items(100);

  // Calls from several threads at once, with the number of threads changing meanwhile.
  const std::vector<float> want = long_step();
  std::atomic<int> wrong{0};
  {
    std::vector<std::jthread> callers;
    for (int c = 0; c < 6; ++c)
      callers.emplace_back([&, c] {
        for (int repeat = 0; repeat < 10; ++repeat) {
          set_thread_count(1 + (c + repeat) % 5);
          if (long_step() != want || count_items(500) != 124'750) ++wrong;
        }
      });
  }
  CHECK(wrong == 0, wrong.load());

  // A fork of a process whose pool runs: the child has none of its threads, and makes its own.
  set_thread_count(4);
  count_items(100);
  const auto child = [&] { return long_step() == want && count_items(1000) == 499'500; };
  for (int repeat = 0; repeat < 5; ++repeat) CHECK(in_child(child) == 0, "fork", repeat);
  CHECK(in_child([&] { return child() && in_child(child) == 0; }) == 0, "a fork in a fork");
  {
    // While another thread is in the middle of a call.
    std::atomic<bool> stop{false};
    std::jthread busy([&] {
      while (!stop) run(8, [](int64_t) { std::this_thread::sleep_for(std::chrono::milliseconds(1)); });
    });
    for (int repeat = 0; repeat < 10; ++repeat) {
      const int status = in_child(child);
      if (status != 0) stop = true;
      CHECK(status == 0, "fork beside a call", repeat, status);
    }
    stop = true;
  }
  count_items(100);
  std::printf("%d threads at most at once\n", most.load());
}
