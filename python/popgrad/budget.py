"""Budgets of runs and the units of cost: forwards, evaluations and seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import NamedTuple

from popgrad.checks import fail

__all__ = ["DEFAULT_EPOCHS", "DEFAULT_FORWARDS", "GRADIENT_FORWARDS", "Budget", "Cost", "Used", "default_budget"]

GRADIENT_FORWARDS = 3  # a gradient costs a forward pass and a backward pass of about two

# A run without epochs and budget gets the larger of these two defaults.
DEFAULT_EPOCHS = 20
DEFAULT_FORWARDS = 3_000_000  # also the default of `popgrad compare`


class Cost(NamedTuple):
    """Cost of an operation, in the units of `Budget`."""

    forwards: int
    evaluations: int

    def __add__(self, other: object) -> Cost:
        """The total cost of two operations."""
        if not isinstance(other, Cost):
            return NotImplemented
        return Cost(self.forwards + other.forwards, self.evaluations + other.evaluations)


class Used(NamedTuple):
    """Resources that a run has used so far, in the units of `Budget`."""

    forwards: int
    evaluations: int
    seconds: float


@dataclass(frozen=True)
class Budget:
    """Limits on the resources of a run. The run ends before the first step that would exceed a limit.

    Args:
        forwards: samples through the network. A gradient costs 3 per sample, the evaluation of one candidate
            1 per sample; records and validation cost nothing.
        evaluations: candidates evaluated; a gradient counts as one.
        seconds: wall time of the steps, without the records; no step begins after this time.

    Raises:
        InputError: no limit is given, or a limit is not a number > 0.
    """

    forwards: float | None = None
    evaluations: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        given: dict[str, object] = {name: value for name, value in self._limits().items() if value is not None}
        if not given:
            fail(self, "give at least one of forwards, evaluations and seconds")
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, Real) or not float(value) > 0:
                fail(self, f"{name} must be a number > 0, got {value!r}")

    def __str__(self) -> str:
        """The limits as text, such as "3,000,000 forwards and 10 seconds"."""
        return " and ".join(_quantity(value, name) for name, value in self._limits().items() if value is not None)

    def allows(self, forwards: float, evaluations: float, seconds: float) -> bool:
        """Whether these totals are within every limit."""
        return self.exceeded(forwards, evaluations, seconds) is None

    def exceeded(self, forwards: float, evaluations: float, seconds: float) -> str | None:
        """The name of the first limit that one of these totals exceeds, or None."""
        if self.forwards is not None and forwards > self.forwards:
            return "forwards"
        if self.evaluations is not None and evaluations > self.evaluations:
            return "evaluations"
        return "seconds" if self.seconds is not None and seconds > self.seconds else None

    def affordable(self, first: Used) -> float:
        """Forwards within the budget if every step costs the same as the first; infinity if only time is limited."""
        by_evaluations = math.inf
        if self.evaluations is not None:
            by_evaluations = float(self.evaluations) / first.evaluations * first.forwards
        return min(math.inf if self.forwards is None else float(self.forwards), by_evaluations)

    def limit(self, name: str) -> str:
        """One limit as text, such as "3,000,000 forwards"."""
        return _quantity(getattr(self, name), name)

    def _limits(self) -> dict[str, float | None]:
        return {"forwards": self.forwards, "evaluations": self.evaluations, "seconds": self.seconds}


def default_budget(samples: int, least: int = 0) -> Budget:
    """The budget of a run without epochs and without a budget.

    Args:
        samples: training samples.
        least: the minimum number of forwards for the method, such as 50 populations of a search.

    Returns:
        A limit on forwards: the largest of 20 epochs of gradients, 3,000,000 forwards and `least`.
    """
    return Budget(forwards=max(DEFAULT_EPOCHS * GRADIENT_FORWARDS * samples, DEFAULT_FORWARDS, least))


def _quantity(value: float, unit: str) -> str:
    """A number with its unit in singular or plural: "1 evaluation", "3,000,000 forwards"."""
    number = f"{value:,.0f}" if float(value).is_integer() else f"{float(value):,}"
    return f"{number} {unit[:-1] if value == 1 else unit}"
