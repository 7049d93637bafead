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


def sign_sgd(o, w, g, s, t):
    return w - o.learning_rate * np.sign(g)


def signum(o, w, g, s, t):
    s["v"] = o.beta * s.get("v", 0) + (1 - o.beta) * g
    return w - o.learning_rate * np.sign(s["v"])


def lion(o, w, g, s, t):
    step = np.sign(o.beta1 * s.get("m", 0) + (1 - o.beta1) * g)
    s["m"] = o.beta2 * s.get("m", 0) + (1 - o.beta2) * g
    return w - o.learning_rate * (step + o.weight_decay * w)


def rprop(o, w, g, s, t):
    length = s.get("length", np.full_like(w, o.learning_rate))
    agree = np.sign(g * s.get("g", 0 * g))
    length = np.where(agree > 0, length * o.grow, np.where(agree < 0, length * o.shrink, length))
    s["length"] = length.clip(o.shortest, o.longest)
    s["g"] = np.where(agree < 0, 0, g)
    return w - s["length"] * np.sign(s["g"])


def asgd(o, w, g, s, t):
    eta = o.learning_rate / (1 + o.decay * o.learning_rate * (t - 1)) ** o.power
    w = w - eta * (g + o.decay * w)
    mu = 1 / max(1, t - 1 - o.begin)
    s["average"] = s.get("average", 0) + mu * (w - s.get("average", 0))
    return w


def rmsprop_any(o, w, g, s, t):
    s["v"] = o.rho * s.get("v", 0) + (1 - o.rho) * g**2
    variance = s["v"]
    if o.centered:
        s["mean"] = o.rho * s.get("mean", 0) + (1 - o.rho) * g
        variance = variance - s["mean"] ** 2
    step = g / (np.sqrt(variance) + o.epsilon)
    if o.momentum:
        step = s["velocity"] = o.momentum * s.get("velocity", 0) + step
    return w - o.learning_rate * step


def moments(o, g, s, t):
    """Adam's m and v, corrected."""
    s["m"] = o.beta1 * s.get("m", 0) + (1 - o.beta1) * g
    s["v"] = o.beta2 * s.get("v", 0) + (1 - o.beta2) * g**2
    return s["m"] / (1 - o.beta1**t), s["v"] / (1 - o.beta2**t)


def amsgrad(o, w, g, s, t):
    m, _ = moments(o, g, s, t)
    s["largest"] = np.maximum(s.get("largest", 0), s["v"])
    w = w * (1 - o.learning_rate * o.weight_decay)
    return w - o.learning_rate * m / (np.sqrt(s["largest"] / (1 - o.beta2**t)) + o.epsilon)


def adamax(o, w, g, s, t):
    s["m"] = o.beta1 * s.get("m", 0) + (1 - o.beta1) * g
    s["u"] = np.maximum(o.beta2 * s.get("u", 0), np.abs(g) + o.epsilon)
    return w - o.learning_rate / (1 - o.beta1**t) * s["m"] / s["u"]


def nadam(o, w, g, s, t):
    _, v = moments(o, g, s, t)
    if o.momentum_decay is None:
        mus = [o.beta1] * (t + 1)
    else:
        mus = [o.beta1 * (1 - 0.5 * 0.96 ** (i * o.momentum_decay)) for i in range(1, t + 2)]
    now, following = (1 - mus[t - 1]) / (1 - np.prod(mus[:t])), mus[t] / (1 - np.prod(mus))
    return w - o.learning_rate * (now * g + following * s["m"]) / (np.sqrt(v) + o.epsilon)


def radam(o, w, g, s, t):
    m, _ = moments(o, g, s, t)
    longest = 2 / (1 - o.beta2) - 1
    length = longest - 2 * t * o.beta2**t / (1 - o.beta2**t)
    if length <= 5:
        return w - o.learning_rate * m
    above, below = (length - 4) * (length - 2) * longest, (longest - 4) * (longest - 2) * length
    adaptive = np.sqrt(1 - o.beta2**t) / (np.sqrt(s["v"]) + o.epsilon)
    return w - o.learning_rate * m * np.sqrt(above / below) * adaptive


def adabelief(o, w, g, s, t):
    s["m"] = o.beta1 * s.get("m", 0) + (1 - o.beta1) * g
    s["s"] = o.beta2 * s.get("s", 0) + (1 - o.beta2) * (g - s["m"]) ** 2 + o.epsilon
    root = np.sqrt(s["s"] / (1 - o.beta2**t))
    return w - o.learning_rate * s["m"] / (1 - o.beta1**t) / (root + o.epsilon)


