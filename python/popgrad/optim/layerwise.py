"""Methods that look at a whole tensor, or at all of them, before they step. Formulas: csrc/kernels/layer_rules.h."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, final

from popgrad.checks import at_least_zero, fail
from popgrad.optim._base import NativeOptimizer, Schedule
from popgrad.optim._presets import Presets

__all__ = ["LAMB", "LARS", "NovoGrad", "Prodigy"]


@final
@dataclass(frozen=True, repr=False)
class LARS(NativeOptimizer):
    r"""Momentum whose learning rate follows the ratio of weights and gradient in every layer.

    .. math:: v_t = \mu v_{t-1} + \alpha_t\, \frac{\eta \|w\|}{\|g_t\| + \lambda \|w\|}\, (g_t + \lambda w_{t-1}), \quad
              w_t = w_{t-1} - v_t

    The ratio is 1 where either norm is zero. A layer is one of the ``shapes`` given to `init`.

    Args:
        learning_rate: alpha, without unit; a float > 0 or a schedule ``t -> float``.
        momentum: mu, in [0, 1]; the learning rate is inside v.
        trust: eta, > 0: the share of its norm by which a layer moves at alpha = 1.
        epsilon: >= 0, added to the divisor.
        adapt_vectors: whether biases and other tensors of one dimension have a ratio too (else it is 1).
        weight_decay: lambda >= 0, part of the update as above; with ``weight_decay_mode="coupled"``, as in optax, the
            divisor is the norm of the sum g + lambda w instead of the sum of the norms.

    State: ``v``, shape (n,), zero at t = 0.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: You, Gitman & Ginsburg, arXiv:1708.03888 (2017), Algorithm 1.
    """

    learning_rate: float | Schedule = 1.0
    momentum: float = 0.9
    trust: float = 1e-3
    epsilon: float = 0.0
    adapt_vectors: bool = True
    _presets: ClassVar[Presets] = {"optax": {"weight_decay_mode": "coupled"}}
    rule = "Lars"
    state_names = ("v",)
    _positive = ("learning_rate", "trust")
    _shares = ("momentum",)
    _decay = "own"
    _modes = ("coupled",)
    _first_sweep = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least_zero(self, "epsilon")

    def _adapts(self, dimensions: int) -> bool:
        return self.adapt_vectors or dimensions > 1

    def _fields(self, t: int, numbers: dict[str, float]) -> dict[str, float]:
        return {
            "ratio": 1.0,
            "learning_rate": self._at(self.learning_rate, t),
            "momentum": self.momentum,
            "decay": self.weight_decay if self._mode == "own" else 0.0,
            "trust": self.trust,
            "epsilon": self.epsilon,
        }


@final
@dataclass(frozen=True, repr=False)
class LAMB(NativeOptimizer):
    r"""Adam whose steps in every layer have the length of its weights.

    .. math:: u_t = \hat m_t / (\sqrt{\hat v_t} + \epsilon) + \lambda w_{t-1}, \quad
              w_t = w_{t-1} - \alpha_t \frac{\|w_{t-1}\|}{\|u_t\|}\, u_t

    with the moments of `Adam`. The ratio is 1 where either norm is zero.

    Args:
        learning_rate: alpha, without unit; a float > 0 or a schedule ``t -> float``.
        beta1, beta2: decay of m and v per step, in [0, 1).
        epsilon: > 0, in units of the gradient; added after the square root.
        adapt_vectors: whether biases and other tensors of one dimension have a ratio too (else it is 1).
        weight_decay: lambda >= 0, part of the update whose norm is taken.

    State: ``m`` and ``v``, shape (n,), zero at t = 0.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: You et al., ICLR 2020, arXiv:1904.00962, Algorithm 2, with phi the identity.
    """

    learning_rate: float | Schedule = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6
    adapt_vectors: bool = True
    _presets: ClassVar[Presets] = {"optax": {}}
    rule = "Lamb"
    state_names = ("m", "v")
    _positive = ("learning_rate", "epsilon")
    _fractions = ("beta1", "beta2")
    _decay = "own"
    _modes = ()
    _first_sweep = 12  # the second one reads no gradient and writes no state: 24 + 16

    def _adapts(self, dimensions: int) -> bool:
        return self.adapt_vectors or dimensions > 1

    def _fields(self, t: int, numbers: dict[str, float]) -> dict[str, float]:
        return {
            "rate": self._at(self.learning_rate, t),
            "beta1": self.beta1,
            "gain1": 1 - self.beta1,
            "scale1": 1 / (1 - self.beta1**t),
            "beta2": self.beta2,
            "gain2": 1 - self.beta2,
            "scale2": 1 / math.sqrt(1 - self.beta2**t),
            "epsilon": self.epsilon,
            "decay": self.weight_decay,
        }


@final
@dataclass(frozen=True, repr=False)
class NovoGrad(NativeOptimizer):
    r"""Momentum on gradients divided by the running norm of their layer: a second moment of one number a layer.

    .. math:: v_t = \beta_2 v_{t-1} + (1-\beta_2) \|g_t\|^2 \;(v_1 = \|g_1\|^2), \quad
              m_t = \beta_1 m_{t-1} + \frac{g_t}{\sqrt{v_t} + \epsilon} + \lambda w_{t-1}, \quad
              w_t = w_{t-1} - \alpha_t m_t

    Args:
        learning_rate: alpha, in units of w; a float > 0 or a schedule ``t -> float``.
        beta1, beta2: decay of m and v per step, in [0, 1).
        epsilon: > 0, in units of the gradient's norm.
        averaging: multiply what enters m by (1 - beta1), so that it is an average.
        weight_decay: lambda >= 0, inside m as above.

    State: ``m``, shape (n,), zero at t = 0; v is kept once a layer, in ``State.kept``.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Ginsburg et al., arXiv:1905.11286 (2019), Algorithm 1.
    """

    learning_rate: float | Schedule = 1e-2
    beta1: float = 0.95
    beta2: float = 0.98
    epsilon: float = 1e-8
    averaging: bool = False
    _presets: ClassVar[Presets] = {"optax": {"beta1": 0.9, "beta2": 0.25, "epsilon": 1e-6}}
    rule = "NovoGrad"
    state_names = ("m",)
    _positive = ("learning_rate", "epsilon")
    _fractions = ("beta1", "beta2")
    _decay = "own"
    _modes = ()
    _first_sweep = 4

    def _fields(self, t: int, numbers: dict[str, float]) -> dict[str, float]:
        return {
            "v": 0.0,
            "scale": 0.0,
            "learning_rate": self._at(self.learning_rate, t),
            "beta1": self.beta1,
            "gain1": 1 - self.beta1 if self.averaging else 1.0,
            "beta2": self.beta2,
            "gain2": 1 - self.beta2,
            "epsilon": self.epsilon,
            "first": float(t == 1),
            "decay": self.weight_decay,
        }


@final
@dataclass(frozen=True, repr=False)
class Prodigy(NativeOptimizer):
    r"""Adam that finds its learning rate: an estimate d of the distance from the start to the solution.

    .. math:: m_t = \beta_1 m_{t-1} + (1-\beta_1)\, d_t g_t, \quad v_t = \beta_2 v_{t-1} + (1-\beta_2)\, d_t^2 g_t^2
    .. math:: r_t = \beta_3 r_{t-1} + \alpha_t d_t^2 / d_0\; g_t^\top (w_0 - w_{t-1}), \quad
              s_t = \beta_3 s_{t-1} + \alpha_t d_t^2 / d_0\; g_t, \quad \hat d = c\, r_t / \|s_t\|_1
    .. math:: d_{t+1} = \max(d_t, \hat d), \quad
              w_t = w_{t-1} - \alpha_t d_t\, (m_t / (\sqrt{v_t} + d_{t+1} \epsilon) + \lambda w_{t-1})

    with beta3 the root of beta2. Norm and scalar product go over all parameters.

    Args:
        learning_rate: alpha, without unit, 1 in the paper; a float > 0 or a schedule ``t -> float``.
        beta1, beta2: decay of m and v per step, in [0, 1).
        epsilon: > 0, in units of the gradient.
        start: d_0, the first estimate, > 0 and small.
        growth: the most by which d grows in a step, > 1; None for no limit.
        coefficient: c, > 0: scales the estimate.
        bias_correction: whether alpha has Adam's bias corrections, as in optax. The authors' code leaves them out
            unless asked; then the first estimates, from moments that are too small, are more often too large.
        weight_decay: lambda >= 0, decoupled and scaled by the learning rate found.

    State: ``m``, ``v``, ``s`` and ``start`` (the first parameters), shape (n,), zero at t = 0; d, its largest
    estimate and r in ``State.kept``.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Mishchenko & Defazio, ICML 2024, arXiv:2306.06101, Algorithm 4, as in the authors' code.
    """

    learning_rate: float | Schedule = 1.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    start: float = 1e-6
    growth: float | None = None
    coefficient: float = 1.0
    bias_correction: bool = True
    weight_decay: float = field(default=0.0, kw_only=True)
    _presets: ClassVar[Presets] = {"optax": {}}
    rule = "Prodigy"
    state_names = ("m", "v", "s", "start")
    _positive = ("learning_rate", "epsilon", "start", "coefficient")
    _fractions = ("beta1", "beta2")
    _decay = "own"
    _modes = ()
    _first_sweep: ClassVar[int] = 12  # 40 for the first, 16 for the second, which writes no state

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.growth is not None and not self.growth > 1:
            fail(self, f"growth must be a number > 1 or None, got {self.growth!r}")

    def _kept(self) -> list[float]:
        return [self.start, self.start, 0.0]

    def _fields(self, t: int, numbers: dict[str, float]) -> dict[str, float]:
        rate = self._at(self.learning_rate, t)
        if self.bias_correction:
            rate *= math.sqrt(1 - self.beta2**t) / (1 - self.beta1**t)
        return {
            "d": 0.0,
            "largest": 0.0,
            "numerator": 0.0,
            "step": 0.0,
            "rate": rate,
            "beta1": self.beta1,
            "gain1": 1 - self.beta1,
            "beta2": self.beta2,
            "gain2": 1 - self.beta2,
            "beta3": math.sqrt(self.beta2),
            "epsilon": self.epsilon,
            "start": self.start,
            "growth": self.growth or math.inf,
            "coefficient": self.coefficient,
            "decay": self.weight_decay,
            "first": float(t == 1),
        }


def _at_least_zero(o: NativeOptimizer, name: str) -> None:
    if not at_least_zero(getattr(o, name)):
        fail(o, f"{name} must be a finite number >= 0, got {getattr(o, name)!r}")
