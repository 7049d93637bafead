// Steps of PyTorch tensors, in place.
// gather(exchange, tensor, params, state, names, numbers, kept, states, adapt_vectors) -> list[TensorBatch] | None
//   Reads the current parameters, gradients and state[p]; nothing is cached between steps.
//   exchange: Tensor.__dlpack_c_exchange_api__    tensor: the class whose instances exchange can read
//   params: parameters; those without a gradient are skipped    state: {parameter: {name: tensor}}
//   names: the required entries of state[p]: `numbers` shared by all tensors of a batch (such as the step count),
//   `kept` numbers per tensor, and `states` with the shape of the parameter. Returns None if an entry is missing, or a
//   tensor is not dense or differs in type or memory order.
// TensorBatch: tensors with the same type and equal numbers, which one native call updates.
//   params; is_double; values(): the current numbers, or None if another step has made them unequal
//   split(): the same tensors, one per batch
//   step(plan, after): updates parameters and states without the GIL, then sets the numbers to `after`.
//   TensorBatch(is_double, numbers, kept, states, rows, params, alive): a batch of tensors given by address, for
//   versions of PyTorch without an exchange table. A row: size, whether to adapt, addresses of parameter, gradient and
//   states, then address and kind (0 float32, 1 float64, 2 int64) of each number.
#include <pybind11/stl.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "../cpu/threads.h"
#include "arrays.h"
#include "module.h"
#include "release.h"
#include "step_plan.h"

namespace popgrad::bindings {

namespace {

// The required part of DLPack's exchange table, which reads tensors of any library: github.com/dmlc/dlpack, dlpack.h,
// version 1.3.
struct DlTensor {
  void* data;
  int32_t device_type, device;
  int32_t dimensions;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;

  char* address() const { return static_cast<char*>(data) + byte_offset; }
  bool in_memory() const { return device_type == 1 && lanes == 1 && (strides || !dimensions); }
  bool is_float(int width) const { return code == 2 && bits == width; }
  bool is_int64() const { return code == 0 && bits == 64; }
  int64_t size() const {
    int64_t n = 1;
    for (int d = 0; d < dimensions; ++d) n *= shape[d];
    return n;
  }
};

struct DlExchange {
  uint32_t major, minor;
  void* previous;
  void* managed[3];
  int (*read)(void* object, DlTensor* out);  // borrows; 0 on success, else a Python exception is set
  void* stream;
};

// Whether two tensors have the same memory order.
bool alike(const DlTensor& a, const DlTensor& b) {
  if (a.dimensions != b.dimensions) return false;
  bool strides = true;
  for (int d = 0; d < a.dimensions; ++d) {
    if (a.shape[d] != b.shape[d]) return false;
    strides &= a.shape[d] == 1 || a.strides[d] == b.strides[d];
  }
  return strides || a.size() == 0;
}

// Whether the elements fill a block of memory without gaps or overlap, in any order.
bool dense(const DlTensor& a) {
  constexpr int most = 64;
  if (a.size() == 0) return true;
  int order[most], used = 0;  // dimensions larger than 1, from the shortest stride to the longest
  for (int d = a.dimensions - 1; d >= 0; --d) {
    if (a.shape[d] == 1) continue;
    if (used == most) return false;
    int k = used++;
    for (; k > 0 && a.strides[order[k - 1]] > a.strides[d]; --k) order[k] = order[k - 1];
    order[k] = d;
  }
  int64_t expected = 1;
  for (int k = 0; k < used; expected *= a.shape[order[k++]])
    if (a.strides[order[k]] != expected) return false;
  return true;
}

constexpr int most_numbers = 4;  // limit per batch, and per tensor

// A number in the memory of a one-element tensor.
struct Number {
  enum Kind : int { float32, float64, int64 };
  void* at;
  Kind kind;

