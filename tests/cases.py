"""The table where a gradient optimizer registers for every test at once; searches: search_cases.py.

An optimizer that is registered in popgrad but has no row here fails ``test_registered``. Its options: variants.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from popgrad import optim

# One step in float64, written from the paper: formula(optimizer, w, g, state, t) -> w. The state is a dict that
# the formula fills; it never looks at popgrad's.


def sgd(o, w, g, s, t):
    return w - o.learning_rate * g


def momentum(o, w, g, s, t):
    s["v"] = o.beta * s.get("v", 0) + (1 - o.beta) * g
    return w - o.learning_rate * s["v"]


def heavy_ball(o, w, g, s, t):
    if t > 1:
        g = (1 - o.dampening) * g
    if o.rate_inside:
        s["v"] = o.momentum * s.get("v", 0) + o.learning_rate * g
        return w - s["v"]
    s["v"] = o.momentum * s.get("v", 0) + g
    return w - o.learning_rate * s["v"]


def nesterov(o, w, g, s, t):
    if o.rate_inside:
        s["v"] = o.momentum * s.get("v", 0) + o.learning_rate * g
        return w - (o.learning_rate * g + o.momentum * s["v"])
    s["v"] = o.momentum * s.get("v", 0) + g
    return w - o.learning_rate * (g + o.momentum * s["v"])


def root(o, v):
    return np.sqrt(v + o.epsilon_root) + o.epsilon


def adagrad(o, w, g, s, t):
    s["s"] = s.get("s", o.initial) + g**2
    return w - o.learning_rate / (1 + (t - 1) * o.rate_decay) * g / root(o, s["s"])


def rmsprop(o, w, g, s, t):
    s["v"] = o.rho * s.get("v", o.initial) + (1 - o.rho) * g**2
    variance = s["v"]
    if o.centered:
        s["mean"] = o.rho * s.get("mean", 0) + (1 - o.rho) * g
        variance = variance - s["mean"] ** 2
    step = g / root(o, variance)
    if o.momentum and o.rate_inside:
        s["velocity"] = o.momentum * s.get("velocity", 0) + o.learning_rate * step
        return w - s["velocity"]
    if o.momentum:
        step = s["velocity"] = o.momentum * s.get("velocity", 0) + step
    return w - o.learning_rate * step


def adadelta(o, w, g, s, t):
    s["s"] = o.rho * s.get("s", 0) + (1 - o.rho) * g**2
    delta = np.sqrt(s.get("d", 0) + o.epsilon) / np.sqrt(s["s"] + o.epsilon) * g
    s["d"] = o.rho * s.get("d", 0) + (1 - o.rho) * delta**2
    return w - o.learning_rate * delta


def moments(o, g, s, t):
    """Adam's m and v; beside them in `s` both as they are."""
    s["m"] = o.beta1 * s.get("m", 0) + (1 - o.beta1) * g
    s["v"] = o.beta2 * s.get("v", 0) + (1 - o.beta2) * g**2
    return s["m"] / (1 - o.beta1**t), s["v"] / (1 - o.beta2**t)


def quotient(o, m, v, t):
    """alpha m / (sqrt(v) + epsilon) of raw moments, with the bias corrections where `o` wants them."""
    if o.bias_correction == "none":
        return o.learning_rate * m / root(o, v)
    if o.bias_correction == "rate":
        return o.learning_rate * np.sqrt(1 - o.beta2**t) / (1 - o.beta1**t) * m / root(o, v)
    return o.learning_rate * (m / (1 - o.beta1**t)) / root(o, v / (1 - o.beta2**t))


def decayed(o, w):
    return w * (1 - o.learning_rate * o.weight_decay) if o.decay_mode == "decoupled" else w


def adam(o, w, g, s, t):
    moments(o, g, s, t)
    return w - quotient(o, s["m"], s["v"], t)


def adamw(o, w, g, s, t):
    return adam(o, decayed(o, w), g, s, t)


def sign_sgd(o, w, g, s, t):
    return w - o.learning_rate * np.sign(g)


def signum(o, w, g, s, t):
    s["v"] = o.beta * s.get("v", 0) + (1 - o.beta) * g
    return w - o.learning_rate * np.sign(s["v"])


def lion(o, w, g, s, t):
    step = np.sign(o.beta1 * s.get("m", 0) + (1 - o.beta1) * g)
    s["m"] = o.beta2 * s.get("m", 0) + (1 - o.beta2) * g
    return decayed(o, w) - o.learning_rate * step


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