def yogi(o, w, g, s, t):
    s["m"] = o.beta1 * s.get("m", 0) + (1 - o.beta1) * g
    v = s.get("v", 0)
    s["v"] = v - (1 - o.beta2) * np.sign(v - g**2) * g**2
    return w - o.learning_rate * s["m"] / (1 - o.beta1**t) / (np.sqrt(s["v"] / (1 - o.beta2**t)) + o.epsilon)


def adopt(o, w, g, s, t):
    if t == 1:
        s["m"], s["v"] = 0 * g, g**2
        return w
    step = g / np.maximum(np.sqrt(s["v"]), o.epsilon)
    s["m"] = o.beta1 * s["m"] + (1 - o.beta1) * np.clip(step, -((t - 1) ** 0.25), (t - 1) ** 0.25)
    s["v"] = o.beta2 * s["v"] + (1 - o.beta2) * g**2
    return w * (1 - o.learning_rate * o.weight_decay) - o.learning_rate * s["m"]


def ademamix(o, w, g, s, t):
    s["fast"] = o.beta1 * s.get("fast", 0) + (1 - o.beta1) * g
    s["slow"] = o.beta3 * s.get("slow", 0) + (1 - o.beta3) * g
    s["v"] = o.beta2 * s.get("v", 0) + (1 - o.beta2) * g**2
    step = s["fast"] / (1 - o.beta1**t) + o.alpha * s["slow"]
    step = step / (np.sqrt(s["v"] / (1 - o.beta2**t)) + o.epsilon)
    return w - o.learning_rate * (step + o.weight_decay * w)


def adan(o, w, g, s, t):
    difference = g - s.get("g", g)
    s["g"] = g
    s["m"] = o.beta1 * s.get("m", 0) + (1 - o.beta1) * g
    s["d"] = o.beta2 * s.get("d", 0) + (1 - o.beta2) * difference
    s["n"] = o.beta3 * s.get("n", 0) + (1 - o.beta3) * (g + o.beta2 * difference) ** 2
    step = s["m"] / (1 - o.beta1**t) + o.beta2 * s["d"] / (1 - o.beta2**t)
    step = step / (np.sqrt(s["n"] / (1 - o.beta3**t)) + o.epsilon)
    return (w - o.learning_rate * step) / (1 + o.learning_rate * o.weight_decay)


def norm(x):
    return np.sqrt((x**2).sum())


def lars(o, w, g, s, t):
    ratio = o.trust * norm(w) / (norm(g) + o.weight_decay * norm(w) + o.epsilon) if norm(w) > 0 else 1
    s["v"] = o.momentum * s.get("v", 0) + o.learning_rate * ratio * (g + o.weight_decay * w)
    return w - s["v"]


def lamb(o, w, g, s, t):
    m, v = moments(o, g, s, t)
    update = m / (np.sqrt(v) + o.epsilon) + o.weight_decay * w
    return w - o.learning_rate * norm(w) / norm(update) * update


def novograd(o, w, g, s, t):
    s["layer"] = norm(g) ** 2 if t == 1 else o.beta2 * s["layer"] + (1 - o.beta2) * norm(g) ** 2
    gain = 1 - o.beta1 if o.averaging else 1
    s["m"] = o.beta1 * s.get("m", 0) + gain * (g / (np.sqrt(s["layer"]) + o.epsilon) + o.weight_decay * w)
    return w - o.learning_rate * s["m"]


def prodigy(o, w, g, s, t):
    start, d, beta3 = s.setdefault("start", w), s.get("d", o.start), np.sqrt(o.beta2)
    step = d * o.learning_rate
    s["m"] = o.beta1 * s.get("m", 0) + (1 - o.beta1) * d * g
    s["v"] = o.beta2 * s.get("v", 0) + (1 - o.beta2) * (d * g) ** 2
    s["r"] = beta3 * s.get("r", 0) + d / o.start * step * (g * (start - w)).sum()
    s["s"] = beta3 * s.get("s", 0) + d / o.start * step * g
    estimate = o.coefficient * s["r"] / np.abs(s["s"]).sum()
    s["largest"] = max(s.get("largest", o.start), estimate)
    s["d"] = min(s["largest"], max(d, estimate if d == o.start else d) * (o.growth or np.inf))
    return w - step * (s["m"] / (np.sqrt(s["v"]) + s["d"] * o.epsilon) + o.weight_decay * w)


def sophia(o, w, g, s, t):
    s["m"] = o.beta1 * s.get("m", 0) + (1 - o.beta1) * g
    s["h"] = s.get("h", 0 * w)
    w = w * (1 - o.learning_rate * o.weight_decay)
    return w - o.learning_rate * np.clip(s["m"] / (o.rho * s["h"] + o.epsilon), -1, 1)