  double read() const {
    switch (kind) {
      case float32:
        return double(*static_cast<const float*>(at));
      case float64:
        return *static_cast<const double*>(at);
      case int64:
        return double(*static_cast<const int64_t*>(at));
    }
    __builtin_unreachable();
  }
  void write(double value) const {
    switch (kind) {
      case float32:
        *static_cast<float*>(at) = float(value);
        return;
      case float64:
        *static_cast<double*>(at) = value;
        return;
      case int64:
        *static_cast<int64_t*>(at) = int64_t(value);
    }
  }
};

struct Row {
  int64_t n;
  bool adapt;
  char *w, *g, *state[most_states];
  Number number[2 * most_numbers];  // numbers of the batch, then of the tensor
};

class TensorBatch {
 public:
  TensorBatch(bool is_double, int numbers, int kept, int states)
      : is_double(is_double), numbers_(numbers), kept_(kept), states_(states) {
    if (numbers < 0 || numbers > most_numbers || kept < 0 || kept > most_numbers || states < 0 || states > most_states)
      throw py::value_error("[_core.TensorBatch] more states than a rule can have");
  }

  TensorBatch(bool is_double, int numbers, int kept, int states, const std::vector<std::vector<int64_t>>& table,
              py::list params, py::list alive)
      : TensorBatch(is_double, numbers, kept, states) {
    const auto pointer = [](int64_t address) { return reinterpret_cast<char*>(intptr_t(address)); };
    for (const std::vector<int64_t>& from : table) {
      if (from.size() != size_t(4 + states + 2 * (numbers + kept)))
        throw py::value_error("[_core.TensorBatch] a row of another length");
      Row row{from[0], from[1] != 0, pointer(from[2]), pointer(from[3]), {}, {}};
      const int64_t* next = from.data() + 4;
      for (int k = 0; k < states; ++k) row.state[k] = pointer(*next++);
      for (int k = 0; k < numbers + kept; ++k, next += 2) row.number[k] = {pointer(next[0]), Number::Kind(next[1])};
      rows_.push_back(row);
    }
    this->params = std::move(params);
    alive_.push_back(std::move(alive));
  }

  // Whether the numbers of a tensor equal the numbers of this batch.
  bool takes(bool of_doubles, const Row& row) const {
    if (of_doubles != is_double) return false;
    for (int k = 0; k < numbers_; ++k)
      if (row.number[k].read() != rows_[0].number[k].read()) return false;
    return true;
  }
  void reserve(size_t rows, size_t each) {
    rows_.reserve(rows);
    alive_.reserve(rows * each);
  }
  void add(const Row& row, const py::object& param, std::vector<py::object>& alive) {
    rows_.push_back(row);
    params.append(param);
    for (py::object& object : alive) alive_.push_back(std::move(object));
  }

  // Whether parameters share memory, so that one call must not update them in parallel.
  bool overlaps() const {
    if (rows_.size() < 2) return false;
    std::vector<std::pair<char*, char*>> ranges;
    ranges.reserve(rows_.size());
    const int64_t width = is_double ? 8 : 4;
    for (const Row& row : rows_)
      if (row.n) ranges.emplace_back(row.w, row.w + row.n * width);
    std::sort(ranges.begin(), ranges.end());
    for (size_t k = 1; k < ranges.size(); ++k)
      if (ranges[k].first < ranges[k - 1].second) return true;
    return false;
  }
  // The same tensors, one per batch.
  py::list split() const {
    py::list into;
    for (size_t k = 0; k < rows_.size(); ++k) {
      TensorBatch one(is_double, numbers_, kept_, states_);
      one.rows_.push_back(rows_[k]);
      one.params.append(params[k]);
      one.alive_ = alive_;
      into.append(py::cast(std::move(one)));
    }
    return into;
  }

  py::object values() const {
    for (size_t k = 1; k < rows_.size(); ++k)
      if (!takes(is_double, rows_[k])) return py::none();
    py::tuple all(numbers_);
    for (int k = 0; k < numbers_; ++k) all[size_t(k)] = rows_[0].number[k].read();
    return all;
  }

  void step(const StepPlan& plan, const py::tuple& after) const {
    const StepRule& rule = plan.rule();
    if (rule.states != states_ || rule.kept != kept_ || int(after.size()) != numbers_)
      throw py::value_error("[_core.TensorBatch] a rule with other states or numbers");
    double numbers[most_numbers];
    for (int k = 0; k < numbers_; ++k) numbers[k] = after[size_t(k)].cast<double>();
    if (is_double)
      step_of<double>(plan);
    else
      step_of<float>(plan);
    for (const Row& row : rows_)
      for (int k = 0; k < numbers_; ++k) row.number[k].write(numbers[k]);
  }

  const bool is_double;
  py::list params;