def amsgrad(o, w, g, s, t):
    m, v = moments(o, g, s, t)
    w = decayed(o, w)
    if o.maximum == "corrected" and o.bias_correction == "moments":
        s["largest"] = np.maximum(s.get("largest", 0), v)
        return w - o.learning_rate * m / root(o, s["largest"])
    s["largest"] = np.maximum(s.get("largest", 0), s["v"])
    return w - quotient(o, s["m"], s["largest"], t)


def adamax(o, w, g, s, t):
    s["m"] = o.beta1 * s.get("m", 0) + (1 - o.beta1) * g
    s["u"] = np.maximum(o.beta2 * s.get("u", 0), np.abs(g) + o.epsilon)
    return w - o.learning_rate / (1 - o.beta1**t) * s["m"] / (s["u"] + o.epsilon_outside)


def nadam(o, w, g, s, t):
    _, v = moments(o, g, s, t)
    if o.momentum_decay is None:
        mus = [o.beta1] * (t + 1)
    else:
        mus = [o.beta1 * (1 - 0.5 * 0.96 ** (i * o.momentum_decay)) for i in range(1, t + 2)]
    now, following = (1 - mus[t - 1]) / (1 - np.prod(mus[:t])), mus[t] / (1 - np.prod(mus))
    return w - o.learning_rate * (now * g + following * s["m"]) / root(o, v)


def radam(o, w, g, s, t):
    m, _ = moments(o, g, s, t)
    longest = 2 / (1 - o.beta2) - 1
    length = longest - 2 * t * o.beta2**t / (1 - o.beta2**t)
    if length <= o.threshold:
        return w - o.learning_rate * m
    above, below = (length - 4) * (length - 2) * longest, (longest - 4) * (longest - 2) * length
    return w - np.sqrt(above / below) * quotient(o, s["m"], s["v"], t)


def adabelief(o, w, g, s, t):
    s["m"] = o.beta1 * s.get("m", 0) + (1 - o.beta1) * g
    s["s"] = o.beta2 * s.get("s", 0) + (1 - o.beta2) * (g - s["m"]) ** 2 + o.epsilon_root
    m, v = s["m"] / (1 - o.beta1**t), s["s"] / (1 - o.beta2**t)
    return w - o.learning_rate * m / (np.sqrt(v) + o.epsilon)


def yogi(o, w, g, s, t):
    s["m"] = o.beta1 * s.get("m", o.initial) + (1 - o.beta1) * g
    v = s.get("v", o.initial)
    s["v"] = v - (1 - o.beta2) * np.sign(v - g**2) * g**2
    return w - quotient(o, s["m"], s["v"], t)


def adopt(o, w, g, s, t):
    if t == 1:
        s["m"], s["v"] = 0 * g, g**2
        return w
    step = g / np.maximum(np.sqrt(s["v"]), o.epsilon)
    s["m"] = o.beta1 * s["m"] + (1 - o.beta1) * np.clip(step, -((t - 1) ** 0.25), (t - 1) ** 0.25)
    s["v"] = o.beta2 * s["v"] + (1 - o.beta2) * g**2
    return decayed(o, w) - o.learning_rate * s["m"]


def ademamix(o, w, g, s, t):
    s["fast"] = o.beta1 * s.get("fast", 0) + (1 - o.beta1) * g
    s["slow"] = o.beta3 * s.get("slow", 0) + (1 - o.beta3) * g
    s["v"] = o.beta2 * s.get("v", 0) + (1 - o.beta2) * g**2
    step = s["fast"] / (1 - o.beta1**t) + o.alpha * s["slow"]
    return decayed(o, w) - o.learning_rate * step / root(o, s["v"] / (1 - o.beta2**t))


def adan(o, w, g, s, t):
    difference = g - s.get("g", g)
    s["g"] = g
    s["m"] = o.beta1 * s.get("m", 0) + (1 - o.beta1) * g
    s["d"] = o.beta2 * s.get("d", 0) + (1 - o.beta2) * difference
    s["n"] = o.beta3 * s.get("n", 0) + (1 - o.beta3) * (g + o.beta2 * difference) ** 2
    step = s["m"] / (1 - o.beta1**t) + o.beta2 * s["d"] / (1 - o.beta2**t)
    w = w - o.learning_rate * step / root(o, s["n"] / (1 - o.beta3**t))
    return w / (1 + o.learning_rate * o.weight_decay)


