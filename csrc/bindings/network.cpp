// Network(sizes, activation, dropout): forward, gradient and population sums of a multilayer perceptron; see network.h.
// activations(): {name: Activation}; scores(): {name: Score}
#include "network.h"

#include <pybind11/stl.h>

#include "module.h"

namespace popgrad::bindings {

namespace {

template <class Entry>
py::dict by_name(const Entry* entries, int count) {
  py::dict all;
  for (int k = 0; k < count; ++k) all[entries[k].name] = py::cast(&entries[k], py::return_value_policy::reference);
  return all;
}

}  // namespace

void bind_network(py::module_& m) {
  py::class_<Activation>(m, "Activation")
      .def_readonly("name", &Activation::name)
      .def_readonly("differentiable", &Activation::differentiable)
      .def("__repr__", [](const Activation& a) { return std::string("<Activation ") + a.name + ">"; });
  py::class_<Score>(m, "Score")
      .def_readonly("name", &Score::name)
      .def_readonly("labels", &Score::labels)
      .def_readonly("differentiable", &Score::differentiable)
      .def("__repr__", [](const Score& score) { return std::string("<Score ") + score.name + ">"; });
  m.def("activations", [] { return by_name(kernels().activations, kernels().activation_count); });
  m.def("scores", [] { return by_name(kernels().scores, kernels().score_count); });
  py::class_<AnyPacked>(m, "Packed").def_readonly("samples", &AnyPacked::samples);
  py::class_<Network>(m, "Network")
      .def(py::init([](const py::sequence& sizes, const std::string& activation, const std::vector<double>& dropout) {
             std::vector<int64_t> values;
             for (const py::handle size : sizes) values.push_back(size.cast<int64_t>());
             return Network(values, activation, dropout);
           }),
           py::arg("sizes"), py::arg("activation"), py::arg("dropout") = std::vector<double>())
      .def_property_readonly("n", &Network::n)
      .def("pack", &Network::pack, py::arg("X"), py::arg("y"), py::arg("weight") = py::none(),
           py::arg("rows") = py::none(), py::arg("bfloat16") = false)
      .def("evaluate", &Network::evaluate, py::arg("score"), py::arg("population"), py::arg("packed"), py::arg("out"))
      .def("measure", &Network::measure, py::arg("scores"), py::arg("packed"), py::arg("w"),
           py::arg("outputs") = py::none())
      .def("evaluate_noise", &Network::evaluate_noise, py::arg("score"), py::arg("noise"), py::arg("center"),
           py::arg("packed"), py::arg("out"))
      .def("forward", &Network::forward, py::arg("population"), py::arg("X"), py::arg("out"),
           py::arg("bfloat16") = false)
      .def("gradient", &Network::gradient, py::arg("score"), py::arg("w"), py::arg("X"), py::arg("y"),
           py::arg("weight"), py::arg("rows"), py::arg("out"), py::arg("noise") = 0.0, py::arg("mixup") = 0.0,
           py::arg("seed") = 0, py::arg("step") = 0, py::arg("metric") = py::none(), py::arg("bfloat16") = false);
}

}  // namespace popgrad::bindings
