"""First-order optimizers, in order of increasing complexity. The formulas are in csrc/kernels/step_rules.h."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from popgrad.checks import fraction, positive
from popgrad.optim._base import Optimizer, Schedule, at

__all__ = ["SGD", "AdaDelta", "AdaGrad", "Adam", "AdamW", "HeavyBall", "Momentum", "Nesterov", "RMSprop"]


@final
@dataclass(frozen=True)
class SGD(Optimizer):
    r"""Gradient descent: full, mini-batch or stochastic, as the batch size says.

    .. math:: w_t = w_{t-1} - \alpha_t\, g_t

    Args:
        learning_rate: alpha, in units of w per unit of gradient; a float > 0 or a schedule ``t -> float``.

    Raises:
        InputError: the learning rate is out of range.

    Reference: Robbins & Monro, Annals of Mathematical Statistics 22 (1951).
    """

    learning_rate: float | Schedule = 0.1
    rule = "Sgd"

    def __post_init__(self) -> None:
        positive(self, "learning_rate")

    def fields(self, t: int) -> dict[str, float]:
        """The fields of ``Sgd``."""
        return {"learning_rate": at(self.learning_rate, t)}


@final
@dataclass(frozen=True)
class Momentum(Optimizer):
    r"""Gradient descent along the running average of the gradient.

    .. math:: v_t = \beta v_{t-1} + (1-\beta) g_t, \quad w_t = w_{t-1} - \alpha_t v_t

    The average keeps the size of a gradient, so alpha need not change with beta. It equals PyTorch's
    ``SGD(lr=alpha * (1 - beta), momentum=beta)``; `HeavyBall` is the form without (1 - beta).

    Args:
        learning_rate: alpha, a float > 0 or a schedule ``t -> float``.
        beta: decay of v per step, in [0, 1).

    State: ``v``, shape (n,), zero at t = 0.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Polyak, USSR Computational Mathematics 4 (1964), with the average's weights.
    """

    learning_rate: float | Schedule = 0.1
    beta: float = 0.9
    rule = "Momentum"
    state_names = ("v",)

    def __post_init__(self) -> None:
        positive(self, "learning_rate")
        fraction(self, "beta")

    def fields(self, t: int) -> dict[str, float]:
        """The fields of ``Momentum``."""
        return {"learning_rate": at(self.learning_rate, t), "beta": self.beta, "gain": 1 - self.beta}


@final
@dataclass(frozen=True)
class HeavyBall(Optimizer):
    r"""Gradient descent with momentum in its classical form.

    .. math:: v_t = \mu v_{t-1} + g_t, \quad w_t = w_{t-1} - \alpha_t v_t

    PyTorch's ``SGD(momentum=mu)``. Where the gradient is constant, steps grow to alpha / (1 - mu).

    Args:
        learning_rate: alpha, a float > 0 or a schedule ``t -> float``.
        momentum: mu, in [0, 1).

    State: ``v``, shape (n,), zero at t = 0.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Polyak, USSR Computational Mathematics 4 (1964), eq. 9.
    """

    learning_rate: float | Schedule = 0.01
    momentum: float = 0.9
    rule = "HeavyBall"
    state_names = ("v",)

    def __post_init__(self) -> None:
        positive(self, "learning_rate")
        fraction(self, "momentum")

    def fields(self, t: int) -> dict[str, float]:
        """The fields of ``HeavyBall``."""
        return {"learning_rate": at(self.learning_rate, t), "momentum": self.momentum}


@final
@dataclass(frozen=True)
class Nesterov(Optimizer):
    r"""Nesterov's accelerated gradient.

    .. math:: v_t = \mu v_{t-1} + g_t, \quad w_t = w_{t-1} - \alpha_t (g_t + \mu v_t)

    PyTorch's ``SGD(momentum=mu, nesterov=True)``: w is kept at the point looked ahead to.

    Args:
        learning_rate: alpha, a float > 0 or a schedule ``t -> float``.
        momentum: mu, in [0, 1).

    State: ``v``, shape (n,), zero at t = 0.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Nesterov, Soviet Mathematics Doklady 27 (1983); Sutskever et al., ICML 2013, eq. 3 and 4.
    """

    learning_rate: float | Schedule = 0.01
    momentum: float = 0.9
    rule = "Nesterov"
    state_names = ("v",)

    def __post_init__(self) -> None:
        positive(self, "learning_rate")
        fraction(self, "momentum")

    def fields(self, t: int) -> dict[str, float]:
        """The fields of ``Nesterov``."""
        return {"learning_rate": at(self.learning_rate, t), "momentum": self.momentum}


@final
@dataclass(frozen=True)
class AdaGrad(Optimizer):
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

    def __post_init__(self) -> None:
        positive(self, "learning_rate", "epsilon")

    def fields(self, t: int) -> dict[str, float]:
        """The fields of ``AdaGrad``."""
        return {"learning_rate": at(self.learning_rate, t), "epsilon": self.epsilon}


@final
@dataclass(frozen=True)
class RMSprop(Optimizer):
    r"""RMSprop: steps divided by the running size of the gradient.

    .. math:: v_t = \rho v_{t-1} + (1-\rho) g_t^2, \quad w_t = w_{t-1} - \alpha_t\, g_t / (\sqrt{v_t} + \epsilon)

    Args:
        learning_rate: alpha, in units of w; a float > 0 or a schedule ``t -> float``.
        rho: decay of v per step, in [0, 1).
        epsilon: > 0, in units of the gradient; after the root as in PyTorch (TensorFlow and optax: inside).

    State: ``v``, shape (n,), zero at t = 0.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Tieleman & Hinton, Coursera lecture 6.5 (2012).
    """

    learning_rate: float | Schedule = 1e-3
    rho: float = 0.99
    epsilon: float = 1e-8
    rule = "RmsProp"
    state_names = ("v",)

    def __post_init__(self) -> None:
        positive(self, "learning_rate", "epsilon")
        fraction(self, "rho")

    def fields(self, t: int) -> dict[str, float]:
        """The fields of ``RmsProp``."""
        return {
            "learning_rate": at(self.learning_rate, t),
            "rho": self.rho,
            "gain": 1 - self.rho,
            "epsilon": self.epsilon,
        }


@final
@dataclass(frozen=True)
class AdaDelta(Optimizer):
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

    def __post_init__(self) -> None:
        positive(self, "learning_rate", "epsilon")
        fraction(self, "rho")

    def fields(self, t: int) -> dict[str, float]:
        """The fields of ``AdaDelta``."""
        return {
            "learning_rate": at(self.learning_rate, t),
            "rho": self.rho,
            "gain": 1 - self.rho,
            "epsilon": self.epsilon,
        }


@final
@dataclass(frozen=True)
class Adam(Optimizer):
    r"""Adam: per-parameter step sizes from running moments of the gradient.

    .. math:: m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \quad v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2
    .. math:: w_t = w_{t-1} - \alpha_t\, \hat m_t / (\sqrt{\hat v_t} + \epsilon), \quad
              \hat m_t = m_t / (1-\beta_1^t), \quad \hat v_t = v_t / (1-\beta_2^t)

    Args:
        learning_rate: alpha, in units of w; a float > 0 or a schedule ``t -> float``.
        beta1, beta2: decay of m and v per step, in [0, 1).
        epsilon: > 0, in units of the gradient; added after the square root.

    State: ``m`` and ``v``, shape (n,), zero at t = 0.

    Raises:
        InputError: a hyper-parameter is out of range ("[Adam] beta1 must be in [0, 1), got 1.2").

    Reference: Kingma & Ba, ICLR 2015, arXiv:1412.6980, Algorithm 1 (epsilon outside the root, as in PyTorch;
    scikit-learn uses the form of the paper's section 2, where it is larger in the first steps).
    """

    learning_rate: float | Schedule = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    rule = "Adam"
    state_names = ("m", "v")

    def __post_init__(self) -> None:
        positive(self, "learning_rate", "epsilon")
        fraction(self, "beta1", "beta2")

    def fields(self, t: int) -> dict[str, float]:
        """The fields of ``Adam``."""
        return {
            "rate": at(self.learning_rate, t) / (1 - self.beta1**t),
            "beta1": self.beta1,
            "gain1": 1 - self.beta1,
            "beta2": self.beta2,
            "gain2": 1 - self.beta2,
            "scale": 1 / math.sqrt(1 - self.beta2**t),
            "epsilon": self.epsilon,
        }


@final
@dataclass(frozen=True)
class AdamW(Optimizer):
    r"""Adam with decoupled weight decay.

    .. math:: w_t = (1 - \alpha_t \lambda)\, w_{t-1} - \alpha_t\, \hat m_t / (\sqrt{\hat v_t} + \epsilon)

    with the moments of `Adam`. The decay comes before the step and is scaled by the learning rate.

    Args:
        learning_rate: alpha, in units of w; a float > 0 or a schedule ``t -> float``.
        beta1, beta2: decay of m and v per step, in [0, 1).
        epsilon: > 0, in units of the gradient; added after the square root.
        weight_decay: lambda, in [0, 1); biases decay too.

    State: ``m`` and ``v``, shape (n,), zero at t = 0.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Loshchilov & Hutter, ICLR 2019, arXiv:1711.05101, Algorithm 2.
    """

    learning_rate: float | Schedule = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    rule = "AdamW"
    state_names = ("m", "v")

    def __post_init__(self) -> None:
        positive(self, "learning_rate", "epsilon")
        fraction(self, "beta1", "beta2", "weight_decay")

    def fields(self, t: int) -> dict[str, float]:
        """The fields of ``AdamW``."""
        learning_rate = at(self.learning_rate, t)
        return {
            "rate": learning_rate / (1 - self.beta1**t),
            "beta1": self.beta1,
            "gain1": 1 - self.beta1,
            "beta2": self.beta2,
            "gain2": 1 - self.beta2,
            "scale": 1 / math.sqrt(1 - self.beta2**t),
            "epsilon": self.epsilon,
            "keep": 1 - learning_rate * self.weight_decay,
        }
