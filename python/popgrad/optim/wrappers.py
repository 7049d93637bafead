"""Wrappers around any optimizer: Lookahead, parameter averaging, and sharpness-aware minimization."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import final

import numpy as np

from popgrad import _core
from popgrad.backends import aligned
from popgrad.budget import Cost
from popgrad.checks import fail
from popgrad.layout import Layout
from popgrad.objective import Around, Batch, Objective, Span, Steps
from popgrad.optim._base import RULES
from popgrad.optim._optimizer import Array, Descent, Optimizer, State
from popgrad.settings import check_settings, hyper

__all__ = ["SAM", "Lookahead", "Polyak"]


@dataclass(frozen=True)
class Wrapper(Optimizer):
    """An optimizer that wraps an inner optimizer; ``State.inner`` is the inner state."""

    inner: Optimizer

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Optimizer):
            fail(self, f"inner must be an optimizer of popgrad.optim, such as pg.optim.Adam(), got {self.inner!r}")
        check_settings(self)

    @property
    def requires(self) -> tuple[str, ...]:
        """The operations that the inner optimizer requires."""
        return self.inner.requires

    def init(self, params: Array, layout: Layout | None = None) -> State:
        """See `Optimizer.init`: the inner state, and one slot, initialized to `params`."""
        inner = self.inner.init(params, layout)
        state = State(aligned((1, len(params)), params.dtype), inner=inner)
        state.slots[0] = params
        return state

    def step(self, params: Array, gradient: Array, state: State, *, loss_scale: float = 1.0) -> None:
        """See `Optimizer.step`: a step of the inner optimizer, then the wrapper's update."""
        inner = self._inner(state)
        self.inner.step(params, gradient, inner, loss_scale=loss_scale)
        self._add(params, state, inner)

    def advance(self, objective: Objective, batch: Batch, state: Descent) -> None:
        """See `popgrad.Method.advance`: a step of the inner optimizer, then the wrapper's update."""
        inner = state.inside()
        self.inner.advance(objective, batch, inner)
        state.failed = inner.failed
        self._add(state.w, state.optimizer, inner.optimizer)

    def loops(
        self, objective: Objective, batches: Iterable[Batch] | Steps, state: Descent
    ) -> Generator[_core.Training]:
        """See `popgrad.Method.loops`: those of the inner optimizer, up to each update of the wrapper."""
        if isinstance(batches, Steps) and objective.lacks("training") is None:
            yield from self.inner.loops(objective, _Between(self, batches, state), state.inside())
        yield from super().loops(objective, batches, state)

    def settle(self, state: Descent) -> None:
        """Follow the inner optimizer after a native loop."""
        inner = state.inside()
        state.failed = inner.failed
        self._add(state.w, state.optimizer, inner.optimizer)

    def steps_ahead(self, t: int) -> int:
        """How many steps after step t the next update of the wrapper follows; 0 if it takes part in every gradient."""
        return 0

    def cost(self, objective: Objective, batch: Batch, state: Descent) -> Cost:
        """The cost of the inner optimizer."""
        return self.inner.cost(objective, batch, state.inside())

    def notice(self, state: State, value: float) -> None:
        """See `Optimizer.notice`: the inner optimizer has the schedules."""
        self.inner.notice(self._inner(state), value)

    def _add(self, params: Array, state: State, inner: State) -> None:
        if inner.t > state.t:  # False if the inner optimizer skipped the step
            state.t = inner.t
            self._after(params, state)

    def _after(self, params: Array, state: State) -> None:
        """The wrapper's update after a step of the inner optimizer."""

    def restart(self, params: Array, state: State, target: Array) -> None:
        """See `Optimizer.restart`; slow weights and means restart at `target` too."""
        self.inner.restart(params, self._inner(state), target)
        state.slots[0] = target

    @staticmethod
    def _inner(state: State) -> State:
        if state.inner is None:
            fail("step", "state must come from this optimizer's init")
        return state.inner


