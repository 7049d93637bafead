// Training(network, loss, metric, X, y, weight, w, gradient, state, rule, batch_size, shuffle_seed, noise, mixup,
// random_seed, bfloat16): a network, its samples and the state of its optimizer, for many steps in one call. It keeps
// references to all of them; w, the gradient and the arrays of the state change in place.
//   begin(plans, t, step, count, seconds): sets what the next call of train() does: `count` batches from that of `step`
//     on, for at most so many seconds, with the plans of the optimizer's steps t, t + 1, ...
//     plans: for each plan that the layers of the state name, (fields, extras), all with the same number of steps
//       fields: (steps, fields of the rule) float64    extras: (steps, arguments of StepExtras) float64, or None
//   steps, taken, loss, metric, weight, failed: what that call did, see Running in train.h
// train([Training, ...]): runs them, without the GIL. Ctrl-C ends it between two steps.
// shuffled(seed, epoch, n): the order of the samples of an epoch, (n,) int64
#include <pybind11/stl.h>

#include <utility>
#include <variant>

#include "../train.h"
#include "module.h"
#include "network.h"
#include "step_arrays.h"
#include "step_plan.h"

namespace popgrad::bindings {

namespace {

constexpr py::ssize_t extras_width = 11;

template <class T>
struct Native {
  StepArrays<T> arrays;
  Training<T> training;

  Native(StepArrays<T> arrays_in, Training<T> training_in)
      : arrays(std::move(arrays_in)), training(std::move(training_in)) {}
};

class AnyTraining {
 public:
  AnyTraining(const py::object& network, const NamedScore& loss, const std::optional<NamedScore>& metric,
              const py::object& X, const py::object& y, const py::object& weight, const py::object& w,
              const py::object& gradient, const py::object& state, const NamedRule& rule, int64_t batch_size,
              uint64_t shuffle_seed, double noise, double mixup, uint64_t random_seed, bool bfloat16)
      : rule_(*rule.rule) {
    for (const py::object& each : {network, X, y, weight, w, gradient, state}) alive_.append(each);
    for (const char* const name : {"slots", "average", "scales", "layers", "kept"}) alive_.append(state.attr(name));
    const Network& own = network.cast<const Network&>();
    const Scoring score = own.loss_of("Training", loss), second = Network::metric_of(score, metric);
    with_type("w", w, [&](auto type) {
      using T = decltype(type);
      const Batch<T> batch = own.batch_of<T>(X, y, weight, py::none());
      Network::check_bfloat16<T>("Training", bfloat16);
      own.check_targets(score, batch.y_width);
      if (batch_size < 1 || batch_size > batch.samples)
        throw py::value_error("[_core.Training] batch_size must be in [1, samples]");
      StepArrays<T> arrays(rule_, w, gradient, state);
      Training<T> training{own.shape(),
                           score,
                           second,
                           batch,
                           bfloat16,
                           batch_size,
                           shuffle_seed,
                           Randomness{noise, mixup, random_seed, 0},
                           output<T>("w", w, {own.n()}),
                           output<T>("gradient", gradient, {own.n()}),
                           &rule_,
                           nullptr,
                           0};
      auto native = std::make_unique<Native<T>>(std::move(arrays), std::move(training));
      native->training.tensors = native->arrays.tensors();
      native->training.tensor_count = native->arrays.count();
      native_ = std::move(native);
    });
  }

