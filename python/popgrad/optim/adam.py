"""Adam and its closest variants. Formulas: csrc/kernels/step_rules.h."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal, final, get_args

from popgrad.columns import running_product, sqrt, where
from popgrad.optim._base import NativeOptimizer, Schedule
from popgrad.optim._presets import DECOUPLED, Presets
from popgrad.settings import hyper

__all__ = [
    "AMSGrad",
    "AdaMax",
    "Adam",
    "AdamW",
    "NAdam",
    "RAdam",
]

# How the bias of m and v, which start at zero, is corrected: see `Adam`.
BiasCorrection = Literal["moments", "rate", "none"]
CORRECTIONS = get_args(BiasCorrection)


@final
@dataclass(frozen=True, repr=False)
class Adam(NativeOptimizer):
    r"""Adam: per-parameter step sizes from running moments of the gradient.

    .. math:: m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \quad v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2
    .. math:: w_t = w_{t-1} - \alpha_t\, \hat m_t / (\sqrt{\hat v_t + \epsilon_r} + \epsilon), \quad
              \hat m_t = m_t / (1-\beta_1^t), \quad \hat v_t = v_t / (1-\beta_2^t)

    Args:
        learning_rate: alpha, in units of w; a float > 0 or a schedule ``t -> float``.
        beta1, beta2: decay of m and v per step, in [0, 1).
        epsilon: >= 0, in units of the gradient; added after the square root.
        epsilon_root: >= 0, in units of the squared gradient; added inside the root (optax's ``eps_root``). epsilon or
            epsilon_root must be > 0.
        bias_correction: "moments" divides both moments as above. "rate" moves the corrections into the learning rate,
            ``alpha sqrt(1 - beta2^t) / (1 - beta1^t)`` times ``m / (sqrt(v) + epsilon)``, which increases the effect of
            epsilon in the first steps (section 2 of the paper, Keras, scikit-learn). "none": no correction.

    State: ``m`` and ``v``, shape (n,), zero at t = 0.

    Raises:
        InputError: a hyper-parameter is out of range ("[Adam] beta1 must be in [0, 1), got 1.2").

    Reference: Kingma & Ba, ICLR 2015, arXiv:1412.6980, Algorithm 1 and section 2.
    """

    learning_rate: float | Schedule = hyper(1e-3, above=0, schedule=True)
    beta1: float | Schedule = hyper(0.9, at_least=0, below=1, schedule=True)
    beta2: float | Schedule = hyper(0.999, at_least=0, below=1, schedule=True)
    epsilon: float | Schedule = hyper(1e-8, at_least=0, zero_needs="epsilon_root", schedule=True)
    _: KW_ONLY
    epsilon_root: float | Schedule = hyper(0.0, at_least=0, schedule=True)
    bias_correction: BiasCorrection = hyper("moments", choices=CORRECTIONS)
    presets: ClassVar[Presets] = {
        "torch": {},
        "optax": {},
        "keras": {"epsilon": 1e-7, "bias_correction": "rate", **DECOUPLED},
    }
    rule = "Adam"
    state_names = ("m", "v")

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        return moments(t, now, bias_correction=self.bias_correction, epsilon_root=now["epsilon_root"])


@final
@dataclass(frozen=True, repr=False)
class AdamW(NativeOptimizer):
    r"""Adam with decoupled weight decay.

    .. math:: w_t = (1 - \alpha_t \lambda)\, w_{t-1} - \alpha_t\, \hat m_t / (\sqrt{\hat v_t + \epsilon_r} + \epsilon)

    with the moments of `Adam`. The weights decay before the step, by learning rate times lambda.

    Args:
        learning_rate: alpha, in units of w; a float > 0 or a schedule ``t -> float``.
        beta1, beta2: decay of m and v per step, in [0, 1).
        epsilon: >= 0, in units of the gradient; added after the square root.
        epsilon_root: >= 0, in units of the squared gradient; added inside the root (optax's ``eps_root``). epsilon or
            epsilon_root must be > 0.
        bias_correction: "moments", "rate" or "none", see `Adam`.
        weight_decay: lambda >= 0; alpha lambda <= 1. Biases decay too.

    State: ``m`` and ``v``, shape (n,), zero at t = 0.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Loshchilov & Hutter, ICLR 2019, arXiv:1711.05101, Algorithm 2.
    """

    learning_rate: float | Schedule = hyper(1e-3, above=0, schedule=True)
    beta1: float | Schedule = hyper(0.9, at_least=0, below=1, schedule=True)
    beta2: float | Schedule = hyper(0.999, at_least=0, below=1, schedule=True)
    epsilon: float | Schedule = hyper(1e-8, at_least=0, zero_needs="epsilon_root", schedule=True)
    _: KW_ONLY
    epsilon_root: float | Schedule = hyper(0.0, at_least=0, schedule=True)
    bias_correction: BiasCorrection = hyper("moments", choices=CORRECTIONS)
    weight_decay: float | Schedule = hyper(0.01, at_least=0, schedule=True)
    presets: ClassVar[Presets] = {
        "torch": {},
        "optax": {"weight_decay": 1e-4},
        "keras": {"epsilon": 1e-7, "bias_correction": "rate", "weight_decay": 0.004},
    }
    rule = "Adam"
    state_names = ("m", "v")
    default_decay_mode = "decoupled"

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        return moments(t, now, bias_correction=self.bias_correction, epsilon_root=now["epsilon_root"])


@final
@dataclass(frozen=True, repr=False)
class AMSGrad(NativeOptimizer):
    r"""Adam that divides by the largest v so far, so that the step size of a parameter never increases again.

    .. math:: \tilde v_t = \max(\tilde v_{t-1}, v_t), \quad
              w_t = (1 - \alpha_t \lambda)\, w_{t-1}
              - \alpha_t\, \hat m_t / (\sqrt{\tilde v_t / (1-\beta_2^t) + \epsilon_r} + \epsilon)

    Args:
        learning_rate: alpha, in units of w; a float > 0 or a schedule ``t -> float``.
        beta1, beta2: decay of m and v per step, in [0, 1).
        epsilon: >= 0, in units of the gradient; added after the square root.
        epsilon_root: >= 0, in units of the squared gradient; added inside the root (optax's ``eps_root``). epsilon or
            epsilon_root must be > 0.
        bias_correction: "moments", "rate" or "none", see `Adam`.
        maximum: "raw" keeps the largest v and applies the bias correction to it, as above (PyTorch, Keras).
            "corrected" keeps the largest bias-corrected v (optax).
        weight_decay: lambda >= 0, decoupled and scaled by the learning rate; alpha lambda <= 1.

    State: ``m``, ``v`` and ``largest``, shape (n,), zero at t = 0.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Reddi, Kale & Kumar, ICLR 2018, Algorithm 2, with the bias corrections of PyTorch.
    """

    learning_rate: float | Schedule = hyper(1e-3, above=0, schedule=True)
    beta1: float | Schedule = hyper(0.9, at_least=0, below=1, schedule=True)
    beta2: float | Schedule = hyper(0.999, at_least=0, below=1, schedule=True)
    epsilon: float | Schedule = hyper(1e-8, at_least=0, zero_needs="epsilon_root", schedule=True)
    _: KW_ONLY
    epsilon_root: float | Schedule = hyper(0.0, at_least=0, schedule=True)
    bias_correction: BiasCorrection = hyper("moments", choices=CORRECTIONS)
    maximum: Literal["raw", "corrected"] = hyper("raw", choices=("raw", "corrected"))
    presets: ClassVar[Presets] = {
        "torch": {"weight_decay_mode": "coupled"},
        "optax": {"maximum": "corrected"},
        "keras": {"epsilon": 1e-7, "bias_correction": "rate"},
    }
    rule = "AmsGrad"
    state_names = ("m", "v", "largest")
    default_decay_mode = "decoupled"

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        fields = moments(t, now, bias_correction=self.bias_correction, epsilon_root=now["epsilon_root"])
        if self.maximum == "raw":
            return fields | {"correct": 1.0}
        return fields | {"correct": fields["scale"] ** 2, "scale": 1.0, "root": now["epsilon_root"]}


@final
@dataclass(frozen=True, repr=False)
class AdaMax(NativeOptimizer):
    r"""Adam in the maximum norm.

    .. math:: u_t = \max(\beta_2 u_{t-1}, |g_t| + \epsilon), \quad
              w_t = w_{t-1} - \alpha_t\, m_t / ((1-\beta_1^t)(u_t + \epsilon_o))

    Args:
        learning_rate: alpha, in units of w; a float > 0 or a schedule ``t -> float``.
        beta1, beta2: decay of m and u per step, in [0, 1).
        epsilon: >= 0, in units of the gradient; added inside the maximum (PyTorch, optax).
        epsilon_outside: >= 0, in units of the gradient; added to u (Keras). epsilon or epsilon_outside must be > 0.

    State: ``m`` and ``u``, shape (n,), zero at t = 0.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Kingma & Ba, ICLR 2015, arXiv:1412.6980, Algorithm 2.
    """

    learning_rate: float | Schedule = hyper(2e-3, above=0, schedule=True)
    beta1: float | Schedule = hyper(0.9, at_least=0, below=1, schedule=True)
    beta2: float | Schedule = hyper(0.999, at_least=0, below=1, schedule=True)
    epsilon: float | Schedule = hyper(1e-8, at_least=0, zero_needs="epsilon_outside", schedule=True)
    _: KW_ONLY
    epsilon_outside: float | Schedule = hyper(0.0, at_least=0, schedule=True)
    presets: ClassVar[Presets] = {
        "torch": {},
        "optax": {},
        "keras": {"learning_rate": 1e-3, "epsilon": 0.0, "epsilon_outside": 1e-7, **DECOUPLED},
    }
    rule = "AdaMax"
    state_names = ("m", "u")

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        fields = moments(t, now)
        shared = {name: fields[name] for name in ("rate", "beta1", "gain1", "beta2")}
        return shared | {"inside": now["epsilon"], "epsilon": now["epsilon_outside"]}


@final
@dataclass(frozen=True, repr=False)
class NAdam(NativeOptimizer):
    r"""Adam with Nesterov momentum.

    .. math:: w_t = w_{t-1} - \alpha_t \left( \frac{(1-\mu_t)\, g_t}{1-\prod_{i \le t} \mu_i}
              + \frac{\mu_{t+1}\, m_t}{1-\prod_{i \le t+1} \mu_i} \right) / (\sqrt{\hat v_t + \epsilon_r} + \epsilon)
    .. math:: \mu_t = \beta_1 (1 - 0.96^{t \psi} / 2)

    Args:
        learning_rate: alpha, in units of w; a float > 0 or a schedule ``t -> float``.
        beta1, beta2: decay of m and v per step, in [0, 1).
        epsilon: >= 0, in units of the gradient; added after the square root.
        epsilon_root: >= 0, in units of the squared gradient; added inside the root (optax's ``eps_root``). epsilon or
            epsilon_root must be > 0.
        momentum_decay: psi, >= 0 (PyTorch 0.004, Keras 1); None keeps mu at beta1, as optax's ``nadam`` does.

    State: ``m`` and ``v``, shape (n,), zero at t = 0; the number ``product``, the product of all mu so far.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Dozat, ICLR workshop 2016, Algorithm 8.
    """

    learning_rate: float | Schedule = hyper(2e-3, above=0, schedule=True)
    beta1: float | Schedule = hyper(0.9, at_least=0, below=1, schedule=True)
    beta2: float | Schedule = hyper(0.999, at_least=0, below=1, schedule=True)
    epsilon: float | Schedule = hyper(1e-8, at_least=0, zero_needs="epsilon_root", schedule=True)
    momentum_decay: float | None = hyper(4e-3, at_least=0, optional=True)
    _: KW_ONLY
    epsilon_root: float | Schedule = hyper(0.0, at_least=0, schedule=True)
    presets: ClassVar[Presets] = {
        "torch": {},
        "optax": {"momentum_decay": None},
        "keras": {"learning_rate": 1e-3, "epsilon": 1e-7, "momentum_decay": 1.0, **DECOUPLED},
    }
    rule = "NAdam"
    state_names = ("m", "v")
    first_numbers: ClassVar[Mapping[str, float]] = {"product": 1.0}

    def _momentum(self, t: Any, beta1: Any) -> Any:
        if self.momentum_decay is None:
            return beta1 * (t > 0)  # a column if t is one
        return beta1 * (1 - 0.5 * 0.96 ** (t * self.momentum_decay))

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        momentum, following = self._momentum(t, now["beta1"]), self._momentum(t + 1, now["beta1"])
        product = numbers["product"] = running_product(numbers["product"], momentum)
        fields, learning_rate = moments(t, now, epsilon_root=now["epsilon_root"]), now["learning_rate"]
        del fields["rate"]
        fields["rate_g"] = learning_rate * (1 - momentum) / (1 - product)
        fields["rate_m"] = learning_rate * following / (1 - product * following)
        return fields


@final
@dataclass(frozen=True, repr=False)
class RAdam(NativeOptimizer):
    r"""Adam that does not adapt step sizes until the variance estimate is reliable.

    .. math:: w_t = w_{t-1} - \alpha_t\, \hat m_t\, r_t \sqrt{1-\beta_2^t} / (\sqrt{v_t + \epsilon_r} + \epsilon)
              \;\text{ if } \rho_t > \theta, \quad w_{t-1} - \alpha_t\, \hat m_t \;\text{ else}

    Args:
        learning_rate: alpha, in units of w; a float > 0 or a schedule ``t -> float``.
        beta1, beta2: decay of m and v per step, in [0, 1).
        epsilon: >= 0, in units of the gradient; added after the square root.
        epsilon_root: >= 0, in units of the squared gradient; added inside the root (optax's ``eps_root``). epsilon or
            epsilon_root must be > 0.
        bias_correction: "rate" as above (the authors' code, PyTorch) or "moments" (optax), see `Adam`.
        threshold: theta, >= 4, since r would be the square root of a negative number below 4 (paper: 4; PyTorch,
            optax: 5).

    State: ``m`` and ``v``, shape (n,), zero at t = 0.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Liu et al., ICLR 2020, arXiv:1908.03265, Algorithm 2.
    """

    learning_rate: float | Schedule = hyper(1e-3, above=0, schedule=True)
    beta1: float | Schedule = hyper(0.9, at_least=0, below=1, schedule=True)
    beta2: float | Schedule = hyper(0.999, at_least=0, below=1, schedule=True)
    epsilon: float | Schedule = hyper(1e-8, at_least=0, zero_needs="epsilon_root", schedule=True)
    _: KW_ONLY
    epsilon_root: float | Schedule = hyper(0.0, at_least=0, schedule=True)
    bias_correction: Literal["moments", "rate"] = hyper("rate", choices=("moments", "rate"))
    threshold: float = hyper(5.0, at_least=4)
    presets: ClassVar[Presets] = {"torch": {}, "optax": {"bias_correction": "moments"}}
    rule = "RAdam"
    state_names = ("m", "v")

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        fields = moments(t, now, bias_correction=self.bias_correction, epsilon_root=now["epsilon_root"])
        rate, longest, decayed = fields.pop("rate"), 2 / (1 - now["beta2"]) - 1, now["beta2"] ** t
        length = longest - 2 * t * decayed / (1 - decayed)
        adapts = length > self.threshold
        above = abs((length - 4) * (length - 2) * longest)
        below = where(adapts, (longest - 4) * (longest - 2) * length, math.inf)
        fields["adaptive"] = rate * sqrt(above / below)
        fields["plain"] = now["learning_rate"] / (1 - now["beta1"] ** t) * (length <= self.threshold)
        return fields


def moments(
    t: Any,
    now: Mapping[str, Any],
    *,
    bias_correction: BiasCorrection = "moments",
    epsilon_root: float = 0.0,
) -> dict[str, Any]:
    """Fields that the Adam rules share: decays and bias corrections, in double, since float would round 1 - beta."""
    beta1, beta2 = now["beta1"], now["beta2"]
    debias1, debias2 = (1.0, 1.0) if bias_correction == "none" else (1 - beta1**t, 1 - beta2**t)
    rate = now["learning_rate"] / debias1
    if bias_correction == "rate":
        rate, scale = rate * sqrt(debias2), 1.0
    else:
        epsilon_root, scale = epsilon_root * debias2, 1 / sqrt(debias2)
    return {
        "rate": rate,
        "beta1": beta1,
        "gain1": 1 - beta1,
        "beta2": beta2,
        "gain2": 1 - beta2,
        "root": epsilon_root,
        "scale": scale,
        "epsilon": now["epsilon"],
    }
