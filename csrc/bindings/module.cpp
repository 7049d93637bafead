#include "module.h"

PYBIND11_MODULE(_core, m) {
  m.doc() = "The native core of popgrad. Its functions check types and shapes and convert nothing.";
  popgrad::bindings::bind_runtime(m);
  popgrad::bindings::bind_numbers(m);
  popgrad::bindings::bind_steps(m);
  popgrad::bindings::bind_tensors(m);
  popgrad::bindings::bind_moves(m);
  popgrad::bindings::bind_perturbations(m);
  popgrad::bindings::bind_network(m);
  popgrad::bindings::bind_training(m);
}