class _Between(Steps):
    """The steps that an inner optimizer takes in native loops: up to the next update of its wrapper, and on from it."""

    def __init__(self, wrapper: Wrapper, batches: Steps, state: Descent) -> None:
        self._wrapper, self._batches, self._state = wrapper, batches, state

    def __iter__(self) -> Iterator[Batch]:
        return iter(())  # the wrapper takes them

    def span(self) -> Span | None:
        """The next steps, at most up to the next update."""
        most = self._wrapper.steps_ahead(self._state.optimizer.t)
        span = self._batches.span() if most > 1 else None
        return None if span is None else span.at_most(most)

    def took(self, steps: int) -> None:
        """Report how many steps of the last span were taken; update the wrapper."""
        self._wrapper.settle(self._state)
        self._batches.took(steps)


@final
@dataclass(frozen=True)
class Lookahead(Wrapper):
    r"""Slow weights that follow the fast weights of an inner optimizer; the fast weights restart at the slow weights.

    .. math:: \phi \leftarrow \phi + \alpha (w - \phi), \quad w \leftarrow \phi \quad\text{every ``steps`` steps}

    Args:
        inner: any optimizer of `popgrad.optim`.
        steps: inner steps between two updates of phi, a whole number >= 1.
        alpha: in (0, 1].

    State: ``slots[0]`` is phi (n,), the parameters at t = 0. `solution` is phi.

    Raises:
        InputError: an argument is out of range.

    Reference: Zhang et al., NeurIPS 2019, arXiv:1907.08610, Algorithm 1.
    """

    steps: int = hyper(5, at_least=1, whole=True)
    alpha: float = hyper(0.5, above=0, at_most=1)

    def steps_ahead(self, t: int) -> int:
        """See `Wrapper.steps_ahead`."""
        return self.steps - t % self.steps

    def _after(self, params: Array, state: State) -> None:
        if state.t % self.steps == 0:
            _core.step(_core.StepPlan(RULES["Lookback"], {"alpha": self.alpha}), params, params, state)

    def solution(self, params: Array, state: State) -> Array:
        """The slow weights phi."""
        phi: Array = state.slots[0]
        return phi

    @property
    def bytes_per_parameter(self) -> float:
        """The bytes of the inner optimizer and of the update of phi, averaged over ``steps`` steps."""
        return self.inner.bytes_per_parameter + 16 / self.steps


@final
@dataclass(frozen=True)
class Polyak(Wrapper):
    r"""The mean of the parameters over every k-th step after ``begin``; the inner steps do not change.

    .. math:: \bar w \leftarrow \bar w + (w_t - \bar w) / n
              \quad\text{at the steps } t = \mathrm{begin} + n \cdot \mathrm{every}, \; n = 1, 2, \ldots

    With ``every`` = 1, this is Polyak-Ruppert averaging. Stochastic weight averaging (SWA) takes the mean once an
    epoch, or once a cycle of the learning rate, near the end of a run with a constant or cyclic learning rate::

        epoch = pg.schedules.steps_of(1, len(X), 32)
        swa = pg.optim.Polyak(pg.optim.SGD(0.05), begin=75 * epoch, every=epoch)
        cyclic = pg.optim.Polyak(pg.optim.SGD(pg.schedules.CosineRestarts(0.1, epoch)), every=epoch)

    For an exponential moving average, use ``ema_decay``, which any optimizer accepts.

    Args:
        inner: any optimizer of `popgrad.optim`.
        begin: steps before averaging begins, a whole number >= 0.
        every: steps from one set of parameters in the mean to the next, a whole number >= 1.

    State: ``slots[0]`` is the mean (n,). `solution` returns the mean, or the solution of the inner optimizer before
    the step ``begin`` + ``every``.

    Raises:
        InputError: an argument is out of range.

    Reference: Polyak & Juditsky, SIAM J. Control Optim. 30 (1992); Ruppert, Cornell TR 781 (1988). SWA: Izmailov et
    al., UAI 2018, arXiv:1803.05407, Algorithm 1.
    """

    begin: int = hyper(0, at_least=0, whole=True)
    every: int = hyper(1, at_least=1, whole=True)

    def steps_ahead(self, t: int) -> int:
        """See `Wrapper.steps_ahead`."""
        return self.every - (t - self.begin) % self.every if t > self.begin else self.begin - t + self.every

    def _after(self, params: Array, state: State) -> None:
        count, rest = divmod(state.t - self.begin, self.every)
        if count > 0 and rest == 0:
            # The rule ignores the gradient and does not change w.
            plan = _core.StepPlan(RULES["Average"], {"mix": 1 / count})
            _core.step(plan, params, params, state)

    def solution(self, params: Array, state: State) -> Array:
        """The mean, or the solution of the inner optimizer before there is one."""
        begun = state.t >= self.begin + self.every
        return state.slots[0] if begun else self.inner.solution(params, self._inner(state))

    @property
    def bytes_per_parameter(self) -> float:
        """The bytes of the inner optimizer and of the mean, averaged over ``every`` steps."""
        return self.inner.bytes_per_parameter + 16 / self.every


