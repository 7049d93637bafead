// step_rules(): {name: (index, states, sums, kept, positive, field names)}, see table.h; the index -1 - k is plain[k].
// step(...): one update of a flat vector, in place, without the GIL.
//   w, g: (n,) float32 or float64    state: (states, n) of the same type, or of uint16 or uint8 (packed, float32 only)
//   extras: (scale, clip, l2, decay, l1, mix), see table.h    average: (n,), needs extras
//   scales: (states, ceil(n / 256)) float32, with uint8       layers: (L, 2) int64, lengths that add up to n and
//   whether each is adapted    kept: (L, kept) float64                t: what rounding by chance depends on
// step_list(...): the same for tensors anywhere in memory, given by address; only whole numbers are checked.
// gradients(exchange, table, is_double, params): writes where the gradients of `params` lie into the table's column 3.
//   False, and no promise about that column, if anything is not as when the table was made: then look closer.
// sum_squares(x): in an order that does not depend on threads.
#include <tuple>
#include <vector>

#include "../api.h"
#include "arrays.h"
#include "module.h"
#include "release.h"

namespace popgrad::bindings {

namespace {

const StepRule& rule_at(int index) {
  if (index >= kernels().step_count || index < -1 - most_states) throw py::index_error("[_core.step] no such rule");
  return index >= 0 ? kernels().steps[index] : kernels().plain[-1 - index];
}

struct Values {
  double field[most_fields] = {};
  StepExtras extras{};
  bool has_extras;

