// move_rules(): {name: MoveRule}
// move(rule, fields, out, sources, seed, stream, generation, ...): moves a population in place, without the GIL.
// combine_rows() and spread(): sums over rows. All arrays of a call are float32, or all are float64.
#include "../api.h"
#include "arrays.h"
#include "module.h"
#include "release.h"

namespace popgrad::bindings {

namespace {

py::tuple fields_of(const MoveRule& rule) { return py::tuple(py::str(rule.fields).attr("split")()); }

py::dict move_rules() {
  py::dict rules;
  for (int k = 0; k < kernels().move_count; ++k)
    rules[kernels().moves[k].name] = py::cast(&kernels().moves[k], py::return_value_policy::reference);
  return rules;
}

// fields: (F,) or (P, F) float64. out: arrays (P, n). sources: arrays (rows, n), or (n,) for one row that serves
// all. rows: for each source None (the member's own) or (P,) int64. chosen: (P,) int64. identity: (P,) uint32.
void move_bound(const MoveRule& rule, const py::object& fields, const py::list& out, const py::list& sources,
                uint64_t seed, uint32_t stream, uint32_t generation, const py::object& rows, const py::object& chosen,
                const py::object& identity) {
  if (int(out.size()) != rule.outputs || int(sources.size()) != rule.sources)
    throw py::value_error("[_core.move] wrong number of outputs or sources");
  const bool with_rows = !rows.is_none();
  if (with_rows && (!py::isinstance<py::list>(rows) || py::len(rows) != sources.size()))
    throw py::value_error("[_core.move] rows must be a list with one entry per source");
  with_type("out", out[0], [&](auto type) {
    using T = decltype(type);
    MoveArgs<T> args{};
    const py::ssize_t popsize = length("out", out[0]), n = length("out", out[0], 1);
    if (n >= py::ssize_t(UINT32_MAX) || popsize >= py::ssize_t(UINT32_MAX))
      throw py::value_error("[_core.move] more than 2^32 - 2 members or coordinates");
    for (size_t k = 0; k < out.size(); ++k) args.out[k] = output<T>("out", out[k], {popsize, n});
    for (size_t k = 0; k < sources.size(); ++k) {
      const py::object source = sources[k];
      const bool one = py::isinstance<py::array>(source) && py::reinterpret_borrow<py::array>(source).ndim() == 1;
      args.source[k] = one ? input<T>("source", source, {n}) : input<T>("source", source, {any, n});
      args.source_stride[k] = one ? 0 : size_t(n);
      const py::ssize_t have = one ? popsize : length("source", source);
      const py::object row = with_rows ? py::object(py::list(rows)[k]) : py::none();
      args.row[k] = optional_input<int64_t>("rows", row, {popsize});
      if (!args.row[k] && have < popsize)
        throw py::value_error("[_core.move] a source has fewer rows than the population");
      for (py::ssize_t p = 0; args.row[k] && p < popsize; ++p)
        if (args.row[k][p] < 0 || args.row[k][p] >= have) throw py::index_error("[_core.move] row out of range");
    }
    const bool each = py::isinstance<py::array>(fields) && py::reinterpret_borrow<py::array>(fields).ndim() == 2;
    const py::ssize_t count = py::len(fields_of(rule));
    args.fields = each ? input<double>("fields", fields, {popsize, count}) : input<double>("fields", fields, {count});
    args.field_stride = each ? size_t(count) : 0;
    args.chosen = optional_input<int64_t>("chosen", chosen, {popsize});
    args.identity = optional_input<uint32_t>("identity", identity, {popsize});
    args.seed = seed;
    args.stream = stream;
    args.generation = generation;
    args.n = size_t(n);
    const Released release;
    move(rule, args, size_t(popsize));
  });
}

void combine_rows_bound(const py::object& weights, const py::object& rows, const py::object& center,
                        const py::object& out) {
  with_type("rows", rows, [&](auto type) {
    using T = decltype(type);
    const py::ssize_t count = length("rows", rows), n = length("rows", rows, 1);
    const double* const w = input<double>("weights", weights, {count});
    const T* const r = input<T>("rows", rows, {count, n});
    const T* const c = input<T>("center", center, {n});
    T* const o = output<T>("out", out, {n});
    const Released release;
    combine_rows(w, r, c, size_t(count), size_t(n), o);
  });
}

void spread_bound(const py::object& rows, const py::object& which, const py::object& out) {
  with_type("rows", rows, [&](auto type) {
    using T = decltype(type);
    const py::ssize_t count = length("rows", rows), n = length("rows", rows, 1);
    const T* const r = input<T>("rows", rows, {count, n});
    const py::ssize_t wanted = length("which", which);
    const int64_t* const k = input<int64_t>("which", which, {wanted});
    for (py::ssize_t p = 0; p < wanted; ++p)
      if (k[p] < 0 || k[p] >= count) throw py::index_error("[_core.spread] row out of range");
    T* const o = output<T>("out", out, {wanted, n});
    const Released release;
    spread(r, size_t(count), k, size_t(wanted), size_t(n), o);
  });
}

}  // namespace

void bind_moves(py::module_& m) {
  py::class_<MoveRule>(m, "MoveRule")
      .def_readonly("name", &MoveRule::name)
      .def_readonly("outputs", &MoveRule::outputs)
      .def_readonly("sources", &MoveRule::sources)
      .def_property_readonly("fields", &fields_of)
      .def("__repr__", [](const MoveRule& rule) { return std::string("<MoveRule ") + rule.name + ">"; });
  m.def("move_rules", &move_rules);
  m.def("move", &move_bound, py::arg("rule"), py::arg("fields"), py::arg("out"), py::arg("sources"), py::arg("seed"),
        py::arg("stream"), py::arg("generation"), py::arg("rows") = py::none(), py::arg("chosen") = py::none(),
        py::arg("identity") = py::none());
  m.def("combine_rows", &combine_rows_bound, py::arg("weights"), py::arg("rows"), py::arg("center"), py::arg("out"));
  m.def("spread", &spread_bound, py::arg("rows"), py::arg("which"), py::arg("out"));
}

}  // namespace popgrad::bindings
