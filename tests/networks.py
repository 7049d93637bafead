"""A multilayer perceptron and its losses in NumPy, and problems to compare it on."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import special

from popgrad import losses
from popgrad.models.mlp import ACTIVATIONS

# Every loss with its default setting, and some with another one.
LOSSES = [
    *(kind() for kind in losses.REGISTRY.values()),
    losses.CrossEntropy(label_smoothing=0.1),
    losses.BinaryCrossEntropy(label_smoothing=0.3),
    losses.Focal(gamma=0.5),
    losses.Focal(gamma=0.0),
    losses.BinaryFocal(gamma=0.5),
    losses.Huber(delta=0.7),
    losses.Quantile(tau=0.9),
]

every_loss = pytest.mark.parametrize("loss", LOSSES, ids=str)

DTYPES = ("float32", "float64")

every_activation = pytest.mark.parametrize("activation", ACTIVATIONS)

every_dtype = pytest.mark.parametrize("dtype", DTYPES)


# --- The model in NumPy, float64 ----------------------------------------------------------------------------------

# In NumPy, and in PyTorch: the name of a class of torch.nn, or a function of torch and the tensor.
ACTIVATION_CASES = {
    "identity": (lambda z: z, "Identity"),
    "relu": (lambda z: np.maximum(z, 0), "ReLU"),
    "leaky_relu": (lambda z: np.where(z > 0, z, 0.01 * z), "LeakyReLU"),
    "elu": (lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))), "ELU"),
    "gelu": (lambda z: z * special.ndtr(z), "GELU"),
    "silu": (lambda z: z * special.expit(z), "SiLU"),
    "tanh": (np.tanh, "Tanh"),
    "sigmoid": (special.expit, "Sigmoid"),
    "softplus": (lambda z: np.logaddexp(z, 0), "Softplus"),
    "sin": (np.sin, lambda torch, z: torch.sin(z)),
    "step": (lambda z: (z > 0).astype(float), lambda torch, z: (z > 0).to(z.dtype)),
}
REFERENCE = {name: function for name, (function, _) in ACTIVATION_CASES.items()}


def hidden_and_outputs(model, params, X):
    """What goes into each activation, and the raw outputs, in float64."""
    layers = list(model.views(params).values())
    before, a = [], np.asarray(X, np.float64)
    for number, (weight, bias) in enumerate(zip(layers[::2], layers[1::2], strict=True)):
        z = a @ weight.T.astype(np.float64) + bias
        if 2 * number + 2 == len(layers):
            return before, z
        before.append(z)
        a = REFERENCE[model.activation](z)
    raise AssertionError("a model has at least one layer")


def targets(loss, samples, outputs, rng):
    if loss.targets == "labels":
        return rng.integers(outputs, size=samples)
    if loss.targets == "counts":
        return rng.poisson(2, (samples, outputs))
    spread = 1 if loss.targets == "binary" else 4
    return spread * (rng.random((samples, outputs)) - 0.5) + (0.5 if spread == 1 else 0)


def problem(model, samples, seed=0, members=3):
    """(population, X, y, weight) of a size that fits the model; the weights hold zeros."""
    rng = np.random.default_rng(seed)
    population = rng.normal(scale=0.7, size=(members, len(model.params))).astype(model.dtype)
    X = rng.normal(size=(samples, model.sizes[0]))
    weight = rng.integers(0, 4, samples) + (np.arange(samples) == 0)
    if model.activation == "step":  # sums without rounding, so that a unit cannot tip over
        population, X = np.round(4 * population) / 4, np.round(4 * X) / 4
        population = population.astype(model.dtype)
    return population, X.astype(model.dtype), targets(model.criterion, samples, model.sizes[-1], rng), weight


def metrics_of(loss):
    if loss.targets == "counts":
        return ("loss", "poisson_deviance")
    return ("loss", "error_rate") if loss.has_classes else ("loss", "mse", "mae")


def sequential(torch, model):
    """The same network as a PyTorch Sequential, with weights of its own."""
    kind = ACTIVATION_CASES[model.activation][1]

    class Unit(torch.nn.Module):
        def forward(self, x):
            return kind(torch, x)

    unit = Unit if callable(kind) else getattr(torch.nn, kind)
    modules = []
    for (inputs, outputs), rate in itertools.zip_longest(itertools.pairwise(model.sizes), model.dropout_rates):
        modules += [torch.nn.Linear(inputs, outputs), unit()]
        modules += [torch.nn.Dropout(rate)] if rate else []
    return torch.nn.Sequential(*modules[:-1]).to(getattr(torch, model.dtype.name)).eval()