  Values(const py::tuple& fields, const py::object& around) : has_extras(!around.is_none()) {
    if (fields.size() > most_fields) throw py::value_error("[_core.step] too many fields");
    for (size_t k = 0; k < fields.size(); ++k) {
      field[k] = PyFloat_AsDouble(PyTuple_GET_ITEM(fields.ptr(), py::ssize_t(k)));
      if (field[k] == -1 && PyErr_Occurred()) throw py::error_already_set();
    }
    if (!has_extras) return;
    const auto [scale, clip, l2, decay, l1, mix] =
        around.cast<std::tuple<double, double, double, double, double, double>>();
    extras = {scale, clip, l2, decay, l1, mix};
  }
};

// Where the states of a flat vector lie, and how they are stored.
template <class T>
void set_states(StepArgs<T>& args, const StepRule& rule, const py::object& state, const py::object& scales,
                py::ssize_t n) {
  const py::ssize_t states = rule.states;
  const auto rows = [&](auto* first) {
    for (py::ssize_t k = 0; k < states; ++k) args.state[k] = first + k * n;
  };
  if (sizeof(T) == sizeof(float) && holds<uint16_t>(state)) {
    args.packing = Packing::bfloat16;
    rows(output<uint16_t>("state", state, {states, n}));
  } else if (sizeof(T) == sizeof(float) && holds<uint8_t>(state)) {
    if (rule.positive < 0) throw py::value_error("[_core.step] the states of this rule do not fit in bytes");
    args.packing = Packing::bytes;
    rows(output<uint8_t>("state", state, {states, n}));
    const auto blocks = py::ssize_t((size_t(n) + packed_block - 1) / packed_block);
    float* const first = output<float>("scales", scales, {states, blocks});
    for (py::ssize_t k = 0; k < states; ++k) args.scales[k] = first + k * blocks;
  } else {
    rows(output<T>("state", state, {states, n}));
  }
}

// One tensor for each layer of a flat vector; layers do not part the work of a rule that sums over nothing.
template <class T>
void split(std::vector<StepArgs<T>>& tensors, const StepRule& rule, const py::object& layers, const py::object& kept) {
  const py::ssize_t count = length("layers", layers);
  const int64_t* const layer = input<int64_t>("layers", layers, {count, 2});
  double* const own = output<double>("kept", kept, {count, rule.kept});
  StepArgs<T> rest = tensors[0];
  tensors.clear();
  for (py::ssize_t k = 0; k < count; ++k) {
    const int64_t size = layer[2 * k];
    if (size < 0 || size_t(size) > rest.n) throw py::value_error("[_core.step] layers must add up to the parameters");
    StepArgs<T> one = rest;
    one.n = size_t(size);
    one.adapt = layer[2 * k + 1] != 0;
    one.kept = own + k * rule.kept;
    tensors.push_back(one);
    rest.w += size, rest.g += size, rest.n -= size_t(size);
    if (rest.average) rest.average += size;
    for (int s = 0; s < rule.states; ++s) rest.state[s] = static_cast<T*>(rest.state[s]) + size;
  }
  if (rest.n) throw py::value_error("[_core.step] layers must add up to the parameters");
}

void step_bound(int index, const py::tuple& fields, const py::object& w, const py::object& g, const py::object& state,
                const py::object& extras, const py::object& average, const py::object& scales, const py::object& layers,
                const py::object& kept, uint32_t t) {
  const StepRule& rule = rule_at(index);
  const Values values(fields, extras);
  with_type("w", w, [&](auto type) {
    using T = decltype(type);
    const py::ssize_t n = length("w", w);
    StepArgs<T> args{};
    args.w = output<T>("w", w, {n});
    args.g = input<T>("g", g, {n});
    args.n = size_t(n);
    args.adapt = true;
    args.noise = t * 0x85EBCA6Bu;
    args.extras = values.has_extras ? &values.extras : nullptr;
    set_states(args, rule, state, scales, n);
    if (!average.is_none()) {
      if (!args.extras) throw py::value_error("[_core.step] an average needs extras");
      args.average = output<T>("average", average, {n});
    }
    if (rule.sums == 0) {
      const Released release;
      step(rule, values.field, &args, 1);
      return;
    }
    if (args.packing != Packing::none)
      throw py::value_error("[_core.step] the states of a rule by layers are not packed");
    std::vector<StepArgs<T>> tensors{args};
    split(tensors, rule, layers, kept);
    const Released release;
    step(rule, values.field, tensors.data(), tensors.size());
  });
}

template <class T>
void step_list_of(const StepRule& rule, const Values& values, const int64_t* table, py::ssize_t count, double* kept) {
  const int columns = 4 + rule.states;
  std::vector<StepArgs<T>> tensors(static_cast<size_t>(count));
  for (size_t k = 0; k < tensors.size(); ++k) {
    const int64_t* const row = table + k * size_t(columns);
    StepArgs<T>& args = tensors[k];
    args.n = size_t(row[0]);
    args.adapt = row[1] != 0;
    args.w = reinterpret_cast<T*>(row[2]);
    args.g = reinterpret_cast<const T*>(row[3]);
    for (int s = 0; s < rule.states; ++s) args.state[s] = reinterpret_cast<void*>(row[4 + s]);
    args.kept = kept + k * size_t(rule.kept);
    args.extras = values.has_extras ? &values.extras : nullptr;
  }
  const Released release;
  step(rule, values.field, tensors.data(), tensors.size());
}

void step_list_bound(int index, const py::tuple& fields, bool is_double, const py::object& table,
                     const py::object& extras, const py::object& kept) {
  const StepRule& rule = rule_at(index);
  const Values values(fields, extras);
  const py::ssize_t count = length("table", table);
  const int64_t* const rows = input<int64_t>("table", table, {count, 4 + rule.states});
  double* const own = rule.kept ? output<double>("kept", kept, {count, rule.kept}) : nullptr;
  if (is_double)
    step_list_of<double>(rule, values, rows, count, own);
  else
    step_list_of<float>(rule, values, rows, count, own);
}

// The part that is needed of DLPack's exchange table, which lets a tensor be read without knowing its library:
// github.com/dmlc/dlpack, dlpack.h, version 1.3.
struct DlTensor {
  void* data;
  int32_t device_type, device;
  int32_t dimensions;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;

