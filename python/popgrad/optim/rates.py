"""Learning rates that follow the run: hypergradient descent, stochastic Polyak steps, and a line search."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np

from popgrad import _core
from popgrad.backends import aligned
from popgrad.budget import Cost
from popgrad.checks import fail
from popgrad.layout import Layout
from popgrad.objective import Batch, Objective
from popgrad.optim._base import RULES, NativeOptimizer
from popgrad.optim._optimizer import Array, Descent, Optimizer, State
from popgrad.optim.wrappers import Wrapper
from popgrad.settings import hyper

__all__ = ["SPS", "Hypergradient", "LineSearch"]


@dataclass(frozen=True)
class Rated(Wrapper):
    """A wrapper that chooses the learning rate of each inner step; the inner learning rate is the first one.

    ``State.numbers["rate"]`` is the last learning rate.
    """

    slots_needed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        inner = self.inner
        if not isinstance(inner, NativeOptimizer) or type(inner).advance is not Optimizer.advance:
            fail(
                self, f"inner must be an optimizer that steps along one gradient, such as pg.optim.SGD(), got {inner!r}"
            )
        if callable(inner.learning_rate):
            fail(self, f"inner must have a number as learning_rate, its first value, got {inner.learning_rate!r}")

    def init(self, params: Array, layout: Layout | None = None) -> State:
        """See `Optimizer.init`."""
        assert isinstance(self.inner, NativeOptimizer)
        inner = self.inner.init(params, layout)
        state = State(aligned((self.slots_needed, len(params)), params.dtype), inner=inner)
        state.slots[:] = params
        state.numbers["rate"] = float(self.inner.learning_rate)  # type: ignore[arg-type]
        return state

    def advance(self, objective: Objective, batch: Batch, state: Descent) -> None:
        """See `popgrad.Method.advance`: a gradient, the choice of the learning rate, and an inner step."""
        loss = objective.training_gradient(state.w, batch, state.gradient)
        if math.isfinite(loss):
            share = objective.size(batch) / objective.samples
            self._follow(state, loss, share, lambda w: objective.loss(w, batch))
        else:
            state.failed = True

    @abstractmethod
    def _follow(self, state: Descent, loss: float, share: float, losses: Callable[[Array], float]) -> None:
        """A step along ``state.gradient``.

        Args:
            state: the parameters and their gradient.
            loss: loss at these parameters.
            share: share of the training samples in the batch.
            losses: the loss at other parameters, on the same batch.
        """

    def _move(self, params: Array, gradient: Array, state: State, rate: float, loss_scale: float = 1.0) -> None:
        """A step of the inner optimizer with this learning rate."""
        inner = self._inner(state)
        assert isinstance(self.inner, NativeOptimizer)
        self.inner.step(params, gradient, inner, loss_scale=loss_scale, learning_rate=rate)
        if inner.t > state.t:
            state.t = inner.t
            state.numbers["rate"] = rate

    def restart(self, params: Array, state: State, target: Array) -> None:
        """See `Optimizer.restart`; the learning rate stays."""
        self.inner.restart(params, self._inner(state), target)
        state.slots[:] = target

    def solution(self, params: Array, state: State) -> Array:
        """The solution of the inner optimizer."""
        return self.inner.solution(params, self._inner(state))


def _squares(gradient: Array) -> float:
    """The squared norm of a gradient."""
    return _core.sum_squares(gradient)


@final
@dataclass(frozen=True)
class Hypergradient(Rated):
    r"""Hypergradient descent: the learning rate follows its own gradient.

    .. math:: \alpha_t = \mathrm{clip}(\alpha_{t-1} + \beta\, g_t^\top u_{t-1}), \quad w_t = w_{t-1} - \alpha_t u_t

    where u is the direction of the inner optimizer: the gradient for SGD-HD, or that of momentum or Adam (Adam-HD). The
    rate grows while gradients agree with the step before, and falls where they oppose it.

    Args:
        inner: an optimizer of `popgrad.optim`; its learning rate is alpha_0.
        beta: learning rate of the learning rate, > 0. The product grows with the number of parameters and the size of
            their gradients: about 1e-3 for SGD, 1e-8 to 1e-6 for Adam.
        lowest, highest: limits of alpha, > 0; None: no limit. The paper has none, and its authors advise to clip.

    State: ``slots[0]``, the parameters before the last step (n,); ``numbers["rate"]``, alpha.

    Raises:
        InputError: an argument is out of range, or the inner optimizer has a schedule or its own way to advance.

    Reference: Baydin et al., ICLR 2018, arXiv:1703.04782, Algorithms 4 to 6.
    """

    beta: float = hyper(1e-3, above=0)
    lowest: float = hyper(1e-6, above=0)
    highest: float | None = hyper(None, above=0, optional=True)
    slots_needed = 1

    def init(self, params: Array, layout: Layout | None = None) -> State:
        """See `Optimizer.init`."""
        state = super().init(params, layout)
        state.layers, state.kept = np.array([[len(params), 1, 0, 0]], np.int64), np.zeros((1, 1))
        return state

    def step(self, params: Array, gradient: Array, state: State, *, loss_scale: float = 1.0) -> None:
        """See `Optimizer.step`."""
        inner = self._inner(state)
        if not math.isfinite(_squares(gradient)):  # the inner optimizer knows what to do with it
            return self._move(params, gradient, state, state.numbers["rate"], loss_scale)
        before = inner.t
        _core.step(_core.StepPlan(RULES["Progress"], {"product": 0.0}), params, gradient, state)
        rate = state.numbers["rate"]
        if before > 0:
            assert state.kept is not None
            product = float(state.kept[0, 0]) / loss_scale
            rate = min(max(rate + self.beta * product / rate, self.lowest), self.highest or math.inf)
        self._move(params, gradient, state, rate, loss_scale)
        return None

    def _follow(self, state: Descent, loss: float, share: float, losses: Callable[[Array], float]) -> None:
        self.step(state.w, state.gradient, state.optimizer)

    @property
    def bytes_per_parameter(self) -> float:
        """The bytes of the inner optimizer, of the norm, and of the product with the step before."""
        return self.inner.bytes_per_parameter + 4 + 12 + 8


@final
@dataclass(frozen=True)
class SPS(Rated):
    r"""Stochastic Polyak steps with a largest step: the learning rate follows the loss and the gradient of the batch.

    .. math:: \alpha_t = \min\left( \frac{f_t - f^*}{c\, \|g_t\|^2 + \epsilon},\; \gamma^{b/N} \alpha_{t-1} \right)

    for a batch of b of N samples. It needs no tuning where a model can fit every batch (interpolation), so that the
    smallest loss f* of a batch is known.

    Args:
        inner: an optimizer of `popgrad.optim`, `SGD` in the paper; its learning rate is alpha_0.
        c: > 0; 0.5 for the fastest steps, 1 in theory for nonconvex losses.
        growth: gamma, the largest factor by which the learning rate grows in an epoch, >= 1.
        lower_bound: f*, the smallest loss of a batch.
        epsilon: > 0, in units of the squared gradient.

    State: ``numbers["rate"]``, alpha.

    Raises:
        InputError: an argument is out of range, or the inner optimizer has a schedule or its own way to advance.

    Reference: Loizou et al., AISTATS 2021, arXiv:2002.10542, eq. 3 (SPS_max), with the growing bound of section 4.
    """

    c: float = hyper(0.5, above=0)
    growth: float = hyper(2.0, at_least=1)
    lower_bound: float = 0.0
    epsilon: float = hyper(1e-8, above=0)

    def step(
        self,
        params: Array,
        gradient: Array,
        state: State,
        *,
        loss_scale: float = 1.0,
        loss: float = math.nan,
        share: float = 1.0,
    ) -> None:
        """See `Optimizer.step`.

        Args:
            params, gradient, state, loss_scale: see `Optimizer.step`.
            loss: the loss of the batch at `params`, multiplied by `loss_scale` as the gradient is.
            share: share of the training samples in the batch, in (0, 1].

        Raises:
            InputError: `loss` is missing or not finite, or `share` is out of range.
        """
        if not math.isfinite(loss):
            fail("SPS.step", f"needs the loss of the batch, a finite number, got loss={loss!r}")
        if not 0 < share <= 1:
            fail("SPS.step", f"share must be in (0, 1], got {share!r}")
        last, squares = state.numbers["rate"], _squares(gradient) / loss_scale**2
        if not math.isfinite(squares):  # the inner optimizer knows what to do with it
            return self._move(params, gradient, state, last, loss_scale)
        rate = max(loss / loss_scale - self.lower_bound, 0.0) / (self.c * squares + self.epsilon)
        self._move(params, gradient, state, min(rate, last * self.growth**share), loss_scale)
        if state.numbers["rate"] == 0:  # a loss at its bound must not stop the next batch
            state.numbers["rate"] = last
        return None

    def _follow(self, state: Descent, loss: float, share: float, losses: Callable[[Array], float]) -> None:
        self.step(state.w, state.gradient, state.optimizer, loss=loss, share=share)

    @property
    def bytes_per_parameter(self) -> float:
        """The bytes of the inner optimizer and of the norm."""
        return self.inner.bytes_per_parameter + 4


@final
@dataclass(frozen=True)
class LineSearch(Rated):
    r"""Stochastic line search: the learning rate shrinks until the batch's own loss falls enough (Armijo's condition).

    .. math:: f_t(w - \alpha g_t) \le f_t(w) - c\, \alpha \|g_t\|^2

    Each step begins with ``growth ** (b / N)`` times the last learning rate, for a batch of b of N samples, and
    multiplies it by ``shrink`` until the condition holds. If no try holds, the parameters stay, and the next step goes
    on from the last try. Every try computes a loss on the same batch, with the same dropout, and `pg.fit` charges it
    (`Objective.loss`): one forward a sample, or as much as a gradient with dropout.

    Args:
        inner: an optimizer of `popgrad.optim`; its learning rate is alpha_0, 1 in the paper. The condition is that of
            `SGD`; other optimizers take their step with the learning rate that it accepts.
        c: share of the expected decrease, in (0, 1).
        shrink: factor between two tries, in (0, 1).
        growth: factor by which the first try grows in an epoch, >= 1.
        tries: largest number of tries in a step, a whole number >= 1. The budget must allow all of them.

    State: ``slots[0]``, a buffer for the trial point (n,); ``numbers["rate"]``, alpha.

    Raises:
        InputError: an argument is out of range, or the inner optimizer has a schedule or its own way to advance.

    Reference: Vaswani et al., NeurIPS 2019, arXiv:1905.09997, Algorithms 1 and 2 (reset option 2).
    """

    c: float = hyper(0.1, above=0, below=1)
    shrink: float = hyper(0.9, above=0, below=1)
    growth: float = hyper(2.0, at_least=1)
    tries: int = hyper(20, at_least=1, whole=True)
    slots_needed = 1

    def step(
        self,
        params: Array,
        gradient: Array,
        state: State,
        *,
        loss_scale: float = 1.0,
        loss: float = math.nan,
        losses: Callable[[Array], float] | None = None,
        share: float = 1.0,
    ) -> None:
        """See `Optimizer.step`.

        Args:
            params, gradient, state, loss_scale: see `Optimizer.step`.
            loss: the loss of the batch at `params`, not multiplied by `loss_scale`.
            losses: function ``w -> loss`` of the same batch.
            share: share of the training samples in the batch, in (0, 1].

        Raises:
            InputError: `loss` or `losses` is missing, or `share` is out of range.
        """
        if not math.isfinite(loss) or losses is None:
            fail("LineSearch.step", "needs the loss of the batch and the function losses, w -> loss")
        if not 0 < share <= 1:
            fail("LineSearch.step", f"share must be in (0, 1], got {share!r}")
        squares, rate = _squares(gradient) / loss_scale**2, state.numbers["rate"] * self.growth**share
        if squares == 0 or not math.isfinite(squares):
            return self._move(params, gradient, state, state.numbers["rate"], loss_scale)
        place, sgd = state.slots[0], State(np.empty((0, len(params)), params.dtype))
        for _ in range(self.tries):
            np.copyto(place, params)
            _core.step(_core.StepPlan(RULES["Sgd"], {"learning_rate": rate / loss_scale}), place, gradient, sgd)
            if losses(place) <= loss - self.c * rate * squares:
                return self._move(params, gradient, state, rate, loss_scale)
            rate *= self.shrink
        state.numbers["rate"] = rate
        return None

    def _follow(self, state: Descent, loss: float, share: float, losses: Callable[[Array], float]) -> None:
        self.step(state.w, state.gradient, state.optimizer, loss=loss, losses=losses, share=share)

    def cost(self, objective: Objective, batch: Batch, state: Descent) -> Cost:
        """The cost of the inner optimizer, and of a loss for every try."""
        once = objective.loss_cost(batch)
        return super().cost(objective, batch, state) + Cost(self.tries * once.forwards, self.tries * once.evaluations)

    @property
    def bytes_per_parameter(self) -> float:
        """The bytes of the inner optimizer, of the norm, and of one trial point."""
        return self.inner.bytes_per_parameter + 4 + 8 + 12
