"""Methods that use norms of whole tensors, or of all parameters. Formulas: csrc/kernels/layer_rules.h."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

from popgrad.columns import sqrt
from popgrad.layout import Layout
from popgrad.optim._base import NativeOptimizer, Schedule
from popgrad.optim._layers import resting
from popgrad.optim._optimizer import Array, State
from popgrad.optim._presets import Presets, TorchNames
from popgrad.settings import hyper

__all__ = ["LAMB", "LARS", "DoG", "NovoGrad", "Prodigy"]


@final
@dataclass(frozen=True, repr=False)
class NovoGrad(NativeOptimizer):
    r"""Momentum on gradients divided by the running norm of their layer: one second moment per layer.

    .. math:: v_t = \beta_2 v_{t-1} + (1-\beta_2) \|g_t\|^2 \;(v_1 = \|g_1\|^2), \quad
              m_t = \beta_1 m_{t-1} + \frac{g_t}{\sqrt{v_t} + \epsilon} + \lambda w_{t-1}, \quad
              w_t = w_{t-1} - \alpha_t m_t

    Args:
        learning_rate: alpha, in units of w; a float > 0 or a schedule ``t -> float``.
        beta1, beta2: decay of m and v per step, in [0, 1).
        epsilon: > 0, in units of the gradient's norm.
        averaging: multiply the terms added to m by (1 - beta1), so that m is an average.
        weight_decay: lambda >= 0, added to m as above.

    State: ``m``, shape (n,), zero at t = 0; v, one number per layer, in ``State.kept``.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Ginsburg et al., arXiv:1905.11286 (2019), Algorithm 1.
    """

    learning_rate: float | Schedule = hyper(1e-2, above=0, schedule=True)
    beta1: float | Schedule = hyper(0.95, at_least=0, below=1, schedule=True)
    beta2: float | Schedule = hyper(0.98, at_least=0, below=1, schedule=True)
    epsilon: float | Schedule = hyper(1e-8, above=0, schedule=True)
    averaging: bool = False
    presets: ClassVar[Presets] = {"optax": {"beta1": 0.9, "beta2": 0.25, "epsilon": 1e-6}}
    rule = "NovoGrad"
    state_names = ("m",)
    default_decay_mode = "own"
    decay_modes = ()
    first_sweep_bytes = 4

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        return {
            "v": 0.0,
            "scale": 0.0,
            "learning_rate": now["learning_rate"],
            "beta1": now["beta1"],
            "gain1": 1 - now["beta1"] if self.averaging else 1.0,
            "beta2": now["beta2"],
            "gain2": 1 - now["beta2"],
            "epsilon": now["epsilon"],
            "first": 1.0 * (t == 1),
            "decay": now["weight_decay"],
        }


@final
@dataclass(frozen=True, repr=False)
class LARS(NativeOptimizer):
    r"""Momentum whose learning rate in each layer is scaled by the norm of the weights over that of the gradient.

    .. math:: v_t = \mu v_{t-1} + \alpha_t\, \frac{\eta \|w\|}{\|g_t\| + \lambda \|w\|}\, (g_t + \lambda w_{t-1}), \quad
              w_t = w_{t-1} - v_t

    The ratio is 1 if either norm is zero. A layer is one tensor of the ``layout`` passed to `init`.

    Args:
        learning_rate: alpha, dimensionless; a float > 0 or a schedule ``t -> float``.
        momentum: mu, in [0, 1]; v includes the learning rate.
        trust: eta, > 0: length of a layer's step relative to the norm of its weights, at alpha = 1.
        epsilon: >= 0, added to the divisor.
        adapt_vectors: whether to adapt biases and other one-dimensional tensors; their ratio is 1 otherwise.
        weight_decay: lambda >= 0, part of the update as above. With ``weight_decay_mode="coupled"``, as in optax, the
            divisor is the norm of g + lambda w instead of the sum of the two norms.

    State: ``v``, shape (n,), zero at t = 0.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: You, Gitman & Ginsburg, arXiv:1708.03888 (2017), Algorithm 1.
    """

    learning_rate: float | Schedule = hyper(1.0, above=0, schedule=True)
    momentum: float | Schedule = hyper(0.9, at_least=0, at_most=1, schedule=True)
    trust: float | Schedule = hyper(1e-3, above=0, schedule=True)
    epsilon: float | Schedule = hyper(0.0, at_least=0, schedule=True)
    adapt_vectors: bool = True
    presets: ClassVar[Presets] = {"optax": {"weight_decay_mode": "coupled"}}
    rule = "Lars"
    torch_names = TorchNames(
        {
            "momentum": "momentum",
            "trust": "trust",
            "weight_decay": "weight_decay",
            "eps": "epsilon",
            "adapt_vectors": "adapt_vectors",
        },
        states={"v": "momentum_buffer"},
    )
    state_names = ("v",)
    default_decay_mode = "own"
    decay_modes = ("coupled",)
    first_sweep_bytes = 8

    def adapts(self, dimensions: int) -> bool:
        """See `NativeOptimizer.adapts`: matrices always, vectors with ``adapt_vectors``."""
        return self.adapt_vectors or dimensions > 1

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        return {
            "ratio": 1.0,
            "learning_rate": now["learning_rate"],
            "momentum": now["momentum"],
            "decay": now["weight_decay"] if self.decay_mode == "own" else 0.0,
            "trust": now["trust"],
            "epsilon": now["epsilon"],
        }


@final
@dataclass(frozen=True, repr=False)
class LAMB(NativeOptimizer):
    r"""Adam whose step in each layer has a length proportional to the norm of the layer's weights.

    .. math:: u_t = \hat m_t / (\sqrt{\hat v_t} + \epsilon) + \lambda w_{t-1}, \quad
              w_t = w_{t-1} - \alpha_t \frac{\|w_{t-1}\|}{\|u_t\|}\, u_t

    with the moments of `Adam`. The ratio is 1 if either norm is zero.

    Args:
        learning_rate: alpha, dimensionless; a float > 0 or a schedule ``t -> float``.
        beta1, beta2: decay of m and v per step, in [0, 1).
        epsilon: > 0, in units of the gradient; added after the square root.
        adapt_vectors: whether to adapt biases and other one-dimensional tensors; their ratio is 1 otherwise.
        weight_decay: lambda >= 0, part of the update u and of its norm.

    State: ``m`` and ``v``, shape (n,), zero at t = 0.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: You et al., ICLR 2020, arXiv:1904.00962, Algorithm 2, with phi the identity.
    """

    learning_rate: float | Schedule = hyper(1e-3, above=0, schedule=True)
    beta1: float | Schedule = hyper(0.9, at_least=0, below=1, schedule=True)
    beta2: float | Schedule = hyper(0.999, at_least=0, below=1, schedule=True)
    epsilon: float | Schedule = hyper(1e-6, above=0, schedule=True)
    adapt_vectors: bool = True
    presets: ClassVar[Presets] = {"optax": {}}
    rule = "Lamb"
    state_names = ("m", "v")
    default_decay_mode = "own"
    decay_modes = ()
    first_sweep_bytes = 12  # the second sweep reads no gradient and writes no state: 24 + 16

    def adapts(self, dimensions: int) -> bool:
        """See `NativeOptimizer.adapts`: matrices always, vectors with ``adapt_vectors``."""
        return self.adapt_vectors or dimensions > 1

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        return {
            "rate": now["learning_rate"],
            "beta1": now["beta1"],
            "gain1": 1 - now["beta1"],
            "scale1": 1 / (1 - now["beta1"] ** t),
            "beta2": now["beta2"],
            "gain2": 1 - now["beta2"],
            "scale2": 1 / sqrt(1 - now["beta2"] ** t),
            "epsilon": now["epsilon"],
            "decay": now["weight_decay"],
        }


@final
@dataclass(frozen=True, repr=False)
class Prodigy(NativeOptimizer):
    r"""Adam that estimates its learning rate: d approximates the distance from the initial parameters to the solution.

    .. math:: m_t = \beta_1 m_{t-1} + (1-\beta_1)\, d_t g_t, \quad v_t = \beta_2 v_{t-1} + (1-\beta_2)\, d_t^2 g_t^2
    .. math:: r_t = \beta_3 r_{t-1} + \alpha_t d_t^2 / d_0\; g_t^\top (w_0 - w_{t-1}), \quad
              s_t = \beta_3 s_{t-1} + \alpha_t d_t^2 / d_0\; g_t, \quad \hat d = c\, r_t / \|s_t\|_1
    .. math:: d_{t+1} = \max(d_t, \hat d), \quad
              w_t = w_{t-1} - \alpha_t d_t\, (m_t / (\sqrt{v_t} + d_{t+1} \epsilon) + \lambda w_{t-1})

    with beta3 the root of beta2. The norm and the scalar product are over all parameters.

    Args:
        learning_rate: alpha, dimensionless, 1 in the paper; a float > 0 or a schedule ``t -> float``.
        beta1, beta2: decay of m and v per step, in [0, 1).
        epsilon: > 0, in units of the gradient.
        start: d_0, the initial estimate, > 0 and small.
        growth: largest factor by which d grows in a step, > 1; None for no limit.
        coefficient: c, > 0: scales the estimate.
        bias_correction: whether to multiply alpha by Adam's bias corrections, as in optax. The authors' code omits
            them by default. Without them, the first moments are too small and the estimates more often too large.
        weight_decay: lambda >= 0, decoupled and scaled by the estimated learning rate.

    State: ``m``, ``v``, ``s`` and ``start`` (the first parameters), shape (n,), zero at t = 0; d, its largest
    estimate and r in ``State.kept``.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Mishchenko & Defazio, ICML 2024, arXiv:2306.06101, Algorithm 4, as in the authors' code.
    """

    learning_rate: float | Schedule = hyper(1.0, above=0, schedule=True)
    beta1: float | Schedule = hyper(0.9, at_least=0, below=1, schedule=True)
    beta2: float | Schedule = hyper(0.999, at_least=0, below=1, schedule=True)
    epsilon: float | Schedule = hyper(1e-8, above=0, schedule=True)
    start: float = hyper(1e-6, above=0)
    growth: float | None = hyper(None, above=1, optional=True, finite=False)
    coefficient: float | Schedule = hyper(1.0, above=0, schedule=True)
    bias_correction: bool = True
    presets: ClassVar[Presets] = {"optax": {}}
    rule = "Prodigy"
    torch_names = TorchNames(  # the names in the authors' code
        {
            "betas": ("beta1", "beta2"),
            "eps": "epsilon",
            "weight_decay": "weight_decay",
            "d0": "start",
            "d_coef": "coefficient",
            "growth_rate": "growth",
            "use_bias_correction": "bias_correction",
        },
        defaults={"use_bias_correction": False},
        states={"start": "p0", "largest": "d_max", "numerator": "d_numerator"},
    )
    state_names = ("m", "v", "s", "start")
    default_decay_mode = "own"
    decay_modes = ()
    first_sweep_bytes = 12  # the first sweep moves 40 bytes, the second 16, since it writes no state

    def first_kept(self) -> list[float]:
        """See `NativeOptimizer.first_kept`: d, its largest estimate and the numerator r."""
        return [self.start, self.start, 0.0]

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        rate = now["learning_rate"]
        if self.bias_correction:
            rate = rate * (sqrt(1 - now["beta2"] ** t) / (1 - now["beta1"] ** t))
        return {
            "d": 0.0,
            "largest": 0.0,
            "numerator": 0.0,
            "step": 0.0,
            "rate": rate,
            "beta1": now["beta1"],
            "gain1": 1 - now["beta1"],
            "beta2": now["beta2"],
            "gain2": 1 - now["beta2"],
            "beta3": sqrt(now["beta2"]),
            "epsilon": now["epsilon"],
            "start": self.start,
            "growth": self.growth or math.inf,
            "coefficient": now["coefficient"],
            "decay": now["weight_decay"],
            "first": 1.0 * (t == 1),
        }


@final
@dataclass(frozen=True, repr=False)
class DoG(NativeOptimizer):
    r"""Distance over gradients: SGD whose learning rate is the distance travelled over the size of all gradients.

    .. math:: r_t = \max(r_{t-1}, \|w_{t-1} - w_0\|), \quad G_t = G_{t-1} + \|g_t\|^2, \quad
              w_t = w_{t-1} - \frac{\alpha_t r_t}{\sqrt{G_t + \epsilon}}\, (g_t + \lambda w_{t-1})
    .. math:: \bar w_t = \bar w_{t-1} + \frac{1+\gamma}{t+\gamma} (w_t - \bar w_{t-1})

    with the norms over all parameters and the first distance r_0 = ``start`` (1 + norm of w_0). `solution` returns the
    average, which the paper's guarantees and results are about.

    Args:
        learning_rate: alpha, dimensionless, 1 in the paper; a float > 0 or a schedule ``t -> float``.
        start: the first distance relative to 1 + norm of w_0, > 0 and small.
        epsilon: > 0, in units of the squared gradient.
        averaging: gamma, >= 0; the larger, the shorter the memory of the average.
        weight_decay: lambda >= 0, scaled by the estimated learning rate; not part of the norms.

    State: ``start`` (the first parameters) and ``average``, shape (n,), zero at t = 0; r and G in ``State.kept``.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Ivgi, Hinder & Carmon, ICML 2023, arXiv:2302.12022, eq. 2 and 3; the average is that of Shamir & Zhang,
    ICML 2013, as in the authors' code.
    """

    learning_rate: float | Schedule = hyper(1.0, above=0, schedule=True)
    start: float = hyper(1e-6, above=0)
    epsilon: float | Schedule = hyper(1e-8, above=0, schedule=True)
    averaging: float = hyper(8.0, at_least=0)
    rule = "Dog"
    allows_max_norm = False
    torch_names = TorchNames(  # the names in the authors' code
        {"reps_rel": "start", "eps": "epsilon", "weight_decay": "weight_decay", "averaging": "averaging"},
        states={"start": "init_buffer", "average": "av"},
    )
    state_names = ("start", "average")
    default_decay_mode = "own"
    decay_modes = ()
    first_sweep_bytes = 12  # w, g and start, which the second sweep reads again

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        return {
            "distance": 0.0,
            "total": 0.0,
            "step": 0.0,
            "scale": now["learning_rate"],
            "epsilon": now["epsilon"],
            "relative": self.start,
            "decay": now["weight_decay"],
            "mix": (1 + self.averaging) / (t + self.averaging),
            "first": 1.0 * (t == 1),
        }

    def init(self, params: Array, layout: Layout | None = None) -> State:
        """See `Optimizer.init`; the average of frozen tensors is their value."""
        state = super().init(params, layout)
        for part in resting(state):
            state.slots[1, part] = params[part]
        return state

    def solution(self, params: Array, state: State) -> Array:
        """The average of the parameters."""
        if state.t == 0 or state.average is not None or state.slots.dtype != params.dtype:
            return super().solution(params, state)
        average: Array = state.slots[1]
        return average

    def restart(self, params: Array, state: State, target: Array) -> None:
        """See `Optimizer.restart`; the average restarts too, and distances are still measured from the start."""
        super().restart(params, state, target)
        state.slots[1] = target