  int64_t address() const { return int64_t(reinterpret_cast<intptr_t>(data)) + int64_t(byte_offset); }
  // In the computer's memory, of this type, and not without strides.
  bool plain(bool is_double) const {
    return device_type == 1 && code == 2 && bits == (is_double ? 64 : 32) && lanes == 1 && (strides || !dimensions);
  }
};

struct DlExchange {
  uint32_t major, minor;
  void* previous;
  void* managed[3];
  int (*read)(void* object, DlTensor* out);  // borrows; 0 on success, else a Python exception is set
  void* stream;
};

// Whether the elements lie alike; sets their number.
bool alike(const DlTensor& a, const DlTensor& b, int64_t& n) {
  n = 1;
  if (a.dimensions != b.dimensions) return false;
  for (int d = 0; d < a.dimensions; ++d) {
    if (a.shape[d] != b.shape[d] || (a.shape[d] != 1 && a.strides[d] != b.strides[d])) return false;
    n *= a.shape[d];
  }
  return true;
}

bool gradients_bound(const py::capsule& exchange, const py::object& table, bool is_double, const py::list& params) {
  const auto* const api = exchange.get_pointer<DlExchange>();
  if (api->major != 1 || !api->read) return false;
  const py::ssize_t count = length("table", table), columns = length("table", table, 1);
  if (columns < 4) throw py::value_error("[_core.gradients] the table must have at least four columns");
  int64_t* row = output<int64_t>("table", table, {py::ssize_t(params.size()), columns});
  static PyObject* const grad = PyUnicode_InternFromString("grad");
  static PyObject* const is_neg = PyUnicode_InternFromString("is_neg");
  for (py::ssize_t k = 0; k < count; ++k, row += columns) {
    PyObject* const param = PyList_GET_ITEM(params.ptr(), k);
    const auto gradient = py::reinterpret_steal<py::object>(PyObject_GetAttr(param, grad));
    DlTensor w, g;
    int64_t n;
    if (!gradient || gradient.is_none() || api->read(param, &w) || api->read(gradient.ptr(), &g)) {
      PyErr_Clear();
      return false;
    }
    if (!w.plain(is_double) || !g.plain(is_double) || !alike(w, g, n) || n != row[0] || w.address() != row[2])
      return false;
    // PyTorch has tensors whose minus sign is not yet in their memory. They are views of complex numbers, so that only
    // those with a single element can lie as a parameter does; and backward passes do leave such gradients.
    if (n == 1) {
      const auto negative = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(gradient.ptr(), is_neg));
      PyErr_Clear();
      if (negative.ptr() != Py_False) return false;
    }
    row[3] = g.address();
  }
  return true;
}

py::tuple split_words(const char* words) { return py::tuple(py::str(words).attr("split")()); }

}  // namespace

void bind_steps(py::module_& m) {
  m.def("step_rules", [] {
    py::dict rules;
    for (int k = 0; k < kernels().step_count; ++k) {
      const StepRule& rule = kernels().steps[k];
      rules[rule.name] = py::make_tuple(k, rule.states, rule.sums, rule.kept, rule.positive, split_words(rule.fields));
    }
    return rules;
  });
  m.def("step", &step_bound, py::arg("rule"), py::arg("fields"), py::arg("w"), py::arg("g"), py::arg("state"),
        py::arg("extras") = py::none(), py::arg("average") = py::none(), py::arg("scales") = py::none(),
        py::arg("layers") = py::none(), py::arg("kept") = py::none(), py::arg("t") = 0);
  m.def("step_list", &step_list_bound, py::arg("rule"), py::arg("fields"), py::arg("is_double"), py::arg("table"),
        py::arg("extras") = py::none(), py::arg("kept") = py::none());
  m.def("gradients", &gradients_bound, py::arg("exchange"), py::arg("table"), py::arg("is_double"), py::arg("params"));
  m.def(
      "sum_squares",
      [](const py::object& x) {
        return with_type("x", x, [&](auto type) {
          using T = decltype(type);
          const py::ssize_t n = length("x", x);
          const T* const values = input<T>("x", x, {n});
          const Released release;
          return sum_squares(values, size_t(n));
        });
      },
      py::arg("x"));
}

}  // namespace popgrad::bindings