def schedule_free(o, y, g, s, t):
    """The paper's three sequences; y is what popgrad has as parameters."""
    z = s.get("z", y)
    x = (y - (1 - o.beta) * z) / o.beta
    s["largest"] = max(s.get("largest", 0), o.learning_rate)
    weight = t**o.power * s["largest"] ** 2
    s["sum"] = s.get("sum", 0) + weight
    s["z"] = z - o.learning_rate * g
    x = x + weight / s["sum"] * (s["z"] - x)
    return (1 - o.beta) * s["z"] + o.beta * x


def schedule_free_adamw(o, y, g, s, t):
    s["v"] = o.beta2 * s.get("v", 0) + (1 - o.beta2) * g**2
    return schedule_free(o, y, g / (np.sqrt(s["v"] / (1 - o.beta2**t)) + o.epsilon) + o.weight_decay * y, s, t)


@dataclass(frozen=True)
class Rule:
    """An optimizer, its formula, values it must refuse, and what it equals in torch.optim (None: it has no such)."""

    optimizer: optim.Optimizer
    formula: Callable[..., Any]
    torch: tuple[str, dict[str, Any]] | None
    refuses: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        name = type(self.optimizer).__name__
        return name if self.optimizer.rule.lower() == name.lower() else f"{name}-{self.optimizer.rule}"


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
    Rule(optim.SignSGD(0.01), sign_sgd, None, {"learning_rate": float("nan")}),
    Rule(optim.Signum(0.01), signum, None, {"beta": 1.0}),
    Rule(optim.Lion(0.01, weight_decay=0.3), lion, None, {"weight_decay": -0.1}),
    Rule(optim.Rprop(0.01), rprop, ("Rprop", {"lr": 0.01}), {"grow": 1.0, "shrink": 1.0, "longest": 0.0}),
    Rule(
        optim.ASGD(0.1, decay=0.01, begin=3),
        asgd,
        ("ASGD", {"lr": 0.1, "lambd": 0.01, "t0": 3}),
        {"begin": -1, "power": 0.0, "decay": 1.0},
    ),
    Rule(
        optim.RMSprop(0.01, centered=True),
        rmsprop_any,
        ("RMSprop", {"lr": 0.01, "centered": True}),
        {"momentum": 1.0},
    ),
    Rule(optim.RMSprop(0.01, momentum=0.8), rmsprop_any, ("RMSprop", {"lr": 0.01, "momentum": 0.8})),
    Rule(
        optim.RMSprop(0.01, momentum=0.8, centered=True),
        rmsprop_any,
        ("RMSprop", {"lr": 0.01, "momentum": 0.8, "centered": True}),
    ),
    Rule(
        optim.AMSGrad(0.01, weight_decay=0.3),
        amsgrad,
        ("AdamW", {"lr": 0.01, "weight_decay": 0.3, "amsgrad": True}),
        {"beta2": 1.0},
    ),
    Rule(optim.AdaMax(0.01), adamax, ("Adamax", {"lr": 0.01}), {"epsilon": 0.0}),
    Rule(optim.NAdam(0.01), nadam, ("NAdam", {"lr": 0.01}), {"momentum_decay": -1.0}),
    Rule(optim.NAdam(0.01, momentum_decay=None), nadam, None),
    Rule(optim.RAdam(0.01), radam, ("RAdam", {"lr": 0.01}), {"beta1": -0.5}),
    Rule(optim.AdaBelief(0.01), adabelief, None, {"epsilon": 0.0}),
    Rule(optim.Yogi(0.01), yogi, None, {"beta2": 2.0}),
    Rule(optim.ADOPT(0.01, weight_decay=0.3), adopt, None, {"weight_decay": 1.0}),
    Rule(optim.AdEMAMix(0.01, beta3=0.99, weight_decay=0.3), ademamix, None, {"alpha": 0.0, "beta3": 1.0}),
    Rule(optim.Adan(0.01, weight_decay=0.3), adan, None, {"beta3": 1.0}),
    Rule(optim.LARS(10.0, weight_decay=0.3), lars, None, {"trust": 0.0, "epsilon": -1.0, "momentum": 1.0}),
    Rule(optim.LAMB(0.01, weight_decay=0.3), lamb, None, {"epsilon": 0.0, "beta2": 1.0}),
    Rule(optim.NovoGrad(0.01, weight_decay=0.3), novograd, None, {"beta1": 1.0}),
    Rule(optim.Prodigy(start=1e-3, weight_decay=0.3), prodigy, None, {"growth": 1.0, "start": 0.0}),
    Rule(optim.SophiaG(0.01, weight_decay=0.3), sophia, None, {"interval": 0, "rho": 0.0}),
    Rule(optim.ScheduleFreeSGD(0.1), schedule_free, None, {"beta": 0.0, "power": -1.0}),
    Rule(optim.ScheduleFreeAdamW(0.01, weight_decay=0.3), schedule_free_adamw, None, {"beta2": 1.0, "epsilon": 0.0}),
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
