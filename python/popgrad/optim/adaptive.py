"""Steps divided by the size of past gradients. Formulas: csrc/kernels/step_rules.h."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from popgrad.optim._base import NativeOptimizer, Schedule, at

__all__ = ["AdaDelta", "AdaGrad", "RMSprop"]


@final
@dataclass(frozen=True, repr=False)
class AdaGrad(NativeOptimizer):
    r"""AdaGrad: steps shrink with all the gradient that a parameter has seen.

    .. math:: s_t = s_{t-1} + g_t^2, \quad w_t = w_{t-1} - \alpha_t\, g_t / (\sqrt{s_t} + \epsilon)

    Args:
        learning_rate: alpha, in units of w; a float > 0 or a schedule ``t -> float``.
        epsilon: > 0, in units of the gradient; added after the square root.

    State: ``s``, shape (n,), zero at t = 0 (Keras and optax start at 0.1).

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Duchi, Hazan & Singer, JMLR 12 (2011), figure 1, diagonal form.
    """

    learning_rate: float | Schedule = 0.01
    epsilon: float = 1e-10
    rule = "AdaGrad"
    state_names = ("s",)
    _positive = ("learning_rate", "epsilon")

    def _fields(self, t: int, numbers: dict[str, float]) -> dict[str, float]:
        return {"learning_rate": at(self.learning_rate, t), "epsilon": self.epsilon}


@final
@dataclass(frozen=True, repr=False)
class RMSprop(NativeOptimizer):
    r"""RMSprop: steps divided by the running size of the gradient.

    .. math:: v_t = \rho v_{t-1} + (1-\rho) g_t^2, \quad w_t = w_{t-1} - \alpha_t\, g_t / (\sqrt{v_t} + \epsilon)

    Args:
        learning_rate: alpha, in units of w; a float > 0 or a schedule ``t -> float``.
        rho: decay of v per step, in [0, 1).
        epsilon: > 0, in units of the gradient; after the root as in PyTorch (TensorFlow and optax: inside).
        momentum: mu of a heavy ball behind it, in [0, 1); the learning rate stays outside its velocity.
        centered: divide by the running deviation, the root of v minus the squared mean gradient.

    State: ``v``, with centered ``mean`` and with momentum ``velocity``, shape (n,), zero at t = 0.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Tieleman & Hinton, Coursera lecture 6.5 (2012); Graves, arXiv:1308.0850, eq. 38 to 45 (centered).
    """

    learning_rate: float | Schedule = 1e-3
    rho: float = 0.99
    epsilon: float = 1e-8
    momentum: float = 0.0
    centered: bool = False
    rule = "RmsProp"
    state_names = ("v",)
    _positive = ("learning_rate", "epsilon")
    _fractions = ("rho", "momentum")

    def __post_init__(self) -> None:
        super().__post_init__()
        rule = "RmsProp" + "Centered" * self.centered + "Momentum" * (self.momentum > 0)
        names = ("v", *["mean"] * self.centered, *["velocity"] * (self.momentum > 0))
        object.__setattr__(self, "rule", rule)  # a frozen class: only its own constructor may
        object.__setattr__(self, "state_names", names)

    def _fields(self, t: int, numbers: dict[str, float]) -> dict[str, float]:
        fields = {"learning_rate": at(self.learning_rate, t), "rho": self.rho, "gain": 1 - self.rho}
        fields["epsilon"] = self.epsilon
        return fields | {"momentum": self.momentum} if self.momentum > 0 else fields


@final
@dataclass(frozen=True, repr=False)
class AdaDelta(NativeOptimizer):
    r"""AdaDelta: RMSprop whose learning rate is the running size of its own steps.

    .. math:: s_t = \rho s_{t-1} + (1-\rho) g_t^2, \quad
              \delta_t = \frac{\sqrt{d_{t-1} + \epsilon}}{\sqrt{s_t + \epsilon}}\, g_t
    .. math:: d_t = \rho d_{t-1} + (1-\rho) \delta_t^2, \quad w_t = w_{t-1} - \alpha_t \delta_t

    Args:
        learning_rate: alpha, without unit, 1 in the paper; a float > 0 or a schedule ``t -> float``.
        rho: decay of s and d per step, in [0, 1).
        epsilon: > 0, added inside both roots.

    State: ``s`` and ``d``, shape (n,), zero at t = 0.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Zeiler, arXiv:1212.5701 (2012), Algorithm 1.
    """

    learning_rate: float | Schedule = 1.0
    rho: float = 0.9
    epsilon: float = 1e-6
    rule = "AdaDelta"
    state_names = ("s", "d")
    _positive = ("learning_rate", "epsilon")
    _fractions = ("rho",)

    def _fields(self, t: int, numbers: dict[str, float]) -> dict[str, float]:
        return {
            "learning_rate": at(self.learning_rate, t),
            "rho": self.rho,
            "gain": 1 - self.rho,
            "epsilon": self.epsilon,
        }
