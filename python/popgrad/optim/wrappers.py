"""Around any optimizer: averages, looking ahead, and flat minima."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from popgrad import _core
from popgrad.backends import aligned
from popgrad.budget import Cost
from popgrad.checks import fail, positive, positive_int
from popgrad.layout import Layout
from popgrad.objective import Around, Batch, Objective
from popgrad.optim._base import RULES
from popgrad.optim._optimizer import Array, Descent, Optimizer, State

__all__ = ["SAM", "Lookahead", "Polyak"]


@dataclass(frozen=True)
class Wrapper(Optimizer):
    """An optimizer around another one, whose state is ``State.inner``."""

    inner: Optimizer

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Optimizer):
            fail(self, f"inner must be one of popgrad.optim, such as pg.optim.Adam(), got {self.inner!r}")

    @property
    def requires(self) -> tuple[str, ...]:
        """What the inner one asks of an objective."""
        return self.inner.requires

    def init(self, params: Array, layout: Layout | None = None) -> State:
        """The inner state, and one row of its own that begins with `params`."""
        inner = self.inner.init(params, layout)
        state = State(aligned((1, len(params)), params.dtype), inner=inner)
        state.slots[0] = params
        return state

    def step(self, params: Array, gradient: Array, state: State, *, loss_scale: float = 1.0) -> None:
        """A step of the inner optimizer, and what this one adds to it."""
        inner = self._inner(state)
        self.inner.step(params, gradient, inner, loss_scale=loss_scale)
        self._add(params, state, inner)

    def advance(self, objective: Objective, batch: Batch, state: Descent) -> None:
        """The inner optimizer asks for what it needs."""
        inner = state.inside()
        self.inner.advance(objective, batch, inner)
        state.failed = inner.failed
        self._add(state.w, state.optimizer, inner.optimizer)

    def cost(self, objective: Objective, batch: Batch, state: Descent) -> Cost:
        """That of the inner one."""
        return self.inner.cost(objective, batch, state.inside())

    def _add(self, params: Array, state: State, inner: State) -> None:
        if inner.t > state.t:  # else the step was skipped
            state.t = inner.t
            self._after(params, state)

    def _after(self, params: Array, state: State) -> None:
        """What follows the inner step."""

    def restart(self, params: Array, state: State, target: Array) -> None:
        """See `Optimizer.restart`; slow weights and means restart too."""
        self.inner.restart(params, self._inner(state), target)
        state.slots[0] = target

    @staticmethod
    def _inner(state: State) -> State:
        if state.inner is None:
            fail("step", "state must be the one that this optimizer's init made")
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
    r"""Sharpness-aware minimization: the gradient is taken at the worst place nearby, for minima that are flat.

    .. math:: \hat w = w + \rho\, g(w) / \|g(w)\|_2, \quad \text{then a step of the inner optimizer from } w
              \text{ along } g(\hat w)

    It needs two gradients a step, which `pg.fit` asks for and charges. In a loop of your own, use `advance` (see
    `popgrad.Method`), or give `step` the gradient at `worst`::

        loss, gradient = objective_and_gradient(w)
        _, gradient = objective_and_gradient(optimizer.worst(w, gradient))
        optimizer.step(w, gradient, state)

    Args:
        inner: any optimizer of `popgrad.optim`.
        rho: length of the step up, > 0, in units of w.

    State: ``slots[0]``, room for the worst place (n,).

    Raises:
        InputError: an argument is out of range.

    Reference: Foret et al., ICLR 2021, arXiv:2010.01412, Algorithm 1.
    """

    rho: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "rho")

    def worst(self, params: Array, gradient: Array) -> Array:
        """The place (n,) at distance rho up the gradient; a copy of `params` where that is zero or not finite.

        Args:
            params: (n,), not changed.
            gradient: (n,) at `params`.
        """
        place = params.copy()
        self.climb(place, gradient)
        return place

    def climb(self, params: Array, gradient: Array) -> bool:
        """Move `params` (n,) to the worst place nearby; False, and no move, where there is no direction."""
        norm = math.sqrt(_core.sum_squares(gradient))
        if not 0 < norm < math.inf:
            return False
        plan = _core.StepPlan(RULES["Sgd"], {"learning_rate": -self.rho / norm})
        _core.step(plan, params, gradient, State(np.empty((0, len(params)), params.dtype)))
        return True

    def advance(self, objective: Objective, batch: Batch, state: Descent) -> None:
        """A step of the inner optimizer, whose gradients are those at the worst place nearby."""
        super().advance(_Sharp(objective, self, state.optimizer.slots[0]), batch, state)

    def cost(self, objective: Objective, batch: Batch, state: Descent) -> Cost:
        """That of the inner one, whose gradients cost twice as much."""
        return super().cost(_Sharp(objective, self, state.optimizer.slots[0]), batch, state)

    def solution(self, params: Array, state: State) -> Array:
        """That of the inner optimizer."""
        return self.inner.solution(params, self._inner(state))

    @property
    def bytes_per_parameter(self) -> float:
        """Those of the inner one, of the norm, the copy and the step up."""
        return self.inner.bytes_per_parameter + 4 + 8 + 12


class _Sharp(Around):
    """An objective whose gradient is that at the worst place nearby."""

    def __init__(self, inner: Objective, sam: SAM, place: Array) -> None:
        super().__init__(inner)
        self.sam, self.place = sam, place

    def gradient(self, w: Array, batch: Batch, out: Array) -> float:
        """The gradient at the worst place; `w` itself is never moved."""
        loss = self.inner.gradient(w, batch, out)
        np.copyto(self.place, w)
        if not (math.isfinite(loss) and self.sam.climb(self.place, out)):
            return loss
        return self.inner.gradient(self.place, batch, out)

    def gradient_cost(self, batch: Batch) -> Cost:
        """Two gradients."""
        once = self.inner.gradient_cost(batch)
        return once + once