def norm(x):
    return np.sqrt((x**2).sum())


def lars(o, w, g, s, t):
    ratio = o.trust * norm(w) / (norm(g) + o.weight_decay * norm(w) + o.epsilon) if norm(w) > 0 else 1
    s["v"] = o.momentum * s.get("v", 0) + o.learning_rate * ratio * (g + o.weight_decay * w)
    return w - s["v"]


def lars_of_the_sum(o, w, g, s, t):
    """optax's, with the decay in g."""
    s["v"] = o.momentum * s.get("v", 0) + o.learning_rate * o.trust * norm(w) / norm(g) * g
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
    if o.bias_correction:
        step = step * np.sqrt(1 - o.beta2**t) / (1 - o.beta1**t)
    s["m"] = o.beta1 * s.get("m", 0) + (1 - o.beta1) * d * g
    s["v"] = o.beta2 * s.get("v", 0) + (1 - o.beta2) * (d * g) ** 2
    s["r"] = beta3 * s.get("r", 0) + d / o.start * step * (g * (start - w)).sum()
    s["s"] = beta3 * s.get("s", 0) + d / o.start * step * g
    estimate = o.coefficient * s["r"] / np.abs(s["s"]).sum()
    s["largest"] = max(s.get("largest", o.start), estimate)
    s["d"] = min(s["largest"], max(d, estimate if d == o.start else d) * (o.growth or np.inf))
    return w - step * (s["m"] / (np.sqrt(s["v"]) + s["d"] * o.epsilon) + o.weight_decay * w)


def dog(o, w, g, s, t):
    start = s.setdefault("start", w)
    s["r"] = max(s.get("r", o.start * (1 + np.linalg.norm(start))), np.linalg.norm(w - start))
    s["G"] = s.get("G", 0) + (g**2).sum()
    w = w - o.learning_rate * s["r"] / np.sqrt(s["G"] + o.epsilon) * (g + o.weight_decay * w)
    average = s.get("average", w)
    s["average"] = average + (1 + o.averaging) / (t + o.averaging) * (w - average)
    return w


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
    """An optimizer, its formula, what it equals in other libraries, and values it must refuse.

    A reference is a name and arguments: a class of torch.optim or keras.optimizers, functions of optax in a row.
    """

    optimizer: optim.Optimizer
    formula: Callable[..., Any]
    torch: tuple[str, dict[str, Any]] | None = None
    optax: list[tuple[str, dict[str, Any]]] | None = None
    keras: tuple[str, dict[str, Any]] | None = None
    refuses: dict[str, Any] = field(default_factory=dict)
    float32: float = 1e-6  # the greatest distance from the references after 20 steps, in units of max |w|

    @property
    def id(self) -> str:
        name = type(self.optimizer).__name__
        return name if self.optimizer.rule.lower() == name.lower() else f"{name}-{self.optimizer.rule}"

    @property
    def label(self) -> str:
        """The optimizer with what differs from its defaults, or from those of the library that it matches."""
        own = type(self.optimizer)
        plain = own(matches=self.optimizer.matches) if self.optimizer.matches else own()
        values = [(f.name, getattr(self.optimizer, f.name)) for f in fields(own)]
        changed = {name: value for name, value in values if value != getattr(plain, name)}
        if self.optimizer.matches:
            changed["matches"] = self.optimizer.matches
        shown = [f"{name}={getattr(value, '__name__', value)}" for name, value in changed.items()]
        return f"{own.__name__}({', '.join(shown)})"

    def exact(self, w: Any, g: Any, kept: dict[str, Any], t: int) -> Any:
        """A step by the formula, with the weight decay that the optimizer says and its learning rate at step t."""
        o = self.optimizer
        if callable(o.learning_rate):
            late = (o.matches is not None) + (o.matches is not None and isinstance(o, optim.ASGD))
            o = replace(o, learning_rate=o.learning_rate(max(t - late, 0)))
        if o.decay_mode == "coupled":
            g = g + o.weight_decay * w
        elif type(o).default_decay_mode != "decoupled":  # else the formula knows
            w = decayed(o, w)
        return self.formula(o, w, g, kept, t)


