"""Further variants of Adam. Formulas: csrc/kernels/step_rules.h."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, final

from popgrad.columns import sqrt
from popgrad.optim._base import NativeOptimizer, Schedule
from popgrad.optim._presets import Presets, TorchNames
from popgrad.optim.adam import CORRECTIONS, BiasCorrection, moments
from popgrad.settings import hyper

__all__ = ["ADOPT", "AdEMAMix", "AdaBelief", "Adan", "Yogi"]


@final
@dataclass(frozen=True, repr=False)
class AdaBelief(NativeOptimizer):
    r"""Adam that divides by the deviation of the gradient from its running mean.

    .. math:: s_t = \beta_2 s_{t-1} + (1-\beta_2)(g_t - m_t)^2 + \epsilon_r, \quad
              w_t = w_{t-1} - \alpha_t\, \hat m_t / (\sqrt{\hat s_t} + \epsilon)

    Args:
        learning_rate: alpha, in units of w; a float > 0 or a schedule ``t -> float``.
        beta1, beta2: decay of m and s per step, in [0, 1).
        epsilon: >= 0, in units of the gradient; added after the square root.
        epsilon_root: >= 0, in units of the squared gradient; added to s in every step, so that it accumulates. epsilon
            or epsilon_root must be > 0. The paper uses one number for both.
        bias_correction: "moments", "rate" or "none", see `Adam`.

    State: ``m`` and ``s``, shape (n,), zero at t = 0.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Zhuang et al., NeurIPS 2020, arXiv:2010.07468, Algorithm 2.
    """

    learning_rate: float | Schedule = hyper(1e-3, above=0, schedule=True)
    beta1: float | Schedule = hyper(0.9, at_least=0, below=1, schedule=True)
    beta2: float | Schedule = hyper(0.999, at_least=0, below=1, schedule=True)
    epsilon: float | Schedule = hyper(1e-16, at_least=0, zero_needs="epsilon_root", schedule=True)
    _: KW_ONLY
    epsilon_root: float | Schedule = hyper(1e-16, at_least=0, schedule=True)
    bias_correction: BiasCorrection = hyper("moments", choices=CORRECTIONS)
    presets: ClassVar[Presets] = {"optax": {}}
    rule = "AdaBelief"
    torch_names = TorchNames(states={"s": "exp_avg_var"})
    state_names = ("m", "s")

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        return moments(t, now, bias_correction=self.bias_correction) | {"root": now["epsilon_root"]}


@final
@dataclass(frozen=True, repr=False)
class Yogi(NativeOptimizer):
    r"""Adam whose v changes by a bounded amount.

    .. math:: v_t = v_{t-1} - (1-\beta_2)\, \mathrm{sign}(v_{t-1} - g_t^2)\, g_t^2, \quad
              w_t = w_{t-1} - \alpha_t\, \hat m_t / (\sqrt{\hat v_t + \epsilon_r} + \epsilon)

    Args:
        learning_rate: alpha, in units of w; a float > 0 or a schedule ``t -> float``.
        beta1, beta2: decay of m and rate of change of v per step, in [0, 1).
        epsilon: >= 0, in units of the gradient; added after the square root.
        epsilon_root: >= 0, in units of the squared gradient; added inside the root (optax's ``eps_root``). epsilon or
            epsilon_root must be > 0.
        bias_correction: "moments", "rate" or "none", see `Adam`; the paper has none.
        initial: m and v before the first step, >= 0 (optax: 1e-6).

    State: ``m`` and ``v``, shape (n,), zero at t = 0; the first step adds ``initial``.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Zaheer et al., NeurIPS 2018, Algorithm 2, with bias corrections for v = 0 at the start.
    """

    learning_rate: float | Schedule = hyper(1e-2, above=0, schedule=True)
    beta1: float | Schedule = hyper(0.9, at_least=0, below=1, schedule=True)
    beta2: float | Schedule = hyper(0.999, at_least=0, below=1, schedule=True)
    epsilon: float | Schedule = hyper(1e-3, at_least=0, zero_needs="epsilon_root", schedule=True)
    _: KW_ONLY
    epsilon_root: float | Schedule = hyper(0.0, at_least=0, schedule=True)
    bias_correction: BiasCorrection = hyper("moments", choices=CORRECTIONS)
    initial: float = hyper(0.0, at_least=0)
    presets: ClassVar[Presets] = {"optax": {"initial": 1e-6}}
    rule = "Yogi"
    state_names = ("m", "v")

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        fields = moments(t, now, bias_correction=self.bias_correction, epsilon_root=now["epsilon_root"])
        del fields["beta2"]
        return fields | {"first": self.initial * (t == 1)}


@final
@dataclass(frozen=True, repr=False)
class ADOPT(NativeOptimizer):
    r"""Adam that divides by the v of the previous step, and therefore converges for any beta2.

    .. math:: m_t = \beta_1 m_{t-1} + (1-\beta_1)\, \mathrm{clip}(g_t / \max(\sqrt{v_{t-1}}, \epsilon), t^{1/4})
    .. math:: w_t = (1 - \alpha_t \lambda)\, w_{t-1} - \alpha_t m_t, \quad v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2

    Args:
        learning_rate: alpha, in units of w; a float > 0 or a schedule ``t -> float``.
        beta1, beta2: decay of m and v per step, in [0, 1).
        epsilon: > 0, in units of the gradient; the smallest divisor.
        weight_decay: lambda >= 0, decoupled and scaled by the learning rate; alpha lambda <= 1.

    State: ``m`` and ``v``, shape (n,), zero at t = 0. The first step only sets v to the squared gradient.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Taniguchi et al., NeurIPS 2024, arXiv:2411.02853, Algorithm 2; t in the limit counts from the second
    step.
    """

    learning_rate: float | Schedule = hyper(1e-3, above=0, schedule=True)
    beta1: float | Schedule = hyper(0.9, at_least=0, below=1, schedule=True)
    beta2: float | Schedule = hyper(0.9999, at_least=0, below=1, schedule=True)
    epsilon: float | Schedule = hyper(1e-6, above=0, schedule=True)
    presets: ClassVar[Presets] = {"optax": {}}
    rule = "Adopt"
    state_names = ("m", "v")
    first_step_rests = True
    default_decay_mode = "decoupled"

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        first, later = t == 1, t > 1  # the first step sets v to the squared gradient and changes nothing else
        return {
            "learning_rate": now["learning_rate"] * later,
            "beta1": now["beta1"] * later + first,
            "gain1": (1 - now["beta1"]) * later,
            "beta2": now["beta2"] * later,
            "gain2": (1 - now["beta2"]) * later + first,
            "limit": (t - 1) ** 0.25 + first,
            "epsilon": now["epsilon"],
        }


@final
@dataclass(frozen=True, repr=False)
class AdEMAMix(NativeOptimizer):
    r"""Adam with an additional slow average of the gradient.

    .. math:: f_t = \beta_1 f_{t-1} + (1-\beta_1) g_t, \quad s_t = \beta_3 s_{t-1} + (1-\beta_3) g_t
    .. math:: w_t = (1 - \alpha_t \lambda)\, w_{t-1}
              - \alpha_t\, (\hat f_t + a\, s_t) / (\sqrt{\hat v_t + \epsilon_r} + \epsilon)

    Args:
        learning_rate: alpha, in units of w; a float > 0 or a schedule ``t -> float``.
        beta1, beta2, beta3: decay of the fast average, of v and of the slow average per step, in [0, 1).
        alpha: a, the weight of the slow average, > 0 or a schedule; in the paper it grows from 0 during the run.
        epsilon: >= 0, in units of the gradient; added after the square root.
        epsilon_root: >= 0, in units of the squared gradient; added inside the root (optax's ``eps_root``). epsilon or
            epsilon_root must be > 0.
        weight_decay: lambda >= 0, decoupled and scaled by the learning rate; alpha lambda <= 1.

    State: ``fast``, ``slow`` and ``v``, shape (n,), zero at t = 0.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Pagliardini, Ablin & Grangier, arXiv:2409.03137 (2024), Algorithm 1.
    """

    learning_rate: float | Schedule = hyper(1e-3, above=0, schedule=True)
    beta1: float | Schedule = hyper(0.9, at_least=0, below=1, schedule=True)
    beta2: float | Schedule = hyper(0.999, at_least=0, below=1, schedule=True)
    beta3: float | Schedule = hyper(0.9999, at_least=0, below=1, schedule=True)
    alpha: float | Schedule = hyper(5.0, above=0, schedule=True)
    epsilon: float | Schedule = hyper(1e-8, at_least=0, zero_needs="epsilon_root", schedule=True)
    _: KW_ONLY
    epsilon_root: float | Schedule = hyper(0.0, at_least=0, schedule=True)
    presets: ClassVar[Presets] = {"optax": {}}
    rule = "AdEmaMix"
    torch_names = TorchNames(states={"fast": "exp_avg", "slow": "exp_avg_slow"})
    state_names = ("fast", "slow", "v")
    default_decay_mode = "decoupled"

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        fields = moments(t, now, epsilon_root=now["epsilon_root"]) | {"learning_rate": now["learning_rate"]}
        del fields["rate"]
        fields |= {"scale1": 1 / (1 - now["beta1"] ** t), "scale2": fields.pop("scale")}
        return fields | {"beta3": now["beta3"], "gain3": 1 - now["beta3"], "alpha": now["alpha"]}


@final
@dataclass(frozen=True, repr=False)
class Adan(NativeOptimizer):
    r"""Adam with Nesterov momentum, computed from gradient differences.

    .. math:: m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \quad d_t = \beta_2 d_{t-1} + (1-\beta_2)(g_t - g_{t-1})
    .. math:: n_t = \beta_3 n_{t-1} + (1-\beta_3)(g_t + \beta_2 (g_t - g_{t-1}))^2
    .. math:: w_t = \left( w_{t-1} - \alpha_t (\hat m_t + \beta_2 \hat d_t) /
              (\sqrt{\hat n_t + \epsilon_r} + \epsilon) \right) / (1 + \alpha_t \lambda)

    Args:
        learning_rate: alpha, in units of w; a float > 0 or a schedule ``t -> float``.
        beta1, beta2, beta3: decay of m, d and n per step, in [0, 1) (1 minus the betas of the paper).
        epsilon: >= 0, in units of the gradient; added after the square root.
        epsilon_root: >= 0, in units of the squared gradient; added inside the root (optax's ``eps_root``). epsilon or
            epsilon_root must be > 0.
        weight_decay: lambda >= 0, applied as a proximal step.

    State: ``m``, ``d``, ``n`` and ``g``, the last gradient, shape (n,), zero at t = 0; the first difference is zero.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Xie et al., arXiv:2208.06677 (2022), Algorithm 1, as in the authors' code. In optax, the differences
    have the weight 1 - beta2 instead of beta2, so that it agrees only for beta2 = 0.5.
    """

    learning_rate: float | Schedule = hyper(1e-3, above=0, schedule=True)
    beta1: float | Schedule = hyper(0.98, at_least=0, below=1, schedule=True)
    beta2: float | Schedule = hyper(0.92, at_least=0, below=1, schedule=True)
    beta3: float | Schedule = hyper(0.99, at_least=0, below=1, schedule=True)
    epsilon: float | Schedule = hyper(1e-8, at_least=0, zero_needs="epsilon_root", schedule=True)
    _: KW_ONLY
    epsilon_root: float | Schedule = hyper(0.0, at_least=0, schedule=True)
    rule = "Adan"
    torch_names = TorchNames(states={"d": "exp_avg_diff", "n": "exp_avg_sq", "g": "prev"})
    state_names = ("m", "d", "n", "g")
    default_decay_mode = "own"
    decay_modes = ()

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        fields, learning_rate = moments(t, now, epsilon_root=now["epsilon_root"]), now["learning_rate"]
        debias3 = 1 - now["beta3"] ** t
        fields |= {"beta3": now["beta3"], "gain3": 1 - now["beta3"], "scale": 1 / sqrt(debias3)}
        fields["root"] = now["epsilon_root"] * debias3
        fields["rate_d"] = learning_rate * now["beta2"] / (1 - now["beta2"] ** t)
        return fields | {"seen": 1.0 * (t > 1), "shrink": 1 / (1 + learning_rate * now["weight_decay"])}
