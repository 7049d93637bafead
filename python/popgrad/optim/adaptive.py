"""Methods that divide steps by the magnitude of past gradients. Formulas: csrc/kernels/step_rules.h."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, final

from popgrad.optim._base import NativeOptimizer, Schedule
from popgrad.optim._presets import DECOUPLED, Presets
from popgrad.settings import hyper

__all__ = ["AdaDelta", "AdaGrad", "RMSprop"]


@final
@dataclass(frozen=True, repr=False)
class AdaGrad(NativeOptimizer):
    r"""AdaGrad: gradients divided by the root of the sum of all squared gradients.

    .. math:: s_t = s_{t-1} + g_t^2, \quad
              w_t = w_{t-1} - \frac{\alpha_t}{1 + (t-1) d}\, g_t / (\sqrt{s_t + \epsilon_r} + \epsilon)

    Args:
        learning_rate: alpha, in units of w; a float > 0 or a schedule ``t -> float``.
        epsilon: >= 0, in units of the gradient; added after the square root (PyTorch).
        epsilon_root: >= 0, in units of the squared gradient; added inside the root (Keras, optax). epsilon or
            epsilon_root must be > 0.
        initial: s before the first step, >= 0 (Keras and optax: 0.1).
        rate_decay: d, >= 0 (PyTorch's ``lr_decay``).

    State: ``s``, shape (n,), zero at t = 0; the first step adds ``initial``.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Duchi, Hazan & Singer, JMLR 12 (2011), figure 1, diagonal form.
    """

    learning_rate: float | Schedule = hyper(0.01, above=0, schedule=True)
    epsilon: float | Schedule = hyper(1e-10, at_least=0, zero_needs="epsilon_root", schedule=True)
    _: KW_ONLY
    epsilon_root: float | Schedule = hyper(0.0, at_least=0, schedule=True)
    initial: float = hyper(0.0, at_least=0)
    rate_decay: float = hyper(0.0, at_least=0)
    presets: ClassVar[Presets] = {
        "torch": {},
        "optax": {"epsilon": 0.0, "epsilon_root": 1e-7, "initial": 0.1},
        "keras": {"learning_rate": 1e-3, "epsilon": 0.0, "epsilon_root": 1e-7, "initial": 0.1, **DECOUPLED},
    }
    rule = "AdaGrad"
    state_names = ("s",)

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        rate = now["learning_rate"] / (1 + (t - 1) * self.rate_decay)
        first = self.initial * (t == 1)
        return {"rate": rate, "root": now["epsilon_root"], "epsilon": now["epsilon"], "first": first}


@final
@dataclass(frozen=True, repr=False)
class RMSprop(NativeOptimizer):
    r"""RMSprop: gradients divided by the root of a running mean of squared gradients.

    .. math:: v_t = \rho v_{t-1} + (1-\rho) g_t^2, \quad
              w_t = w_{t-1} - \alpha_t\, g_t / (\sqrt{v_t + \epsilon_r} + \epsilon)

    Args:
        learning_rate: alpha, in units of w; a float > 0 or a schedule ``t -> float``.
        rho: decay of v per step, in [0, 1].
        epsilon: >= 0, in units of the gradient; added after the square root (PyTorch).
        momentum: mu in [0, 1], heavy-ball momentum applied to the scaled gradients.
        centered: divide by the running standard deviation, the root of v minus the squared mean gradient.
        epsilon_root: >= 0, in units of the squared gradient; added inside the root (Keras, optax). epsilon or
            epsilon_root must be > 0.
        initial: v before the first step, >= 0 (TensorFlow 1: 1).
        rate_inside: multiply the learning rate with the scaled gradient that is added to the velocity (Keras, optax),
            not with the velocity (PyTorch). With a constant learning rate, both are the same.

    State: ``v``, with centered ``mean`` and with momentum ``velocity``, shape (n,), zero at t = 0; the first step adds
    ``initial`` to v.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Tieleman & Hinton, Coursera lecture 6.5 (2012); Graves, arXiv:1308.0850, eq. 38 to 45 (centered).
    """

    learning_rate: float | Schedule = hyper(1e-3, above=0, schedule=True)
    rho: float | Schedule = hyper(0.99, at_least=0, at_most=1, schedule=True)
    epsilon: float | Schedule = hyper(1e-8, at_least=0, zero_needs="epsilon_root", schedule=True)
    momentum: float | Schedule = hyper(0.0, at_least=0, at_most=1, schedule=True)
    centered: bool = False
    _: KW_ONLY
    epsilon_root: float | Schedule = hyper(0.0, at_least=0, schedule=True)
    initial: float = hyper(0.0, at_least=0)
    rate_inside: bool = False
    presets: ClassVar[Presets] = {
        "torch": {"learning_rate": 0.01},
        "optax": {"rho": 0.9, "epsilon": 0.0, "epsilon_root": 1e-8, "rate_inside": True},
        "keras": {"rho": 0.9, "epsilon": 0.0, "epsilon_root": 1e-7, "rate_inside": True, **DECOUPLED},
    }
    rule = "RmsProp"
    state_names = ("v",)

    def __post_init__(self) -> None:
        super().__post_init__()
        moving = callable(self.momentum) or self.momentum > 0
        rule = "RmsProp" + "Centered" * self.centered + "Momentum" * moving
        names = ("v", *["mean"] * self.centered, *["velocity"] * moving)
        object.__setattr__(self, "rule", rule)  # the class is frozen
        object.__setattr__(self, "state_names", names)

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        rate, first = now["learning_rate"], self.initial * (t == 1)
        fields = {"rate": rate, "rho": now["rho"], "gain": 1 - now["rho"], "first": first}
        fields |= {"root": now["epsilon_root"], "epsilon": now["epsilon"]}
        if "velocity" in self.state_names:
            inner, outer = (rate, 1.0) if self.rate_inside else (1.0, rate)
            fields |= {"momentum": now["momentum"], "inner": inner, "rate": outer}
        return fields


@final
@dataclass(frozen=True, repr=False)
class AdaDelta(NativeOptimizer):
    r"""AdaDelta: RMSprop whose step size is a running mean of its previous steps.

    .. math:: s_t = \rho s_{t-1} + (1-\rho) g_t^2, \quad
              \delta_t = \frac{\sqrt{d_{t-1} + \epsilon}}{\sqrt{s_t + \epsilon}}\, g_t
    .. math:: d_t = \rho d_{t-1} + (1-\rho) \delta_t^2, \quad w_t = w_{t-1} - \alpha_t \delta_t

    Args:
        learning_rate: alpha, dimensionless, 1 in the paper; a float > 0 or a schedule ``t -> float``.
        rho: decay of s and d per step, in [0, 1].
        epsilon: > 0, added inside both roots.

    State: ``s`` and ``d``, shape (n,), zero at t = 0.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Zeiler, arXiv:1212.5701 (2012), Algorithm 1.
    """

    learning_rate: float | Schedule = hyper(1.0, above=0, schedule=True)
    rho: float | Schedule = hyper(0.9, at_least=0, at_most=1, schedule=True)
    epsilon: float | Schedule = hyper(1e-6, above=0, schedule=True)
    presets: ClassVar[Presets] = {
        "torch": {},
        "optax": {},
        "keras": {"learning_rate": 1e-3, "rho": 0.95, "epsilon": 1e-7, **DECOUPLED},
    }
    rule = "AdaDelta"
    state_names = ("s", "d")

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        return {
            "learning_rate": now["learning_rate"],
            "rho": now["rho"],
            "gain": 1 - now["rho"],
            "epsilon": now["epsilon"],
        }