 private:
  template <class T>
  void step_of(const StepPlan& plan) const {
    std::vector<StepArgs<T>> tensors(rows_.size());
    std::vector<double> kept(rows_.size() * size_t(kept_));
    for (size_t k = 0; k < tensors.size(); ++k) {
      const Row& row = rows_[k];
      StepArgs<T>& args = tensors[k];
      args.n = size_t(row.n);
      args.adapt = row.adapt;
      args.w = reinterpret_cast<T*>(row.w);
      args.g = reinterpret_cast<const T*>(row.g);
      for (int s = 0; s < states_; ++s) args.state[s] = row.state[s];
      args.kept = kept.data() + k * size_t(kept_);
      for (int j = 0; j < kept_; ++j) args.kept[j] = row.number[numbers_ + j].read();
      args.fields = plan.field;
      args.extras = plan.around();
    }
    {
      const Released release;
      const Borrowing threads;  // PyTorch's backward pass has just used them
      popgrad::step(plan.rule(), tensors.data(), tensors.size());
    }
    for (size_t k = 0; k < tensors.size(); ++k)
      for (int j = 0; j < kept_; ++j) rows_[k].number[numbers_ + j].write(tensors[k].kept[j]);
  }

  int numbers_, kept_, states_;
  std::vector<Row> rows_;
  std::vector<py::object> alive_;  // what the rows point to
};

// Looks up several keys of a dictionary. If the keys are in the order of the dictionary, which is usual, no key is
// hashed: the hash of a tensor is a Python function.
class InOrder {
 public:
  explicit InOrder(PyObject* dict) : dict_(dict) {}

  // A borrowed reference; null if the key is missing.
  PyObject* operator[](PyObject* wanted) {
    PyObject* const found = next(wanted);
    return found ? found : PyDict_GetItemWithError(dict_, wanted);
  }
  // The same, if the key is the next one in the dictionary.
  PyObject* next(PyObject* wanted) {
    Py_ssize_t position = position_;
    PyObject *key, *value;
    if (!PyDict_Next(dict_, &position, &key, &value) || key != wanted) return nullptr;
    position_ = position;
    return value;
  }

 private:
  PyObject* const dict_;
  Py_ssize_t position_ = 0;
};

class Reader {
 public:
  Reader(const DlExchange* api, PyTypeObject* tensor) : api_(api), tensor_(tensor) {}

  bool is_tensor(PyObject* object) const { return PyObject_TypeCheck(object, tensor_); }

  // In CPU memory.
  bool read(PyObject* object, DlTensor& out) const {
    if (!is_tensor(object)) return false;
    if (api_->read(object, &out)) {
      PyErr_Clear();
      return false;
    }
    return out.in_memory();
  }

  // With the same type and memory order as w.
  bool read_like(PyObject* object, const DlTensor& w, DlTensor& out) const {
    return read(object, out) && out.is_float(w.bits) && alike(w, out) && plain(object, out);
  }

  // PyTorch has tensors with a pending negation, which their memory does not show. They are views of complex numbers,
  // so that only one-element tensors among them are dense. Backward passes produce such gradients.
  bool plain(PyObject* object, const DlTensor& read) const {
    const int64_t n = read.size();
    if (n != 1) return n == 0 || read.address();
    static PyObject* const is_neg = PyUnicode_InternFromString("is_neg");
    const auto negative = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(object, is_neg));
    PyErr_Clear();
    return negative.ptr() == Py_False && read.address();
  }

  bool read_number(PyObject* object, Number& out) const {
    DlTensor found;
    if (!read(object, found) || found.size() != 1 || !found.address()) return false;
    if (!found.is_float(32) && !found.is_float(64) && !found.is_int64()) return false;
    out = {found.address(), found.is_int64() ? Number::int64 : found.bits == 32 ? Number::float32 : Number::float64};
    return true;
  }

