"""Gradient descent, momentum, sign descent and averaged SGD. Formulas: csrc/kernels/step_rules.h."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, final

from popgrad.columns import larger
from popgrad.optim._base import NativeOptimizer, Schedule
from popgrad.optim._presets import DECOUPLED, Presets, TorchNames
from popgrad.settings import hyper

__all__ = ["ASGD", "SGD", "HeavyBall", "Lion", "Momentum", "Nesterov", "Rprop", "SignSGD", "Signum"]


@final
@dataclass(frozen=True, repr=False)
class SGD(NativeOptimizer):
    r"""Gradient descent: full-batch, minibatch or stochastic, depending on the batch size.

    .. math:: w_t = w_{t-1} - \alpha_t\, g_t

    Args:
        learning_rate: alpha, in units of w per unit of gradient; a float > 0 or a schedule ``t -> float``.

    Raises:
        InputError: the learning rate is out of range.

    Reference: Robbins & Monro, Annals of Mathematical Statistics 22 (1951).
    """

    learning_rate: float | Schedule = hyper(0.1, above=0, schedule=True)
    presets: ClassVar[Presets] = {
        "torch": {"learning_rate": 1e-3},
        "optax": {},
        "keras": {"learning_rate": 0.01, **DECOUPLED},
    }
    rule = "Sgd"

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        return {"learning_rate": now["learning_rate"]}


@final
@dataclass(frozen=True, repr=False)
class Momentum(NativeOptimizer):
    r"""Gradient descent along the running average of the gradient.

    .. math:: v_t = \beta v_{t-1} + (1-\beta) g_t, \quad w_t = w_{t-1} - \alpha_t v_t

    The average has the magnitude of a gradient, so that alpha does not depend on beta. Equals PyTorch's
    ``SGD(lr=alpha * (1 - beta), momentum=beta)``; `HeavyBall` is the form without (1 - beta).

    Args:
        learning_rate: alpha, a float > 0 or a schedule ``t -> float``.
        beta: decay of v per step, in [0, 1).

    State: ``v``, shape (n,), zero at t = 0.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Polyak, USSR Computational Mathematics 4 (1964), with the weights of an average.
    """

    learning_rate: float | Schedule = hyper(0.1, above=0, schedule=True)
    beta: float | Schedule = hyper(0.9, at_least=0, below=1, schedule=True)
    rule = "Momentum"
    torch_names = None  # PyTorch's SGD with another learning rate, see above
    state_names = ("v",)

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        return {"rate": now["learning_rate"], "beta": now["beta"], "gain": 1 - now["beta"]}


@final
@dataclass(frozen=True, repr=False)
class HeavyBall(NativeOptimizer):
    r"""Gradient descent with classical momentum.

    .. math:: v_t = \mu v_{t-1} + (1 - d)\, g_t, \quad w_t = w_{t-1} - \alpha_t v_t

    Equals PyTorch's ``SGD(momentum=mu, dampening=d)``. With a constant gradient g, the step approaches
    alpha g / (1 - mu) for d = 0.

    Args:
        learning_rate: alpha, a float > 0 or a schedule ``t -> float``.
        momentum: mu, in [0, 1].
        dampening: d, in [0, 1]; as in PyTorch, the first gradient is not dampened.
        rate_inside: ``v_t = mu v_{t-1} + alpha_t g_t``, ``w_t = w_{t-1} - v_t``, as in Keras and scikit-learn. A new
            learning rate then affects only new gradients. With a constant learning rate, both forms are the same.

    State: ``v``, shape (n,), zero at t = 0.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Polyak, USSR Computational Mathematics 4 (1964), eq. 9.
    """

    learning_rate: float | Schedule = hyper(0.02, above=0, schedule=True)
    momentum: float | Schedule = hyper(0.9, at_least=0, at_most=1, schedule=True)
    _: KW_ONLY
    dampening: float | Schedule = hyper(0.0, at_least=0, at_most=1, schedule=True)
    rate_inside: bool = False
    presets: ClassVar[Presets] = {
        "torch": {"learning_rate": 1e-3},
        "optax": {},
        "keras": {"learning_rate": 0.01, "rate_inside": True, **DECOUPLED},
    }
    rule = "Momentum"
    label = "Heavy ball"
    state_names = ("v",)

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        rate, gain = now["learning_rate"], 1 - now["dampening"] * (t > 1)
        if self.rate_inside:
            rate, gain = 1.0, rate * gain
        return {"rate": rate, "beta": now["momentum"], "gain": gain}


@final
@dataclass(frozen=True, repr=False)
class Nesterov(NativeOptimizer):
    r"""Nesterov's accelerated gradient.

    .. math:: v_t = \mu v_{t-1} + g_t, \quad w_t = w_{t-1} - \alpha_t (g_t + \mu v_t)

    Equals PyTorch's ``SGD(momentum=mu, nesterov=True)``: w is the look-ahead point.

    Args:
        learning_rate: alpha, a float > 0 or a schedule ``t -> float``.
        momentum: mu, in [0, 1].
        rate_inside: v accumulates ``alpha_t g_t`` instead of g_t, as in Keras and scikit-learn; see `HeavyBall`.

    State: ``v``, shape (n,), zero at t = 0.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Nesterov, Soviet Mathematics Doklady 27 (1983); Sutskever et al., ICML 2013, eq. 3 and 4.
    """

    learning_rate: float | Schedule = hyper(0.01, above=0, schedule=True)
    momentum: float | Schedule = hyper(0.9, at_least=0, at_most=1, schedule=True)
    _: KW_ONLY
    rate_inside: bool = False
    presets: ClassVar[Presets] = {
        "torch": {"learning_rate": 1e-3},
        "optax": {},
        "keras": {"learning_rate": 0.01, "rate_inside": True, **DECOUPLED},
    }
    rule = "Nesterov"
    state_names = ("v",)

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        rate = now["learning_rate"]
        inner, outer = (rate, 1.0) if self.rate_inside else (1.0, rate)
        return {"rate": outer, "beta": now["momentum"], "gain": inner}


@final
@dataclass(frozen=True, repr=False)
class SignSGD(NativeOptimizer):
    r"""Sign descent: each parameter moves by the learning rate, against the sign of its gradient.

    .. math:: w_t = w_{t-1} - \alpha_t\, \mathrm{sign}(g_t)

    Args:
        learning_rate: alpha, in units of w; a float > 0 or a schedule ``t -> float``.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Bernstein et al., ICML 2018, arXiv:1802.04434, Algorithm 1.
    """

    learning_rate: float | Schedule = hyper(1e-3, above=0, schedule=True)
    presets: ClassVar[Presets] = {"optax": {}}
    rule = "SignSgd"
    label = "Sign SGD"
    torch_names = TorchNames(counts=False)

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        return {"learning_rate": now["learning_rate"]}


@final
@dataclass(frozen=True, repr=False)
class Signum(NativeOptimizer):
    r"""Sign descent along the running average of the gradient.

    .. math:: v_t = \beta v_{t-1} + (1-\beta) g_t, \quad w_t = w_{t-1} - \alpha_t\, \mathrm{sign}(v_t)

    Args:
        learning_rate: alpha, in units of w; a float > 0 or a schedule ``t -> float``.
        beta: decay of v per step, in [0, 1).

    State: ``v``, shape (n,), zero at t = 0.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Bernstein et al., ICML 2018, arXiv:1802.04434, Algorithm 2.
    """

    learning_rate: float | Schedule = hyper(1e-3, above=0, schedule=True)
    beta: float | Schedule = hyper(0.9, at_least=0, below=1, schedule=True)
    presets: ClassVar[Presets] = {"optax": {}}
    rule = "Signum"
    torch_names = TorchNames({"momentum": "beta", "weight_decay": "weight_decay"}, states={"v": "momentum_buffer"})
    state_names = ("v",)

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        return {"learning_rate": now["learning_rate"], "beta": now["beta"], "gain": 1 - now["beta"]}


@final
@dataclass(frozen=True, repr=False)
class Lion(NativeOptimizer):
    r"""Lion: sign descent along an average that gives the newest gradient extra weight.

    .. math:: w_t = (1 - \alpha_t \lambda)\, w_{t-1} - \alpha_t\, \mathrm{sign}(\beta_1 m_{t-1} + (1-\beta_1) g_t)
    .. math:: m_t = \beta_2 m_{t-1} + (1-\beta_2) g_t

    Args:
        learning_rate: alpha, in units of w; a float > 0 or a schedule ``t -> float``.
        beta1: weight of m in the step, in [0, 1).
        beta2: decay of m per step, in [0, 1).
        weight_decay: lambda >= 0, decoupled; alpha lambda <= 1.

    State: ``m``, shape (n,), zero at t = 0.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Chen et al., arXiv:2302.06675 (2023), Algorithm 2.
    """

    learning_rate: float | Schedule = hyper(1e-4, above=0, schedule=True)
    beta1: float | Schedule = hyper(0.9, at_least=0, below=1, schedule=True)
    beta2: float | Schedule = hyper(0.99, at_least=0, below=1, schedule=True)
    presets: ClassVar[Presets] = {"optax": {"weight_decay": 1e-3}, "keras": {"learning_rate": 1e-3}}
    rule = "Lion"
    state_names = ("m",)
    default_decay_mode = "decoupled"

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        learning_rate = now["learning_rate"]
        return {
            "learning_rate": learning_rate,
            "beta1": now["beta1"],
            "gain1": 1 - now["beta1"],
            "beta2": now["beta2"],
            "gain2": 1 - now["beta2"],
        }


@final
@dataclass(frozen=True, repr=False)
class Rprop(NativeOptimizer):
    r"""Resilient propagation: a step length per parameter that depends only on the signs of its gradients.

    .. math:: \delta_t = \mathrm{clip}(\eta^\pm \delta_{t-1}), \quad w_t = w_{t-1} - \delta_t\, \mathrm{sign}(g_t)

    The length of a parameter grows if two consecutive gradients have the same sign. If the sign changes, the length
    shrinks, and the gradient counts as zero for one step. Use full batches: the noise of minibatches changes signs.

    Args:
        learning_rate: length of the first step, in units of w, > 0; schedules have no effect after t = 1.
        shrink, grow: the factors eta, in (0, 1) and > 1.
        shortest, longest: limits of the length, >= 0 and > 0, in units of w.

    State: ``g``, the last gradient, and ``length``, shape (n,), zero at t = 0.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Riedmiller & Braun, ICNN 1993; Igel & Husken, ISCI 2000, algorithm 3 (iRprop-, as in PyTorch).
    """

    learning_rate: float | Schedule = hyper(0.01, above=0, schedule=True)
    shrink: float = hyper(0.5, above=0, below=1)
    grow: float = hyper(1.2, above=1)
    shortest: float = hyper(1e-6, at_least=0)
    longest: float = hyper(50.0, above=0)
    presets: ClassVar[Presets] = {"torch": {}}
    rule = "Rprop"
    state_names = ("g", "length")

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        limits = {"shortest": self.shortest, "longest": self.longest}
        first = now["learning_rate"] * (t == 1)
        return {"shrink": self.shrink, "grow": self.grow, "first": first, **limits}


@final
@dataclass(frozen=True, repr=False)
class ASGD(NativeOptimizer):
    r"""Stochastic gradient descent with an average of the parameters.

    .. math:: w_t = (1 - \lambda \eta_t)\, w_{t-1} - \eta_t g_t, \quad
              \bar w_t = \bar w_{t-1} + \mu_t (w_t - \bar w_{t-1})
    .. math:: \eta_t = \alpha / (1 + \lambda \alpha (t-1))^p, \quad \mu_t = 1 / \max(1, t - 1 - t_0)

    Args:
        learning_rate: alpha, in units of w; a float > 0 or a schedule ``t -> float``.
        decay: lambda, >= 0; alpha lambda <= 1.
        power: p, >= 0.
        begin: t0, the step at which averaging begins, >= 0.

    State: ``average``, shape (n,), the parameters to evaluate once averaging has begun; zero at t = 0.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Polyak & Juditsky, SIAM J. Control Optim. 30 (1992); Xu, arXiv:1107.2490 (2011); PyTorch's schedules.
    """

    learning_rate: float | Schedule = hyper(0.01, above=0, schedule=True)
    decay: float = hyper(1e-4, at_least=0)
    power: float = hyper(0.75, at_least=0)
    begin: float = hyper(1e6, at_least=0)
    presets: ClassVar[Presets] = {"torch": {}}
    rule = "Asgd"
    state_names = ("average",)

    def _values(self, t: Any, numbers: Mapping[str, float], **given: Any) -> dict[str, Any]:
        now = super()._values(t, numbers, **given)
        if self.matches is None or given:
            return now | {"earlier_rate": now["learning_rate"]}
        # PyTorch computes eta at the end of the previous step, with the learning rate of that step.
        return now | {"earlier_rate": self._at("learning_rate", larger(t - 1, 1))}

    def _rate(self, t: Any, now: Mapping[str, Any]) -> Any:
        learning_rate = now["earlier_rate"]
        return learning_rate / (1 + self.decay * learning_rate * (t - 1)) ** self.power

    def _shrinkage(self, t: Any, now: Mapping[str, Any]) -> Any:
        return super()._shrinkage(t, now) + self.decay * self._rate(t, now)

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        rate = self._rate(t, now)
        return {"rate": rate, "decay": 1 - self.decay * rate, "mix": 1 / larger(1.0, t - 1 - self.begin)}
