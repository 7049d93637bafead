// Every move of a population: against its formula in double, with random numbers from a Philox of the test's
// own, and bit by bit between instruction sets and numbers of threads. The sums over rows likewise.
#include <limits>

#include "api.h"
#include "cpu/threads.h"
#include "support.h"

using namespace popgrad;
using namespace popgrad::test;

namespace {

struct Reference {
  const char* name;
  std::vector<double> fields;
  void (*move)(const double* f, double* x, const double* s, const ReferenceDraws& draws, bool chosen);
};

const Reference references[] = {
    {"Uniform",
     {},
     [](const double*, double* x, const double* s, const ReferenceDraws& d, bool) {
       x[0] = s[0] + (s[1] - s[0]) * d.uniform(0);
     }},
    {"Reflect",
     {},
     [](const double*, double* x, const double* s, const ReferenceDraws& d, bool) {
       const double once = x[0] < s[0] ? 2 * s[0] - x[0] : x[0] > s[1] ? 2 * s[1] - x[0] : x[0];
       const double drawn = std::min(s[0] + (s[1] - s[0]) * d.uniform(0), s[1]);
       x[0] = once >= s[0] && once <= s[1] ? once : drawn;
     }},
    {"Gaussian",
     {0.3},
     [](const double* f, double* x, const double* s, const ReferenceDraws& d, bool) {
       x[0] = s[0] + f[0] * d.normal(0);
     }},
    {"SpreadGaussian",
     {0.85},
     [](const double* f, double* x, const double* s, const ReferenceDraws& d, bool) {
       x[0] = s[0] + f[0] * s[1] * d.normal(0);
     }},
    {"Crown",
     {0.5, 1.25},
     [](const double* f, double* x, const double* s, const ReferenceDraws& d, bool chosen) {
       const double size = (chosen ? f[1] - (f[1] - f[0]) * d.uniform(0) : f[1] * d.uniform(0)) * s[1];
       x[0] = d.uniform(1) < 0.5 ? s[0] - size : s[0] + size;
     }},
    {"Crossover",
     {0.25, 0.5},
     [](const double* f, double* x, const double* s, const ReferenceDraws& d, bool) {
       x[0] = d.uniform(0) < 0.5 ? s[0] : s[1];
       if (d.uniform(1) < f[0]) x[0] += f[1] * s[2] * d.normal(1);
     }},
    {"Differential",
     {0.75, 0.5},
     [](const double* f, double* x, const double* s, const ReferenceDraws& d, bool chosen) {
       x[0] = d.uniform(0) < f[1] || chosen ? s[1] + f[0] * (s[2] - s[3]) : s[0];
     }},
    {"ParticleSwarm",
     {0.72, 1.49, 1.25},
     [](const double* f, double* x, const double* s, const ReferenceDraws& d, bool) {
       x[1] = f[0] * s[1] + f[1] * d.uniform(0) * (s[2] - s[0]) + f[2] * d.uniform(1) * (s[3] - s[0]);
       x[0] = s[0] + x[1];
     }},
    {"ParticleArrival",
     {0, 0},
     [](const double* f, double* x, const double* s, const ReferenceDraws&, bool) {
       const bool outside = x[0] + s[1] < s[2] || x[0] + s[1] > s[3];
       const double traveled = outside ? -s[1] / 2 : s[0] - x[0];
       x[1] = f[0] != 0 ? -x[1] / 2 : f[1] != 0 ? 0 : traveled;
       if (f[0] == 0) x[0] = s[0];
     }},
};

const Reference& reference_of(const MoveRule& rule) {
  for (const Reference& reference : references)
    if (std::strcmp(reference.name, rule.name) == 0) return reference;
  fail(__FILE__, __LINE__, "no formula in this test for the rule", rule.name);
}

// One move with everything that the arguments can hold, or with as little as they must hold.
template <class T>
struct Problem {
  size_t members, n;
  bool full;
  Exact<T> x, velocity, own, other, shared;
  Exact<double> fields;
  Exact<int64_t> rows, chosen;
  Exact<uint32_t> identity;

  Problem(const MoveRule& rule, size_t members, size_t n, bool full, uint64_t seed)
      : Problem(rule, members, n, full, Rng{seed}) {}

  MoveArgs<T> args(const MoveRule& rule) {
    MoveArgs<T> args{};
    args.out[0] = x.data();
    if (rule.outputs > 1) args.out[1] = velocity.data();
    const T* const source[] = {own.data(), other.data(), shared.data(), other.data()};
    for (int k = 0; k < rule.sources; ++k) {
      args.source[k] = source[k];
      args.source_stride[k] = k == 2 ? 0 : n;
      if (k == 2 || (full && k == 1)) args.row[k] = k == 2 ? nullptr : rows.data();
    }
    args.fields = fields.data();
    args.field_stride = full ? reference_of(rule).fields.size() : 0;
    args.chosen = full ? chosen.data() : nullptr;
    args.identity = full ? identity.data() : nullptr;
    args.seed = 0x0123456789ABCDEFu;
    args.stream = 5;
    args.generation = 77;
    args.n = n;
    return args;
  }