 private:
  const DlExchange* const api_;
  PyTypeObject* const tensor_;
};

// The required entries of state[p].
struct Wanted {
  py::tuple names;
  int numbers, kept, states;
  bool adapt_vectors;
};

// Whether a parameter, its gradient and its state meet the requirements of a row.
bool read_row(const Reader& reader, const Wanted& wanted, PyObject* param, PyObject* gradient, PyObject* state,
              Row& row, bool& is_double, std::vector<py::object>& alive) {
  DlTensor w, other;
  if (!reader.read(param, w) || !(w.is_float(32) || w.is_float(64)) || !dense(w) || !reader.plain(param, w))
    return false;
  if (!reader.read_like(gradient, w, other)) return false;
  is_double = w.bits == 64;
  row = {w.size(), wanted.adapt_vectors || w.dimensions > 1, w.address(), other.address(), {}, {}};
  if (wanted.names.empty()) return true;
  if (!state || !PyDict_Check(state)) return false;
  InOrder entries(state);
  for (int k = 0; k < int(wanted.names.size()); ++k) {
    PyObject* const found = entries[PyTuple_GET_ITEM(wanted.names.ptr(), k)];
    if (!found) return false;
    alive.push_back(py::reinterpret_borrow<py::object>(found));
    const int s = k - wanted.numbers - wanted.kept;
    if (s < 0) {
      if (!reader.read_number(found, row.number[k])) return false;
    } else {
      if (!reader.read_like(found, w, other)) return false;
      row.state[s] = other.address();
    }
  }
  return true;
}

py::object gather(const py::capsule& exchange, const py::type& tensor, const py::list& params, const py::dict& state,
                  const py::tuple& names, int numbers, int kept, int states, bool adapt_vectors) {
  const auto* const api = exchange.get_pointer<DlExchange>();
  if (api->major != 1 || !api->read) return py::none();
  if (int(names.size()) != numbers + kept + states)
    throw py::value_error("[_core.gather] names must be the wanted ones");
  const Reader reader(api, reinterpret_cast<PyTypeObject*>(tensor.ptr()));
  const Wanted wanted{names, numbers, kept, states, adapt_vectors};
  static PyObject* const grad = PyUnicode_InternFromString("grad");
  InOrder all(state.ptr());
  std::vector<TensorBatch> batches;
  std::vector<py::object> alive;
  for (Py_ssize_t k = 0; k < PyList_GET_SIZE(params.ptr()); ++k) {
    const auto param = py::reinterpret_borrow<py::object>(PyList_GET_ITEM(params.ptr(), k));
    if (!reader.is_tensor(param.ptr())) return py::none();
    auto gradient = py::reinterpret_steal<py::object>(PyObject_GetAttr(param.ptr(), grad));
    if (!gradient) {
      PyErr_Clear();
      return py::none();
    }
    if (gradient.is_none()) {
      all.next(param.ptr());
      continue;
    }
    const auto own = py::reinterpret_borrow<py::object>(names.empty() ? nullptr : all[param.ptr()]);
    Row row;
    bool is_double;
    alive.clear();
    if (!read_row(reader, wanted, param.ptr(), gradient.ptr(), own.ptr(), row, is_double, alive)) {
      PyErr_Clear();
      return py::none();
    }
    alive.push_back(std::move(gradient));
    const auto fits = [&](const TensorBatch& batch) { return batch.takes(is_double, row); };
    auto batch = std::find_if(batches.begin(), batches.end(), fits);
    if (batch == batches.end()) {
      batches.emplace_back(is_double, numbers, kept, states);
      batch = batches.end() - 1;
      batch->reserve(size_t(PyList_GET_SIZE(params.ptr())), names.size() + 1);
    }
    batch->add(row, param, alive);
  }
  py::list found;
  for (TensorBatch& batch : batches)
    if (batch.overlaps())
      for (const py::handle one : batch.split()) found.append(one);
    else
      found.append(py::cast(std::move(batch)));
  return found;
}

}  // namespace

void bind_tensors(py::module_& m) {
  py::class_<TensorBatch>(m, "TensorBatch")
      .def(py::init<bool, int, int, int, const std::vector<std::vector<int64_t>>&, py::list, py::list>(),
           py::arg("is_double"), py::arg("numbers"), py::arg("kept"), py::arg("states"), py::arg("rows"),
           py::arg("params"), py::arg("alive"))
      .def_readonly("is_double", &TensorBatch::is_double)
      .def_readonly("params", &TensorBatch::params)
      .def("values", &TensorBatch::values)
      .def("split", &TensorBatch::split)
      .def("step", &TensorBatch::step, py::arg("plan"), py::arg("after"));
  m.def("gather", &gather, py::arg("exchange"), py::arg("tensor"), py::arg("params"), py::arg("state"),
        py::arg("names"), py::arg("numbers"), py::arg("kept"), py::arg("states"), py::arg("adapt_vectors"));
}

}  // namespace popgrad::bindings
