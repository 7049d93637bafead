"""Around any optimizer: averages, looking ahead, and flat minima."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from popgrad import _core
from popgrad.backends import aligned
from popgrad.checks import fail, positive, positive_int
from popgrad.optim._base import RULES, Array, Optimizer, Shapes, State

__all__ = ["SAM", "Lookahead", "Polyak"]


_FOREIGN = "state must be the one that this optimizer's init made"


@dataclass(frozen=True)
class Wrapper(Optimizer):
    """An optimizer around another one, whose state is ``State.inner``."""

    inner: Optimizer

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Optimizer):
            fail(self, f"inner must be one of popgrad.optim, such as pg.optim.Adam(), got {self.inner!r}")

    def init(self, params: Array, shapes: Shapes | None = None) -> State:
        """The inner state, and one row of its own that begins with `params`."""
        inner = self.inner.init(params, shapes)
        state = State(aligned((1, len(params)), params.dtype), inner=inner)
        state.slots[0] = params
        return state

    def step(self, params: Array, gradient: Array, state: State, *, loss_scale: float = 1.0) -> None:
        """A step of the inner optimizer, and what this one adds to it."""
        inner = self._inner(state)
        self.inner.step(params, gradient, inner, loss_scale=loss_scale)
        if inner.t > state.t:  # else it was skipped
            state.t = inner.t
            self._after(params, state)

    def _after(self, params: Array, state: State) -> None:
        """What follows the inner step."""

    def ascend(self, params: Array, gradient: Array, state: State) -> bool:
        """What the inner one does."""
        return self.inner.ascend(params, gradient, self._inner(state))

    def restart(self, params: Array, state: State, target: Array) -> None:
        """See `Optimizer.restart`; slow weights and means restart too."""
        self.inner.restart(params, self._inner(state), target)
        state.slots[0] = target

    @property
    def gradients_per_step(self) -> int:
        """Those of the inner one."""
        return self.inner.gradients_per_step

    @staticmethod
    def _inner(state: State) -> State:
        if state.inner is None:
            fail("step", _FOREIGN)
        return state.inner


@final
@dataclass(frozen=True)
class Lookahead(Wrapper):
    r"""Slow weights that follow the fast ones of an inner optimizer, which start anew from them.

    .. math:: \phi \leftarrow \phi + \alpha (w - \phi), \quad w \leftarrow \phi \quad\text{every ``steps`` steps}

    Args:
        inner: any optimizer of `popgrad.optim`.
        steps: inner steps between two of phi, a whole number >= 1.
        alpha: in (0, 1].

    State: ``slots[0]`` is phi (n,), the parameters at t = 0. `solution` is phi.

    Raises:
        InputError: an argument is out of range.

    Reference: Zhang et al., NeurIPS 2019, arXiv:1907.08610, Algorithm 1.
    """

    steps: int = 5
    alpha: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_int(self, "steps", self.steps)
        positive(self, "alpha")
        if self.alpha > 1:
            fail(self, f"alpha must be in (0, 1], got {self.alpha!r}")

    def _after(self, params: Array, state: State) -> None:
        if state.t % self.steps == 0:
            _core.step(_core.StepPlan(RULES["Lookback"], {"alpha": self.alpha}), params, params, state)

    def solution(self, params: Array, state: State) -> Array:
        """phi."""
        phi: Array = state.slots[0]
        return phi

    @property
    def bytes_per_parameter(self) -> float:
        """Those of the inner one, and phi's every ``steps`` steps."""
        return self.inner.bytes_per_parameter + 16 / self.steps