OPTIMIZERS = [
    Rule(
        optim.SGD(0.1),
        sgd,
        torch=("SGD", {"lr": 0.1}),
        optax=[("sgd", {"learning_rate": 0.1})],
        keras=("SGD", {"learning_rate": 0.1}),
        refuses={"learning_rate": -1.0},
    ),
    # The averaged form is that of others with lr (1 - beta) and no dampening; dampening=beta is another algorithm.
    Rule(
        optim.Momentum(0.1, 0.9),
        momentum,
        torch=("SGD", {"lr": 0.1 * (1 - 0.9), "momentum": 0.9}),
        optax=[("ema", {"decay": 0.9, "debias": False}), ("scale", {"step_size": -0.1})],
        keras=("SGD", {"learning_rate": 0.1 * (1 - 0.9), "momentum": 0.9}),
        refuses={"beta": 1.0},
    ),
    Rule(
        optim.HeavyBall(0.1, 0.8),
        heavy_ball,
        torch=("SGD", {"lr": 0.1, "momentum": 0.8}),
        optax=[("sgd", {"learning_rate": 0.1, "momentum": 0.8})],
        keras=("SGD", {"learning_rate": 0.1, "momentum": 0.8}),
        refuses={"momentum": -0.1, "dampening": 1.1},
    ),
    Rule(
        optim.Nesterov(0.1, 0.8),
        nesterov,
        torch=("SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True}),
        optax=[("sgd", {"learning_rate": 0.1, "momentum": 0.8, "nesterov": True})],
        keras=("SGD", {"learning_rate": 0.1, "momentum": 0.8, "nesterov": True}),
        refuses={"momentum": float("nan")},
    ),
    Rule(
        optim.AdaGrad(0.1),
        adagrad,
        torch=("Adagrad", {"lr": 0.1, "eps": 1e-10}),
        refuses={"epsilon": 0.0, "epsilon_root": -1.0, "initial": -0.1, "rate_decay": float("inf")},
    ),
    Rule(
        optim.RMSprop(0.01, rho=0.95),
        rmsprop,
        torch=("RMSprop", {"lr": 0.01, "alpha": 0.95, "eps": 1e-8}),
        optax=[("rmsprop", {"learning_rate": 0.01, "decay": 0.95, "eps_in_sqrt": False})],
        refuses={"rho": 1.5, "epsilon": 0.0, "initial": -1.0},
    ),
    Rule(
        optim.AdaDelta(1.0),
        adadelta,
        torch=("Adadelta", {"lr": 1.0, "rho": 0.9, "eps": 1e-6}),
        optax=[("adadelta", {"learning_rate": 1.0, "rho": 0.9, "eps": 1e-6})],
        keras=("Adadelta", {"learning_rate": 1.0, "rho": 0.9, "epsilon": 1e-6}),
        refuses={"epsilon": -1e-6},
    ),
    Rule(
        optim.Adam(0.01),
        adam,
        torch=("Adam", {"lr": 0.01}),
        optax=[("adam", {"learning_rate": 0.01})],
        refuses={"beta1": 1.2, "epsilon": 0.0, "epsilon_root": float("nan")},
    ),
    Rule(
        optim.AdamW(0.01, weight_decay=0.3),
        adamw,
        torch=("AdamW", {"lr": 0.01, "weight_decay": 0.3}),
        optax=[("adamw", {"learning_rate": 0.01, "weight_decay": 0.3})],
        refuses={"weight_decay": -0.1},
    ),
    Rule(
        optim.SignSGD(0.01),
        sign_sgd,
        optax=[("sign_sgd", {"learning_rate": 0.01})],
        refuses={"learning_rate": float("nan")},
    ),
    Rule(optim.Signum(0.01), signum, optax=[("signum", {"learning_rate": 0.01})], refuses={"beta": 1.0}),
    Rule(
        optim.Lion(0.01, weight_decay=0.3),
        lion,
        optax=[("lion", {"learning_rate": 0.01, "weight_decay": 0.3})],
        keras=("Lion", {"learning_rate": 0.01, "weight_decay": 0.3}),
        refuses={"weight_decay": -0.1},
    ),
    Rule(
        optim.Rprop(0.01),
        rprop,
        torch=("Rprop", {"lr": 0.01}),
        refuses={"grow": 1.0, "shrink": 1.0, "longest": 0.0},
    ),
    Rule(
        optim.ASGD(0.1, decay=0.01, begin=3),
        asgd,
        torch=("ASGD", {"lr": 0.1, "lambd": 0.01, "t0": 3}),
        refuses={"begin": -1, "power": -0.1, "decay": -0.1},
    ),
    Rule(
        optim.RMSprop(0.01, centered=True),
        rmsprop,
        torch=("RMSprop", {"lr": 0.01, "centered": True}),
        optax=[("rmsprop", {"learning_rate": 0.01, "decay": 0.99, "centered": True, "eps_in_sqrt": False})],
        refuses={"momentum": 1.1},
    ),
    Rule(
        optim.RMSprop(0.01, momentum=0.8),
        rmsprop,
        torch=("RMSprop", {"lr": 0.01, "momentum": 0.8}),
        optax=[("rmsprop", {"learning_rate": 0.01, "decay": 0.99, "momentum": 0.8, "eps_in_sqrt": False})],
    ),
    Rule(
        optim.RMSprop(0.01, momentum=0.8, centered=True),
        rmsprop,
        torch=("RMSprop", {"lr": 0.01, "momentum": 0.8, "centered": True}),
    ),
    Rule(
        optim.AMSGrad(0.01, weight_decay=0.3),
        amsgrad,
        torch=("AdamW", {"lr": 0.01, "weight_decay": 0.3, "amsgrad": True}),
        refuses={"beta2": 1.0},
    ),
    Rule(
        optim.AdaMax(0.01),
        adamax,
        torch=("Adamax", {"lr": 0.01}),
        optax=[("adamax", {"learning_rate": 0.01})],
        refuses={"epsilon": 0.0, "epsilon_outside": -1.0},
    ),
    Rule(optim.NAdam(0.01), nadam, torch=("NAdam", {"lr": 0.01}), refuses={"momentum_decay": -1.0}),
    Rule(optim.NAdam(0.01, momentum_decay=None), nadam, optax=[("nadam", {"learning_rate": 0.01})]),
    Rule(optim.RAdam(0.01), radam, torch=("RAdam", {"lr": 0.01}), refuses={"beta1": -0.5, "threshold": 3.9}),
    Rule(
        optim.AdaBelief(0.01),
        adabelief,
        optax=[("adabelief", {"learning_rate": 0.01})],
        refuses={"epsilon": -1.0, "epsilon_root": float("nan")},
    ),
    Rule(optim.Yogi(0.01), yogi, refuses={"beta2": 2.0, "initial": -1e-6}),
    Rule(optim.ADOPT(0.01, weight_decay=0.3), adopt, refuses={"weight_decay": -0.1}),
    Rule(
        optim.AdEMAMix(0.01, beta3=0.99, weight_decay=0.3),
        ademamix,
        optax=[("contrib.ademamix", {"learning_rate": 0.01, "b3": 0.99, "weight_decay": 0.3})],
        refuses={"alpha": 0.0, "beta3": 1.0},
    ),
    Rule(optim.Adan(0.01, weight_decay=0.3), adan, refuses={"beta3": 1.0}),
    Rule(optim.LARS(10.0, weight_decay=0.3), lars, refuses={"trust": 0.0, "epsilon": -1.0, "momentum": 1.1}),
    Rule(
        optim.LAMB(0.01, weight_decay=0.3),
        lamb,
        optax=[("lamb", {"learning_rate": 0.01, "weight_decay": 0.3})],
        refuses={"epsilon": 0.0, "beta2": 1.0},
    ),
    Rule(
        optim.NovoGrad(0.01, weight_decay=0.3),
        novograd,
        optax=[("novograd", {"learning_rate": 0.01, "b1": 0.95, "b2": 0.98, "eps": 1e-8, "weight_decay": 0.3})],
        refuses={"beta1": 1.0},
    ),
    Rule(
        optim.Prodigy(start=1e-3, bias_correction=False, weight_decay=0.3),
        prodigy,
        refuses={"growth": 1.0, "start": 0.0},
    ),
    Rule(
        optim.DoG(start=1e-2, weight_decay=0.3),
        dog,
        refuses={"start": 0.0, "averaging": -1.0, "epsilon": 0.0},
    ),
    Rule(optim.SophiaG(0.01, weight_decay=0.3), sophia, refuses={"interval": 0, "rho": 0.0}),
    Rule(
        optim.ScheduleFreeSGD(0.1),
        schedule_free,
        optax=[("contrib.schedule_free_sgd", {"learning_rate": 0.1})],
        refuses={"beta": 0.0, "power": -1.0},
    ),
    Rule(
        optim.ScheduleFreeAdamW(0.01, weight_decay=0.3),
        schedule_free_adamw,
        optax=[("contrib.schedule_free_adamw", {"learning_rate": 0.01, "weight_decay": 0.3})],
        refuses={"beta2": 1.0, "epsilon": 0.0},
    ),
]
