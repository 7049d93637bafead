"""The tables where an algorithm registers for every test at once.

An optimizer or search that is registered in popgrad but has no row here fails ``test_registered``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from popgrad import optim, search

# --- Gradient optimizers --------------------------------------------------------------------------
# One step in float64, written from the paper: formula(optimizer, w, g, state, t) -> w. The state is a dict that
# the formula fills; it never looks at popgrad's.


def sgd(o, w, g, s, t):
    return w - o.learning_rate * g


def momentum(o, w, g, s, t):
    s["v"] = o.beta * s.get("v", 0) + (1 - o.beta) * g
    return w - o.learning_rate * s["v"]


def heavy_ball(o, w, g, s, t):
    s["v"] = o.momentum * s.get("v", 0) + g
    return w - o.learning_rate * s["v"]


def nesterov(o, w, g, s, t):
    s["v"] = o.momentum * s.get("v", 0) + g
    return w - o.learning_rate * (g + o.momentum * s["v"])


def adagrad(o, w, g, s, t):
    s["s"] = s.get("s", 0) + g**2
    return w - o.learning_rate * g / (np.sqrt(s["s"]) + o.epsilon)


def rmsprop(o, w, g, s, t):
    s["v"] = o.rho * s.get("v", 0) + (1 - o.rho) * g**2
    return w - o.learning_rate * g / (np.sqrt(s["v"]) + o.epsilon)


def adadelta(o, w, g, s, t):
    s["s"] = o.rho * s.get("s", 0) + (1 - o.rho) * g**2
    delta = np.sqrt(s.get("d", 0) + o.epsilon) / np.sqrt(s["s"] + o.epsilon) * g
    s["d"] = o.rho * s.get("d", 0) + (1 - o.rho) * delta**2
    return w - o.learning_rate * delta


def adam(o, w, g, s, t):
    s["m"] = o.beta1 * s.get("m", 0) + (1 - o.beta1) * g
    s["v"] = o.beta2 * s.get("v", 0) + (1 - o.beta2) * g**2
    m, v = s["m"] / (1 - o.beta1**t), s["v"] / (1 - o.beta2**t)
    return w - o.learning_rate * m / (np.sqrt(v) + o.epsilon)


def adamw(o, w, g, s, t):
    return adam(o, w * (1 - o.learning_rate * o.weight_decay), g, s, t)


@dataclass(frozen=True)
class Rule:
    """An optimizer, its formula, the torch.optim class and arguments that it equals, and values it must refuse."""

    optimizer: optim.Optimizer
    formula: Callable[..., Any]
    torch: tuple[str, dict[str, Any]]
    refuses: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return type(self.optimizer).__name__


OPTIMIZERS = [
    Rule(optim.SGD(0.1), sgd, ("SGD", {"lr": 0.1}), {"learning_rate": -1.0}),
    # The averaged form is PyTorch's with lr (1 - beta) and no dampening; dampening=beta is another algorithm.
    Rule(optim.Momentum(0.1, 0.9), momentum, ("SGD", {"lr": 0.1 * (1 - 0.9), "momentum": 0.9}), {"beta": 1.0}),
    Rule(optim.HeavyBall(0.1, 0.8), heavy_ball, ("SGD", {"lr": 0.1, "momentum": 0.8}), {"momentum": -0.1}),
    Rule(
        optim.Nesterov(0.1, 0.8),
        nesterov,
        ("SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True}),
        {"momentum": float("nan")},
    ),
    Rule(optim.AdaGrad(0.1), adagrad, ("Adagrad", {"lr": 0.1, "eps": 1e-10}), {"epsilon": 0.0}),
    Rule(optim.RMSprop(0.01, rho=0.95), rmsprop, ("RMSprop", {"lr": 0.01, "alpha": 0.95, "eps": 1e-8}), {"rho": 1.5}),
    Rule(optim.AdaDelta(1.0), adadelta, ("Adadelta", {"lr": 1.0, "rho": 0.9, "eps": 1e-6}), {"epsilon": -1e-6}),
    Rule(optim.Adam(0.01), adam, ("Adam", {"lr": 0.01}), {"beta1": 1.2}),
    Rule(
        optim.AdamW(0.01, weight_decay=0.3), adamw, ("AdamW", {"lr": 0.01, "weight_decay": 0.3}), {"weight_decay": 1.0}
    ),
]

# --- Problems -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """A function of (P, n), where to start, its bounds, and its minimum's value."""

    name: str
    f: Callable[[Any], Any]
    x0: Any
    bounds: tuple[float, float]
    minimum: float = 0.0


PROBLEMS = {
    "sphere": Problem("sphere", lambda x: (x**2).sum(1), np.full(4, 1.0), (-2.0, 3.0)),
    "ellipsoid": Problem("ellipsoid", lambda x: (x**2 * [1, 5, 25, 125]).sum(1), np.full(4, 1.0), (-2.0, 3.0)),
    "rosenbrock": Problem(
        "rosenbrock",
        lambda x: 100 * (x[:, 1] - x[:, 0] ** 2) ** 2 + (1 - x[:, 0]) ** 2,
        np.array([-1.0, 1.0]),
        (-2.0, 2.0),
    ),
    "rastrigin": Problem(
        "rastrigin", lambda x: 20 + (x**2 - 10 * np.cos(2 * np.pi * x)).sum(1), np.array([2.2, -1.7]), (-5.12, 5.12)
    ),
}

# --- Searches -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """A search, the value that it reaches on each problem with 20,000 evaluations, and values it must refuse."""

    search: search.Search
    solves: dict[str, float]
    refuses: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return type(self.search).__name__


SEARCHES = [
    Method(search.RandomSearch(sigma=1.0), {"sphere": 0.5, "rosenbrock": 0.1}, {"sigma": 0.0}),
    Method(search.SimulatedAnnealing(), {"sphere": 1e-2, "ellipsoid": 1e-1}, {"cooling": 1.0}),
    Method(search.TabuSearch(), {"sphere": 1e-6, "ellipsoid": 1e-3}, {"tenure": 0}),
    Method(search.GeneticAlgorithm(), {"sphere": 1e-3, "rastrigin": 1.0}, {"elites": 32}),
    Method(search.PSO(), {"sphere": 1e-8, "ellipsoid": 1e-8, "rosenbrock": 1e-4}, {"inertia": -0.5}),
    Method(search.DE(), {"sphere": 1e-8, "ellipsoid": 1e-8, "rosenbrock": 1e-6, "rastrigin": 1e-6}, {"popsize": 3}),
    Method(search.ACOR(), {"sphere": 1e-8, "ellipsoid": 1e-8}, {"archive": 1}),
    Method(search.OpenAIES(), {"sphere": 1e-2, "ellipsoid": 1e-1}, {"popsize": 7}),
]
