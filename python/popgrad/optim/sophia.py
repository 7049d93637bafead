"""Sophia: clipped steps with a diagonal estimate of the Hessian. Formulas: csrc/kernels/step_rules.h."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from popgrad import _core
from popgrad.backends import Stream, random_generator
from popgrad.budget import Cost
from popgrad.checks import InputError, fail
from popgrad.objective import Batch, Objective
from popgrad.optim._base import RULES, NativeOptimizer, Schedule
from popgrad.optim._optimizer import Array, Descent, State
from popgrad.optim._presets import TorchNames
from popgrad.settings import hyper

__all__ = ["SophiaG"]


@final
@dataclass(frozen=True, repr=False)
class SophiaG(NativeOptimizer):
    r"""Momentum divided by a diagonal estimate of the curvature, with steps clipped to the learning rate.

    .. math:: m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \quad
              w_t = (1 - \alpha_t \lambda)\, w_{t-1} - \alpha_t\, \mathrm{clip}(m_t / (\rho h_t + \epsilon), 1)
    .. math:: h_t = \beta_2 h_{t-1} + (1-\beta_2)\, B\, \hat g_t^2 \;\text{ every ``interval`` steps, else } h_{t-1}

    Here g-hat is the gradient of the mean loss over B samples with labels sampled from the model's predictions.
    `popgrad.fit` computes this gradient. In a training loop that computes gradients itself, call `observe` with it
    before the first step and after every ``interval`` steps.

    Args:
        learning_rate: alpha, the largest step of a parameter, in units of w; > 0 or a schedule ``t -> float``.
        beta1, beta2: decay of m per step, and of h per estimate, in [0, 1).
        rho: > 0, scales h; a larger rho clips fewer parameters.
        epsilon: > 0, prevents division by zero.
        interval: steps between estimates, a whole number >= 1.
        weight_decay: lambda >= 0, decoupled and scaled by the learning rate; alpha lambda <= 1.

    State: ``m`` and ``h``, shape (n,), zero at t = 0.

    Raises:
        InputError: a hyper-parameter is out of range.

    Reference: Liu et al., ICLR 2024, arXiv:2305.14342, Algorithms 2 and 3 (Sophia-G).
    """

    learning_rate: float | Schedule = hyper(3e-4, above=0, schedule=True)
    beta1: float | Schedule = hyper(0.965, at_least=0, below=1, schedule=True)
    beta2: float = hyper(0.99, at_least=0, below=1)
    rho: float | Schedule = hyper(0.04, above=0, schedule=True)
    epsilon: float | Schedule = hyper(1e-15, above=0, schedule=True)
    interval: int = hyper(10, at_least=1, whole=True)
    rule = "Sophia"
    label, command = "Sophia-G", "sophia"
    torch_names = TorchNames(
        {"betas": ("beta1", "beta2"), "rho": "rho", "weight_decay": "weight_decay"}, states={"h": "hessian"}
    )
    state_names = ("m", "h")
    default_decay_mode = "decoupled"
    is_plain = False

    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        return {
            "learning_rate": now["learning_rate"],
            "beta1": now["beta1"],
            "gain1": 1 - now["beta1"],
            "rho": now["rho"],
            "epsilon": now["epsilon"],
        }

    @property
    def requires(self) -> tuple[str, ...]:
        """See `Optimizer.requires`: gradients, and targets sampled from the model's predictions."""
        return ("gradient", "sampled")

    def advance(self, objective: Objective, batch: Batch, state: Descent) -> None:
        """See `popgrad.Method.advance`: if due, estimate the curvature; then compute a gradient and take a step."""
        if self._is_due(state.optimizer):
            drawn = objective.sampled(state.w, batch, random_generator(state.seed, Stream.LABELS, batch.step))
            if math.isfinite(drawn.gradient(state.w, Batch(step=batch.step), state.gradient)):
                self.observe(state.w, state.gradient, state.optimizer, objective.size(batch))
        super().advance(objective, batch, state)

    def cost(self, objective: Objective, batch: Batch, state: Descent) -> Cost:
        """One gradient; if an estimate is due, also a second gradient and the forward pass that samples targets."""
        gradient = objective.gradient_cost(batch)
        if not self._is_due(state.optimizer):
            return gradient
        return gradient + gradient + objective.sampled_cost(batch)

    def curvature_plan(self, samples: int) -> _core.StepPlan:
        """The native update of ``h`` with an estimate over this number of samples."""
        fields = {"beta2": self.beta2, "gain": (1 - self.beta2) * samples}
        return _core.StepPlan(RULES["Curvature"], fields)

    def _is_due(self, state: State) -> bool:
        """Whether to call `observe` before the next step."""
        return state.t % self.interval == 0

    def observe(self, params: Array, gradient: Array, state: State, samples: int) -> None:
        """Update ``h`` with an estimate of the curvature.

        Args:
            params: (n,), not changed.
            gradient: (n,), gradient of the mean loss over samples with labels sampled from the model.
            state: result of `init`.
            samples: number of samples in the mean, >= 1.

        Raises:
            InputError: an array has the wrong type or shape; nothing was changed.
        """
        if samples < 1:
            fail("SophiaG.observe", f"samples must be a whole number >= 1, got {samples!r}")
        try:
            _core.step(self.curvature_plan(samples), params, gradient, State(state.slots), state.t)
        except ValueError as error:
            raise InputError(str(error).replace("_core", "SophiaG.observe", 1)) from None