 private:
  Problem(const MoveRule& rule, size_t members, size_t n, bool full, Rng rng)
      : members(members),
        n(n),
        full(full),
        x(members * n, rng, -2, 2),
        velocity(members * n, rng, -1, 1),
        own(members * n, rng, -2, 2),
        other((members + 3) * n, rng, -2, 2),
        shared(n, rng, -2, 2),
        fields((full ? members : 1) * reference_of(rule).fields.size()),
        rows(members),
        chosen(members),
        identity(members) {
    const std::vector<double>& base = reference_of(rule).fields;
    for (size_t i = 0; i < fields.size(); ++i)  // powers of two, so that float holds what double does
      fields[i] = double(float(base[i % base.size()])) * (full && i / base.size() % 2 ? 0.5 : 1);
    for (size_t p = 0; p < members; ++p) {
      rows[p] = int64_t(rng.next() % (members + 3));
      chosen[p] = n ? int64_t(rng.next() % n) : 0;
      identity[p] = uint32_t(rng.next());
    }
  }
};

template <class T>
void check_formula(const MoveRule& rule, size_t members, size_t n, bool full, const char* where) {
  Problem<T> problem(rule, members, n, full, n + 31 * members);
  const Problem<T> before = problem;
  const MoveArgs<T> args = problem.args(rule);
  move(rule, args, members);
  // The normals are good to a few units in the last place of float, in double too.
  const double tolerance = 4e-6;
  for (size_t p = 0; p < members; ++p)
    for (size_t i = 0; i < n; ++i) {
      double x[2] = {double(before.x[p * n + i]), double(before.velocity[p * n + i])}, s[4];
      for (int k = 0; k < rule.sources; ++k) {
        const size_t row = args.row[k] ? size_t(args.row[k][p]) : p;
        s[k] = double(args.source[k][row * args.source_stride[k] + i]);
      }
      const uint32_t member = full ? problem.identity[p] : uint32_t(p);
      const ReferenceDraws draws(args.seed, args.stream, args.generation, member, uint32_t(i));
      reference_of(rule).move(args.fields + p * args.field_stride, x, s, draws, full && size_t(problem.chosen[p]) == i);
      CHECK(std::abs(double(problem.x[p * n + i]) - x[0]) <= tolerance, rule.name, where, sizeof(T), "full", full, "n",
            n, "member", p, "coordinate", i, problem.x[p * n + i], x[0]);
      if (rule.outputs > 1)
        CHECK(std::abs(double(problem.velocity[p * n + i]) - x[1]) <= tolerance, rule.name, where, sizeof(T), p, i);
    }
}

template <class T>
void check_same_bits(const std::vector<const Kernels*>& all, int index, size_t n) {
  const size_t members = 3;
  for (const bool full : {false, true}) {
    const MoveRule& first = all[0]->moves[index];
    Problem<T> start(first, members, n, full, n);
    for (size_t i = 0; i < start.own.size(); i += 5)  // not what the sources should hold; still the same bits
      start.own[i] = i % 2 ? std::numeric_limits<T>::infinity() : std::numeric_limits<T>::quiet_NaN();
    const auto after = [&](const Kernels& kernels, size_t cut) {
      const MoveRule& rule = kernels.moves[index];
      auto copy = std::make_unique<Problem<T>>(start);
      const MoveArgs<T> args = copy->args(first);
      for (size_t p = 0; p < members; ++p) {
        fn<T>(rule)(args, p, cut, n);
        fn<T>(rule)(args, p, 0, cut);
      }
      return copy;
    };
    const auto want = after(*all[0], 0);
    for (const Kernels* kernels : all) {
      CHECK(std::strcmp(kernels->moves[index].name, first.name) == 0, first.name, kernels->name);
      for (const size_t cut : {size_t(0), n / 3}) {
        const auto got = after(*kernels, cut);
        check_same(want->x, got->x, first.name, kernels->name);
        check_same(want->velocity, got->velocity, first.name, kernels->name);
      }
    }
  }
}

template <class T>
void check_threads(int index) {
  const MoveRule& rule = kernels().moves[index];
  const Problem<T> start(rule, 7, 40'001, true, 3);
  std::unique_ptr<Problem<T>> want;
  for (const int threads : {1, 2, 3, 4, 8}) {
    set_thread_count(threads);
    auto got = std::make_unique<Problem<T>>(start);
    move(rule, got->args(rule), got->members);
    if (!want)
      want = std::move(got);
    else {
      check_same(want->x, got->x, rule.name, "threads");
      check_same(want->velocity, got->velocity, rule.name, "threads");
    }
  }
}

template <class T>
const RowFns<T>& row_fns(const Kernels& kernels) {
  if constexpr (std::is_same_v<T, float>)
    return *kernels.rows_f32;
  else
    return *kernels.rows_f64;
}

// combine_rows and spread: the sums in double, the same bits everywhere, and a row of weight zero is not read.
template <class T>
void check_rows(const std::vector<const Kernels*>& all, size_t count, size_t n) {
  Rng rng{count * 7919 + n};
  Exact<T> rows(count * n, rng, -2, 2), center(n, rng, -1, 1);
  Exact<double> weights(count, rng, -1, 1);
  const double tolerance = 8 * double(count + 1) * double(std::numeric_limits<T>::epsilon());
  // The rows asked for: all but one, last first, and one twice.
  std::vector<int64_t> wanted;
  for (size_t p = count; p-- > (count > 1 ? 1u : 0u);) wanted.push_back(int64_t(p));
  if (count > 0) wanted.push_back(int64_t(count / 2));
  const Exact<int64_t> which(wanted);
  Exact<T> distance(which.size() * n);
  set_thread_count(1);
  spread(rows.data(), count, which.data(), which.size(), n, distance.data());
  for (size_t k = 0; k < which.size(); ++k)
    for (size_t i = 0; i < n; ++i) {
      double want = 0;
      for (size_t e = 0; e < count; ++e)
        want += std::abs(double(rows[e * n + i]) - double(rows[size_t(which[k]) * n + i]));
      want /= count > 1 ? double(count - 1) : 1.0;
      CHECK(std::abs(double(distance[k * n + i]) - want) <= tolerance, "spread", count, n, k, i);
    }
  for (const Kernels* kernels : all) {
    Exact<T> other(distance.size());
    row_fns<T>(*kernels).spread(rows.data(), count, which.data(), which.size(), n, other.data(), 0, n);
    check_same(distance, other, "spread", kernels->name);
  }
  for (const int threads : {2, 3, 8}) {
    set_thread_count(threads);
    Exact<T> other(distance.size());
    spread(rows.data(), count, which.data(), which.size(), n, other.data());
    check_same(distance, other, "spread", "threads");
  }
  if (count > 2) {
    weights[1] = 0;
    for (size_t i = 0; i < n; ++i) rows[n + i] = std::numeric_limits<T>::quiet_NaN();
  }
  Exact<T> sum(n);
  combine_rows(weights.data(), rows.data(), center.data(), count, n, sum.data());
  for (size_t i = 0; i < n; ++i) {
    double want = 0;
    for (size_t p = 0; p < count; ++p)
      if (weights[p] != 0) want += weights[p] * (double(rows[p * n + i]) - double(center[i]));
    CHECK(std::abs(double(sum[i]) - want) <= tolerance, "combine", count, n, i, sum[i], want);
  }
  for (const Kernels* kernels : all) {
    Exact<T> other(n);
    row_fns<T>(*kernels).combine(weights.data(), rows.data(), center.data(), count, n, other.data(), 0, n);
    check_same(sum, other, "combine", kernels->name);
  }
  Exact<T> other(n);
  for (const int threads : {1, 2, 3, 8}) {
    set_thread_count(threads);
    combine_rows(weights.data(), rows.data(), center.data(), count, n, other.data());
    check_same(sum, other, "combine", "threads");
  }
}

}  // namespace

int main() {
  const auto all = supported_targets();
  for (const Kernels* kernels : all) {
    CHECK(kernels->move_count == int(std::size(references)), kernels->name, kernels->move_count);
    for (int index = 0; index < kernels->move_count; ++index)
      for (const bool full : {false, true}) {
        for (const size_t n : {0, 1, 15, 16, 17, 1000}) {
          set_thread_count(n % 2 ? 1 : 3);
          check_formula<float>(kernels->moves[index], 5, n, full, kernels->name);
          check_formula<double>(kernels->moves[index], 5, n, full, kernels->name);
        }
        check_formula<float>(kernels->moves[index], 2, 40'000, full, kernels->name);  // three pieces a member
        check_formula<float>(kernels->moves[index], 0, 10, full, kernels->name);
      }
  }
  for (int index = 0; index < all[0]->move_count; ++index) {
    for (const size_t n : {1, 15, 16, 17, 1000}) {
      check_same_bits<float>(all, index, n);
      check_same_bits<double>(all, index, n);
    }
    check_threads<float>(index);
    check_threads<double>(index);
  }
  for (const size_t count : {0, 1, 2, 5, 64})
    for (const size_t n : {1, 17, 63, 64, 65, 2500}) {
      check_rows<float>(all, count, n);
      check_rows<double>(all, count, n);
    }
  std::printf("%d moves, %zu instruction sets\n", all[0]->move_count, all.size());
}
