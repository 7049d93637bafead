#pragma once

#include <pybind11/pybind11.h>

namespace popgrad::bindings {

void bind_runtime(pybind11::module_&);
void bind_numbers(pybind11::module_&);
void bind_steps(pybind11::module_&);
void bind_tensors(pybind11::module_&);
void bind_moves(pybind11::module_&);
void bind_perturbations(pybind11::module_&);
void bind_network(pybind11::module_&);
void bind_training(pybind11::module_&);

}  // namespace popgrad::bindings
