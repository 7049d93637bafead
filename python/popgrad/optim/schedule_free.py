"""Schedule-Free methods: averaging instead of a learning-rate decay. Formulas: csrc/kernels/step_rules.h."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from popgrad.columns import running_maximum, running_sum, sqrt, where
from popgrad.optim._base import NativeOptimizer, Schedule
from popgrad.optim._layers import resting
from popgrad.optim._optimizer import Array, State
from popgrad.optim._presets import Presets, TorchNames
from popgrad.settings import hyper

__all__ = ["ScheduleFreeAdamW", "ScheduleFreeSGD"]


class _ScheduleFree(NativeOptimizer):
    """The Schedule-Free update: z takes the steps, x is the average of z, and the parameters y lie between z and x."""

    beta: float
    power: float
    allows_max_norm = False
    undivided = ("beta",)  # `solution` needs it
    first_numbers: ClassVar[Mapping[str, float]] = {"weight_sum": 0.0, "largest_rate": 0.0}

    def _values(self, t: Any, numbers: Mapping[str, float], **given: Any) -> dict[str, Any]:
        now = super()._values(t, numbers, **given)
        if self.matches is None or given:
            return now | {"weight_rate": now["learning_rate"]}
        # For the first step, optax calls the schedule with 0 for the learning rate, and with 1 for the weight.
        return now | {"weight_rate": self._at("learning_rate", t + 1)}

    def _averaging(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        rate = now["learning_rate"]
        largest = numbers["largest_rate"] = running_maximum(numbers["largest_rate"], now["weight_rate"])
        weight = t**self.power * largest**2
        total = numbers["weight_sum"] = running_sum(numbers["weight_sum"], weight)
        mix = where(total > 0, weight, 0.0) / where(total > 0, total, 1.0)
        ahead = rate * (1 - self.beta * (1 - mix))
        return {"learning_rate": rate, "mix": mix, "ahead": ahead, "first": 1.0 * (t == 1)}

    def solution(self, params: Array, state: State) -> Array:
        """x, the average: ``y + (1 - 1 / beta) (z - y)``."""
        if state.t == 0 or state.average is not None:
            return super().solution(params, state)
        z: Array = state.slots[0] if state.slots.dtype == params.dtype else _widened(state.slots[0])
        x: Array = params + params.dtype.type(1 - 1 / self.beta) * (z - params)
        for part in resting(state):
            x[part] = params[part]
        return x

    def restart(self, params: Array, state: State, target: Array) -> None:
        """See `Optimizer.restart`; z and the average become `target` too."""
        super().restart(params, state, target)
        if state.t > 0:
            state.slots[0] = target if state.slots.dtype == params.dtype else _narrowed(target)


def _widened(bits: Array) -> Array:
    """Convert the bits of bfloat16 numbers to float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _narrowed(numbers: Array) -> Array:
    """Convert float32 to the bits of bfloat16 numbers, rounded to nearest, ties to even."""
    bits = numbers.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


@final
@dataclass(frozen=True, repr=False)
class ScheduleFreeSGD(_ScheduleFree):
    r"""SGD with an average of the iterates that replaces a learning-rate schedule.

    .. math:: y_t = (1-\beta) z_t + \beta x_t, \quad z_{t+1} = z_t - \alpha_t\, g(y_t), \quad
              x_{t+1} = (1 - c_{t+1})\, x_t + c_{t+1} z_{t+1}

    Gradients are computed at y, which are the parameters; `solution` returns x, the parameters to evaluate and keep.
    Step t has the weight ``t ** power * (largest learning rate so far) ** 2``; c is its share of the sum of all weights
    so far.

    Args:
        learning_rate: alpha, a float > 0 or a schedule (at most a warm-up) ``t -> float``.
        beta: weight of x in y, in (0, 1).
        power: exponent of t in the weights of the average, >= 0.

    State: ``z``, shape (n,), zero at t = 0; the first step starts from z = w.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Defazio et al., NeurIPS 2024, arXiv:2405.15682, Algorithm 1 and section 4.
    """

    learning_rate: float | Schedule = hyper(1.0, above=0, schedule=True)
    beta: float = hyper(0.9, above=0, below=1)
    power: float = hyper(0.0, at_least=0)
    presets: ClassVar[Presets] = {"optax": {}}
    rule = "ScheduleFreeSgd"
    label = "Schedule-Free SGD"
    torch_names = TorchNames(
        {"momentum": "beta", "weight_decay": "weight_decay", "r": "power"}, states={"largest_rate": "lr_max"}
    )
    state_names = ("z",)

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        return self._averaging(t, now, numbers)


@final
@dataclass(frozen=True, repr=False)
class ScheduleFreeAdamW(_ScheduleFree):
    r"""AdamW with an average of the iterates that replaces a learning-rate schedule.

    .. math:: v_t = \beta_2 v_{t-1} + (1-\beta_2)\, g(y_t)^2, \quad
              u_t = g(y_t) / (\sqrt{v_t / (1-\beta_2^t)} + \epsilon) + \lambda y_t

    and u in place of g in `ScheduleFreeSGD`; there is no first moment.

    Args:
        learning_rate: alpha, in units of w; a float > 0 or a schedule (at most a warm-up) ``t -> float``.
        beta: weight of x in y, in (0, 1); it replaces Adam's beta1.
        power: exponent of t in the weights of the average, >= 0.
        beta2: decay of v per step, in [0, 1).
        epsilon: > 0, in units of the gradient; added after the square root.
        weight_decay: lambda >= 0, applied at y and scaled by the learning rate.

    State: ``z`` and ``v``, shape (n,), zero at t = 0; the first step starts from z = w.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Defazio et al., NeurIPS 2024, arXiv:2405.15682, section 4 and the authors' code.
    """

    learning_rate: float | Schedule = hyper(0.0025, above=0, schedule=True)
    beta: float = hyper(0.9, above=0, below=1)
    power: float = hyper(0.0, at_least=0)
    beta2: float | Schedule = hyper(0.999, at_least=0, below=1, schedule=True)
    epsilon: float | Schedule = hyper(1e-8, above=0, schedule=True)
    presets: ClassVar[Presets] = {"optax": {}}
    rule = "ScheduleFreeAdamW"
    label = "Schedule-Free AdamW"
    torch_names = TorchNames(
        {"betas": ("beta", "beta2"), "eps": "epsilon", "weight_decay": "weight_decay", "r": "power"},
        states={"largest_rate": "lr_max"},
    )
    state_names = ("z", "v")
    default_decay_mode = "own"
    decay_modes = ()

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        return self._averaging(t, now, numbers) | {
            "beta2": now["beta2"],
            "gain2": 1 - now["beta2"],
            "scale": 1 / sqrt(1 - now["beta2"] ** t),
            "epsilon": now["epsilon"],
            "decay": now["weight_decay"],
        }