@final
@dataclass(frozen=True)
class SAM(Wrapper):
    r"""Sharpness-aware minimization: steps along the gradient at the worst point nearby, which favor flat minima.

    .. math:: \hat w = w + \rho\, g(w) / \|g(w)\|_2, \quad \text{then a step of the inner optimizer from } w
              \text{ along } g(\hat w)

    Each step needs two gradients, and `pg.fit` charges both to the budget. In your own training loop, use `advance`
    (see `popgrad.Method`), or pass the gradient at `worst` to `step`::

        loss, gradient = objective_and_gradient(w)
        _, gradient = objective_and_gradient(optimizer.worst(w, gradient))
        optimizer.step(w, gradient, state)

    Args:
        inner: any optimizer of `popgrad.optim`.
        rho: distance to the worst point, > 0, in units of w.

    State: ``slots[0]``, a buffer for the worst point (n,).

    Raises:
        InputError: an argument is out of range.

    Reference: Foret et al., ICLR 2021, arXiv:2010.01412, Algorithm 1.
    """

    rho: float = hyper(0.05, above=0)

    def worst(self, params: Array, gradient: Array) -> Array:
        """The point (n,) at distance rho up the gradient; a copy of `params` if the gradient is zero or not finite.

        Args:
            params: (n,), not changed.
            gradient: (n,) at `params`.
        """
        place = params.copy()
        self.climb(place, gradient)
        return place

    def climb(self, params: Array, gradient: Array) -> bool:
        """Move `params` (n,) to the worst point nearby; without a move, False if the gradient is zero or not finite."""
        norm = math.sqrt(_core.sum_squares(gradient))
        if not 0 < norm < math.inf:
            return False
        plan = _core.StepPlan(RULES["Sgd"], {"learning_rate": -self.rho / norm})
        _core.step(plan, params, gradient, State(np.empty((0, len(params)), params.dtype)))
        return True

    def advance(self, objective: Objective, batch: Batch, state: Descent) -> None:
        """See `popgrad.Method.advance`: a step of the inner optimizer with the gradient at the worst point nearby."""
        super().advance(_Sharp(objective, self, state.optimizer.slots[0]), batch, state)

    def cost(self, objective: Objective, batch: Batch, state: Descent) -> Cost:
        """The cost of the inner optimizer, with two gradients in place of one."""
        return super().cost(_Sharp(objective, self, state.optimizer.slots[0]), batch, state)

    def solution(self, params: Array, state: State) -> Array:
        """The solution of the inner optimizer."""
        return self.inner.solution(params, self._inner(state))

    @property
    def bytes_per_parameter(self) -> float:
        """The bytes of the inner optimizer, of the norm, of the copy and of the step to the worst point."""
        return self.inner.bytes_per_parameter + 4 + 8 + 12


class _Sharp(Around):
    """An objective whose gradient is computed at the worst point nearby."""

    def __init__(self, inner: Objective, sam: SAM, place: Array) -> None:
        super().__init__(inner)
        self.sam, self.place = sam, place

    def training_gradient(self, w: Array, batch: Batch, out: Array) -> float:
        """The loss at `w`, and the gradient at the worst point near it; `w` is not changed."""
        loss = self.inner.training_gradient(w, batch, out)
        np.copyto(self.place, w)
        if not (math.isfinite(loss) and self.sam.climb(self.place, out)):
            return loss
        return loss if math.isfinite(worst := self.inner.gradient(self.place, batch, out)) else worst

    def gradient_cost(self, batch: Batch) -> Cost:
        """The cost of two gradients."""
        once = self.inner.gradient_cost(batch)
        return once + once
