"""Schedules that follow the records of a run."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from popgrad.schedules._base import Schedule
from popgrad.settings import hyper

__all__ = ["Reacting", "ReduceOnPlateau"]


@dataclass(frozen=True)
class Reacting(Schedule):
    """A schedule that depends on the records of a run; its numbers are in the optimizer's ``State.numbers``.

    `popgrad.fit` reports the objective of every record. In a training loop of your own, call
    ``optimizer.notice(state, value)``.
    """

    @property
    @abstractmethod
    def first_numbers(self) -> dict[str, float]:
        """The numbers before the first step."""

    @abstractmethod
    def value_after(self, numbers: Mapping[str, float]) -> float:
        """The value until the next record."""

    @abstractmethod
    def notice(self, value: float, numbers: dict[str, float]) -> None:
        """Update the numbers with the objective of a record, which is to be small."""

    def value_at(self, t: Any) -> Any:
        """The value in a run without records."""
        return self.value_after(self.first_numbers)


@final
@dataclass(frozen=True)
class ReduceOnPlateau(Reacting):
    """Multiply the value by a factor when the objective has stopped falling, as PyTorch's ``ReduceLROnPlateau`` does.

    Args:
        value: the first value, >= 0.
        factor: in (0, 1).
        patience: records without improvement that are accepted; the next one reduces the value. A whole number >= 0.
        threshold: smallest change that counts as an improvement, >= 0.
        relative: whether `threshold` is a share of the best objective so far (a positive number) or a difference.
        cooldown: records after a reduction that do not count, a whole number >= 0.
        lowest: the smallest value, >= 0.
        epsilon: a reduction by at most this much is not done, >= 0.
    """

    value: float = hyper(at_least=0)
    factor: float = hyper(0.1, above=0, below=1)
    patience: int = hyper(10, at_least=0, whole=True)
    threshold: float = hyper(1e-4, at_least=0)
    relative: bool = True
    cooldown: int = hyper(0, at_least=0, whole=True)
    lowest: float = hyper(0.0, at_least=0)
    epsilon: float = hyper(1e-8, at_least=0)

    @property
    def first_numbers(self) -> dict[str, float]:
        """The value, the best objective, records without improvement, and records of cooldown left."""
        return {"value": float(self.value), "best": math.inf, "bad": 0.0, "cooldown": 0.0}

    def value_after(self, numbers: Mapping[str, float]) -> float:
        """See `Reacting.value_after`."""
        return numbers["value"]

    def notice(self, value: float, numbers: dict[str, float]) -> None:
        """See `Reacting.notice`; NaN is no improvement."""
        best = numbers["best"]
        if value < (best * (1 - self.threshold) if self.relative else best - self.threshold):
            numbers["best"], numbers["bad"] = float(value), 0.0
        else:
            numbers["bad"] += 1
        if numbers["cooldown"] > 0:
            numbers["cooldown"], numbers["bad"] = numbers["cooldown"] - 1, 0.0
        if numbers["bad"] > self.patience:
            reduced = max(numbers["value"] * self.factor, self.lowest)
            if numbers["value"] - reduced > self.epsilon:
                numbers["value"] = reduced
            numbers["cooldown"], numbers["bad"] = float(self.cooldown), 0.0
