"""Schedules that are functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, cast, final

import numpy as np

from popgrad.checks import fail, positive_int
from popgrad.columns import cosine, larger, smaller, sqrt, where
from popgrad.schedules._base import Schedule
from popgrad.schedules.reacting import Reacting
from popgrad.settings import hyper

__all__ = [
    "Chain",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Exponential",
    "InverseSqrt",
    "Linear",
    "MultiStep",
    "OneCycle",
    "Polynomial",
    "Step",
    "Trapezoid",
    "Warmup",
]


# --- Decays ----------------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Constant(Schedule):
    """The same value at every step.

    Args:
        value: >= 0.
    """

    value: float = hyper(at_least=0)

    def value_at(self, t: Any) -> Any:
        """See `Schedule.value_at`."""
        return self.value


@final
@dataclass(frozen=True)
class Step(Schedule):
    """Multiply the value by a factor after every `every` steps: ``value * factor ** (s // every)``.

    Args:
        value: the first value, >= 0.
        every: steps between two changes, a whole number >= 1.
        factor: > 0.
    """

    value: float = hyper(at_least=0)
    every: int = hyper(at_least=1, whole=True)
    factor: float = hyper(0.1, above=0)

    def value_at(self, t: Any) -> Any:
        """See `Schedule.value_at`."""
        return self.value * self.factor ** ((t - 1) // self.every)


@final
@dataclass(frozen=True)
class MultiStep(Schedule):
    """Multiply the value by a factor at each milestone: ``value * factor ** (number of milestones <= s)``.

    Args:
        value: the first value, >= 0.
        milestones: numbers of steps after which the value changes, increasing whole numbers >= 1.
        factor: > 0.
    """

    value: float = hyper(at_least=0)
    milestones: Sequence[int] = hyper()
    factor: float = hyper(0.1, above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        milestones = tuple(positive_int(self, "milestones", each) for each in self.milestones)
        if sorted(milestones) != list(milestones):
            fail(self, f"milestones must increase, got {milestones!r}")
        object.__setattr__(self, "milestones", milestones)

    def value_at(self, t: Any) -> Any:
        """See `Schedule.value_at`."""
        passed = 0.0 * t
        for milestone in self.milestones:
            passed = passed + (t > milestone)
        return self.value * self.factor**passed


@final
@dataclass(frozen=True)
class Exponential(Schedule):
    """Exponential decay: ``value * factor ** (s / every)``.

    Args:
        value: the first value, >= 0.
        factor: > 0, the factor over `every` steps.
        every: a number of steps, > 0.
    """

    value: float = hyper(at_least=0)
    factor: float = hyper(above=0)
    every: float = hyper(1, above=0)

    def value_at(self, t: Any) -> Any:
        """See `Schedule.value_at`."""
        return self.value * self.factor ** ((t - 1) / self.every)


@final
@dataclass(frozen=True)
class Polynomial(Schedule):
    """Polynomial decay: ``end + (value - end) (1 - s / steps) ** power``, then `end`.

    Args:
        value: the first value, >= 0.
        steps: length of the decay, a whole number >= 1.
        power: > 0; 1 is linear.
        end: the last value, >= 0.
    """

    value: float = hyper(at_least=0)
    steps: int = hyper(at_least=1, whole=True)
    power: float = hyper(1.0, above=0)
    end: float = hyper(0.0, at_least=0)

    def value_at(self, t: Any) -> Any:
        """See `Schedule.value_at`."""
        left = 1 - smaller(t - 1, self.steps) / self.steps
        return self.end + (self.value - self.end) * left**self.power


@final
@dataclass(frozen=True)
class Linear(Schedule):
    """A straight line from `start` to `end`, up or down: ``start + (end - start) s / steps``, then `end`.

    Args:
        start: the first value, >= 0.
        end: the last value, >= 0.
        steps: length of the line, a whole number >= 1.
    """

    start: float = hyper(at_least=0)
    end: float = hyper(at_least=0)
    steps: int = hyper(at_least=1, whole=True)

    def value_at(self, t: Any) -> Any:
        """See `Schedule.value_at`."""
        return _line(self.start, self.end, smaller(t - 1, self.steps) / self.steps)


@final
@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a period of a cosine: ``end + (value - end) (1 + cos(pi s / steps)) / 2``, then `end`.

    Args:
        value: the first value, >= 0.
        steps: length of the decay, a whole number >= 1.
        end: the last value, >= 0.

    Reference: Loshchilov & Hutter, ICLR 2017, arXiv:1608.03983, eq. 5, without restarts.
    """

    value: float = hyper(at_least=0)
    steps: int = hyper(at_least=1, whole=True)
    end: float = hyper(0.0, at_least=0)

    def value_at(self, t: Any) -> Any:
        """See `Schedule.value_at`."""
        return _wave(self.value, self.end, smaller(t - 1, self.steps) / self.steps)


@final
@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """Stochastic gradient descent with warm restarts (SGDR): a `Cosine` that starts anew after each cycle.

    Args:
        value: the value at the start of each cycle, >= 0.
        steps: length of the first cycle, a whole number >= 1.
        growth: factor from the length of a cycle to that of the next, a whole number >= 1.
        end: the value that a cycle approaches, >= 0.

    Reference: Loshchilov & Hutter, ICLR 2017, arXiv:1608.03983, eq. 5.
    """

    value: float = hyper(at_least=0)
    steps: int = hyper(at_least=1, whole=True)
    growth: int = hyper(1, at_least=1, whole=True)
    end: float = hyper(0.0, at_least=0)

    def value_at(self, t: Any) -> Any:
        """See `Schedule.value_at`."""
        place, length = t - 1, self.steps + 0 * t
        if self.growth == 1:
            place = place % length
        while np.any(later := place >= length):
            place, length = where(later, place - length, place), where(later, length * self.growth, length)
        return _wave(self.value, self.end, place / length)


@final
@dataclass(frozen=True)
class InverseSqrt(Schedule):
    """Linear warm-up, then decay with the inverse square root: ``value min(t / warmup, sqrt(warmup / t))``.

    Args:
        value: the largest value, at step `warmup`, >= 0. The paper has ``(width * warmup) ** -0.5``.
        warmup: steps of the warm-up, a whole number >= 1.

    Reference: Vaswani et al., NeurIPS 2017, arXiv:1706.03762, eq. 3.
    """

    value: float = hyper(at_least=0)
    warmup: int = hyper(4000, at_least=1, whole=True)

    def value_at(self, t: Any) -> Any:
        """See `Schedule.value_at`."""
        return self.value * smaller(t / self.warmup, sqrt(self.warmup / t))


# --- Rise and decay --------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class OneCycle(Schedule):
    """The one-cycle policy: up to `value`, then down far below the first value; for short runs with large rates.

    The first value is ``value / start_divisor``, the last ``value / start_divisor / end_divisor``. Momentum usually
    moves the other way: pass ``Chain([(Cosine(0.95, a, end=0.85), a), (Cosine(0.85, b, end=0.95), b)])`` for it.

    Args:
        value: the largest value, >= 0.
        steps: length of the cycle, a whole number >= 2.
        warm_share: share of the steps before the largest value, in [0, 1] (PyTorch's ``pct_start``).
        anneal: "cosine" or "linear", the shape of each phase.
        start_divisor: >= 1 (PyTorch's ``div_factor``).
        end_divisor: >= 1 (PyTorch's ``final_div_factor``).
        three_phase: come back to the first value as slowly as it rose, and only then go down to the last.

    Reference: Smith & Topin, arXiv:1708.07120 (2018); the phases are PyTorch's.
    """

    value: float = hyper(at_least=0)
    steps: int = hyper(at_least=2, whole=True)
    warm_share: float = hyper(0.3, at_least=0, at_most=1)
    anneal: Literal["cosine", "linear"] = hyper("cosine", choices=("cosine", "linear"))
    start_divisor: float = hyper(25.0, at_least=1)
    end_divisor: float = hyper(1e4, at_least=1)
    three_phase: bool = False

    def value_at(self, t: Any) -> Any:
        """See `Schedule.value_at`."""
        first = self.value / self.start_divisor
        turn, end = larger(self.warm_share * self.steps - 1, 0), self.steps - 1
        knots = [(0.0, first), (turn, self.value)] if turn > 0 else [(0.0, self.value)]
        knots += [(2 * turn, first)] if self.three_phase else []
        knots += [(end, first / self.end_divisor)] if knots[-1][0] < end else []
        return _through(knots, smaller(t - 1, end), _wave if self.anneal == "cosine" else _line)


@final
@dataclass(frozen=True)
class Trapezoid(Schedule):
    """Warm-up, stable, decay: a line from 0 up to `value`, constant, and in the last steps a line down to `end`.

    A run can be prolonged by prolonging the constant part, since nothing before the decay depends on the length.

    Args:
        value: the value of the constant part, >= 0.
        steps: length of the whole schedule, a whole number >= 1; the value stays at `end` after it.
        warmup: steps of the warm-up, a whole number >= 0.
        decay: steps of the decay, a whole number >= 0; warmup + decay <= steps.
        end: the last value, >= 0.

    Reference: Zhai et al., CVPR 2022, arXiv:2106.04560; Hagele et al., NeurIPS 2024, arXiv:2405.18392.
    """

    value: float = hyper(at_least=0)
    steps: int = hyper(at_least=1, whole=True)
    warmup: int = hyper(at_least=0, whole=True)
    decay: int = hyper(at_least=0, whole=True)
    end: float = hyper(0.0, at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup + self.decay > self.steps:
            fail(self, f"warmup + decay must be <= steps = {self.steps}, got {self.warmup} + {self.decay}")

    def value_at(self, t: Any) -> Any:
        """See `Schedule.value_at`."""
        knots = [(0, 0.0)] if self.warmup else []
        knots += [(self.warmup, self.value), (self.steps - self.decay, self.value)]
        knots += [(self.steps, self.end)] if self.decay else []
        return _through(knots, t - 1, _line)


# --- Schedules of schedules -------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Warmup(Schedule):
    """A linear warm-up in front of a schedule, which begins after it.

    Step t <= steps has the share ``start + (1 - start) s / steps`` of the first value of the schedule.

    Args:
        schedule: the schedule after the warm-up; a number for a constant value.
        steps: length of the warm-up, a whole number >= 1.
        start: share of the value at the first step, in [0, 1]; at 0, the first step does not move the parameters.
    """

    schedule: Schedule | float
    steps: int = hyper(at_least=1, whole=True)
    start: float = hyper(0.0, at_least=0, at_most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "schedule", _schedule(self, self.schedule))

    def value_at(self, t: Any) -> Any:
        """See `Schedule.value_at`."""
        share = _line(self.start, 1.0, smaller(t - 1, self.steps) / self.steps)
        return share * cast(Schedule, self.schedule).value_at(larger(t - self.steps, 1))


@final
@dataclass(frozen=True)
class Chain(Schedule):
    """Schedules one after another; each begins with its own first step.

    Args:
        parts: pairs of a schedule (or a number) and its number of steps, a whole number >= 1. The last schedule
            continues after its steps; its number may be None.
    """

    parts: Sequence[tuple[Schedule | float, int | None]]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.parts:
            fail(self, "parts must have at least one pair of a schedule and its steps, got none")
        parts = []
        for k, pair in enumerate(self.parts):
            if not isinstance(pair, Sequence) or len(pair) != 2:
                fail(self, f"parts must be pairs of a schedule and its steps, got {pair!r}")
            schedule, steps = pair
            last = k == len(self.parts) - 1 and steps is None
            parts.append((_schedule(self, schedule), None if last else positive_int(self, "steps", steps)))
        object.__setattr__(self, "parts", tuple(parts))

    def value_at(self, t: Any) -> Any:
        """See `Schedule.value_at`."""
        value, begin = 0.0 * t, 0
        for schedule, steps in self.parts:
            value = where(t > begin, cast(Schedule, schedule).value_at(larger(t - begin, 1)), value)
            begin += steps or 0
        return value


def _schedule(owner: Schedule, given: Any) -> Schedule:
    """A schedule that is given as a schedule or as a number."""
    if isinstance(given, Schedule) and not isinstance(given, Reacting):
        return given
    if callable(given):
        fail(owner, f"takes numbers and schedules of pg.schedules that do not react to records, got {given!r}")
    return Constant(given)


def _line(start: Any, end: Any, share: Any) -> Any:
    """From `start` at share 0 to `end` at share 1, along a line."""
    return start + (end - start) * share


def _wave(start: Any, end: Any, share: Any) -> Any:
    """From `start` at share 0 to `end` at share 1, along half a period of a cosine."""
    return end + (start - end) * ((1 + cosine(math.pi * share)) / 2)


def _through(knots: Sequence[tuple[float, float]], s: Any, curve: Callable[[Any, Any, Any], Any]) -> Any:
    """The curve through all knots (s, value) in order; constant outside."""
    value = knots[0][1] + 0.0 * s
    for (left, start), (right, end) in pairwise(knots):
        if right > left:
            share = smaller(larger(s - left, 0.0), right - left) / (right - left)
            value = where(s > left, curve(start, end, share), value)
    return value