@final
@dataclass(frozen=True)
class Polyak(Wrapper):
    r"""The mean of all parameters since step ``begin``, beside an inner optimizer that does not know of it.

    .. math:: \bar w_t = \bar w_{t-1} + (w_t - \bar w_{t-1}) / (t - \mathrm{begin})

    For an average that forgets, any optimizer has ``ema_decay``.

    Args:
        inner: any optimizer of `popgrad.optim`.
        begin: steps before averaging begins, a whole number >= 0.

    State: ``slots[0]`` is the mean (n,). `solution` is the mean, before it begins that of the inner optimizer.

    Raises:
        InputError: an argument is out of range.

    Reference: Polyak & Juditsky, SIAM J. Control Optim. 30 (1992); Ruppert, Cornell TR 781 (1988).
    """

    begin: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_int(self, "begin", self.begin, 0)

    def _after(self, params: Array, state: State) -> None:
        if state.t > self.begin:
            # The gradient is not looked at; w is written back as it is.
            plan = _core.StepPlan(RULES["Average"], {"mix": 1 / (state.t - self.begin)})
            _core.step(plan, params, params, state)

    def solution(self, params: Array, state: State) -> Array:
        """The mean, once it has begun."""
        return state.slots[0] if state.t > self.begin else self.inner.solution(params, self._inner(state))

    @property
    def bytes_per_parameter(self) -> float:
        """Those of the inner one, and the mean's."""
        return self.inner.bytes_per_parameter + 16


@final
@dataclass(frozen=True)
class SAM(Wrapper):
    r"""Sharpness-aware minimisation: the gradient is taken at the worst place nearby, for minima that are flat.

    .. math:: \hat w = w + \rho\, g(w) / \|g(w)\|_2, \quad \text{then a step of the inner optimizer from } w
              \text{ along } g(\hat w)

    It needs two gradients a step: `pg.fit` takes (and counts) both. In a loop of your own::

        loss, gradient = model.gradient(X, y)
        if optimizer.ascend(model.params, gradient, state):
            _, gradient = model.gradient(X, y)
        optimizer.step(model.params, gradient, state)

    Args:
        inner: any optimizer of `popgrad.optim` that takes one gradient a step.
        rho: length of the step up, > 0, in units of w.

    State: ``slots[0]`` keeps w (n,) while the parameters are away; the number ``away``.

    Raises:
        InputError: an argument is out of range.

    Reference: Foret et al., ICLR 2021, arXiv:2010.01412, Algorithm 1.
    """

    rho: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "rho")
        if self.inner.gradients_per_step > 1:
            fail(self, f"inner must take one gradient a step, and {type(self.inner).__name__} takes two")

    def init(self, params: Array, shapes: Shapes | None = None) -> State:
        """The inner state, and room for the parameters."""
        state = super().init(params, shapes)
        state.numbers["away"] = 0.0
        return state

    def ascend(self, params: Array, gradient: Array, state: State) -> bool:
        """Move `params` to the worst place nearby; where the gradient is zero or not finite, stay and say False."""
        self._check(state)
        norm = math.sqrt(_core.sum_squares(gradient))
        if not 0 < norm < math.inf or state.numbers["away"]:
            return bool(state.numbers["away"])
        np.copyto(state.slots[0], params)
        plan = _core.StepPlan(RULES["Sgd"], {"learning_rate": -self.rho / norm})
        _core.step(plan, params, gradient, State(state.slots[:0]))
        state.numbers["away"] = 1.0
        return True

    def step(self, params: Array, gradient: Array, state: State, *, loss_scale: float = 1.0) -> None:
        """Back to where `ascend` began, and a step of the inner optimizer."""
        self._check(state)
        if state.numbers["away"]:
            np.copyto(params, state.slots[0])
            state.numbers["away"] = 0.0
        super().step(params, gradient, state, loss_scale=loss_scale)

    def _check(self, state: State) -> None:
        if "away" not in state.numbers:
            fail("SAM.step", _FOREIGN)

    def solution(self, params: Array, state: State) -> Array:
        """That of the inner optimizer."""
        return self.inner.solution(params, self._inner(state))

    @property
    def gradients_per_step(self) -> int:
        """Two."""
        return 2

    @property
    def bytes_per_parameter(self) -> float:
        """Those of the inner one, of the norm, the copy, the step up and the way back."""
        return self.inner.bytes_per_parameter + 4 + 8 + 12 + 8
