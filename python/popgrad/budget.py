"""The coin that every optimizer is charged in."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real

from popgrad.checks import fail

__all__ = ["GRADIENT_FORWARDS", "Budget"]

GRADIENT_FORWARDS = 3  # a gradient costs a forward pass and a backward pass of about two


@dataclass(frozen=True)
class Budget:
    """What a run may use. It ends before the first step that would exceed any of the limits given.

    Args:
        forwards: samples through the network. A gradient costs 3 per sample, the evaluation of one candidate
            1 per sample; measurements on the side (records, validation) cost nothing.
        evaluations: candidates evaluated; a gradient counts as one.
        seconds: wall time of the steps, without those measurements; no step begins after it.

    Raises:
        InputError: no limit is given, or one is not a number > 0.
    """

    forwards: float | None = None
    evaluations: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        limits = {"forwards": self.forwards, "evaluations": self.evaluations, "seconds": self.seconds}
        given: dict[str, object] = {name: value for name, value in limits.items() if value is not None}
        if not given:
            fail(self, "give at least one of forwards, evaluations and seconds")
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, Real) or not float(value) > 0:
                fail(self, f"{name} must be a number > 0, got {value!r}")

    def allows(self, forwards: float, evaluations: float, seconds: float) -> bool:
        """Whether these totals are within every limit."""
        pairs = ((self.forwards, forwards), (self.evaluations, evaluations), (self.seconds, seconds))
        return all(limit is None or used <= limit for limit, used in pairs)