  void begin(const std::vector<std::pair<py::object, py::object>>& plans, uint32_t t, int64_t step, int64_t count,
             double seconds) {
    if (plans.empty()) throw py::value_error("[_core.Training] needs a plan");
    const py::ssize_t steps = length("fields", plans[0].first), width = words(rule_.fields);
    table_ = {{}, int(width), steps, t};
    extras_.clear();
    extras_.reserve(plans.size() * size_t(steps));  // the tables point into it
    for (const auto& [fields, extras] : plans) {
      const StepExtras* const first = extras_.data() + extras_.size();
      if (const double* row = optional_input<double>("extras", extras, {steps, extras_width}))
        for (py::ssize_t k = 0; k < steps; ++k, row += extras_width) extras_.push_back(extras_of(row));
      table_.plans.push_back({input<double>("fields", fields, {steps, width}), extras.is_none() ? nullptr : first});
    }
    std::vector<Plan> first;
    for (const PlanTable& plan : table_.plans) first.push_back({nullptr, plan.extras});
    std::visit([&](auto& native) { native->arrays.prepare(t, first.data(), first.size()); }, native_);
    if (step < 1) throw py::value_error("[_core.Training] step must be >= 1");
    using Clock = std::chrono::steady_clock;
    constexpr double longest = 1e9;  // seconds, within the clock's range
    const auto limit = std::chrono::duration<double>(seconds < longest ? seconds : longest);
    span_ = {step, count, Clock::now() + std::chrono::duration_cast<Clock::duration>(limit)};
    running = {};
    plans_ = plans;
  }

  template <class T>
  bool add_to(std::vector<Job<T>>& jobs) {
    auto* const native = std::get_if<std::unique_ptr<Native<T>>>(&native_);
    if (native) jobs.push_back({&(*native)->training, table_, span_, &running});
    return native;
  }

  Running running;

 private:
  static StepExtras extras_of(const double* row) {
    return {row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7] != 0, row[8], row[9], uint64_t(row[10])};
  }
  static py::ssize_t words(const char* text) {
    py::ssize_t count = *text != 0;
    for (; *text; ++text) count += *text == ' ';
    return count;
  }

  const StepRule& rule_;
  py::list alive_;
  std::variant<std::unique_ptr<Native<float>>, std::unique_ptr<Native<double>>> native_;
  std::vector<std::pair<py::object, py::object>> plans_;  // keeps the fields alive
  std::vector<StepExtras> extras_;
  StepTable table_{};
  Span span_{};
};

void train_bound(const std::vector<AnyTraining*>& trainings) {
  std::vector<Job<float>> f32;
  std::vector<Job<double>> f64;
  for (AnyTraining* const each : trainings)
    if (!each->add_to(f32)) each->add_to(f64);
  const Interruptible release;
  train_all(f32);
  train_all(f64);
}

py::array_t<int64_t> shuffled(uint64_t seed, uint32_t epoch, int64_t n) {
  py::array_t<int64_t> out(n);
  shuffle(seed, epoch, n, out.mutable_data());
  return out;
}

}  // namespace

void bind_training(py::module_& m) {
  py::class_<AnyTraining>(m, "Training")
      .def(py::init<const py::object&, const NamedScore&, const std::optional<NamedScore>&, const py::object&,
                    const py::object&, const py::object&, const py::object&, const py::object&, const py::object&,
                    const NamedRule&, int64_t, uint64_t, double, double, uint64_t, bool>(),
           py::arg("network"), py::arg("loss"), py::arg("metric"), py::arg("X"), py::arg("y"), py::arg("weight"),
           py::arg("w"), py::arg("gradient"), py::arg("state"), py::arg("rule"), py::arg("batch_size"),
           py::arg("shuffle_seed"), py::arg("noise"), py::arg("mixup"), py::arg("random_seed"), py::arg("bfloat16"))
      .def("begin", &AnyTraining::begin, py::arg("plans"), py::arg("t"), py::arg("step"), py::arg("count"),
           py::arg("seconds"))
      .def_property_readonly("steps", [](const AnyTraining& t) { return t.running.steps; })
      .def_property_readonly("taken", [](const AnyTraining& t) { return t.running.taken; })
      .def_property_readonly("loss", [](const AnyTraining& t) { return t.running.loss; })
      .def_property_readonly("metric", [](const AnyTraining& t) { return t.running.metric; })
      .def_property_readonly("weight", [](const AnyTraining& t) { return t.running.weight; })
      .def_property_readonly("failed", [](const AnyTraining& t) { return t.running.failed; });
  m.def("train", &train_bound, py::arg("trainings"));
  m.def("shuffled", &shuffled, py::arg("seed"), py::arg("epoch"), py::arg("n"));
}

}  // namespace popgrad::bindings
