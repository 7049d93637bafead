"""What a schedule is, and how the value of a hyper-parameter at a step is found."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from popgrad.checks import Settings, fail, number, positive_int
from popgrad.columns import Column, column
from popgrad.settings import check_settings

__all__ = ["Schedule", "at", "steps_of"]


@dataclass(frozen=True)
class Schedule(metaclass=Settings):
    """A function of the step. For a schedule of your own, derive a frozen dataclass that defines `value_at`."""

    def __post_init__(self) -> None:
        check_settings(self)

    @abstractmethod
    def value_at(self, t: Any) -> Any:
        """The value at step t.

        Args:
            t: 1 for the first step; an int, or a `popgrad.columns.Column` of steps. Write the formula with operators
                and the functions of `popgrad.columns`, without branches on t; both then have the same bits.
        """

    def __call__(self, t: Any) -> Any:
        """The value at step t = 1, 2, ..., or float64 values (count,) for an array of steps (count,), the same bits."""
        if isinstance(t, np.ndarray):
            values = self.value_at(column(t))
            return values if isinstance(values, Column) else column(np.full(len(t), values))
        return float(self.value_at(t))


def at(value: Any, t: Any, *, name: str = "value", counts_from: int = 1) -> Any:
    """The value of a hyper-parameter, a number or a schedule, at step t (1, 2, ...) or at a column of steps.

    A function that raises at a later step than the first of a column ends the column before that step.

    Args:
        value: a number, None, a `Schedule`, or a function of the step.
        t: an int or a column.
        name: name of the hyper-parameter, for the error message.
        counts_from: the argument with which to call a function at the first step; a `Schedule` counts from 1.

    Raises:
        InputError: a function returns something that is not a number.
    """
    if not callable(value):
        return value
    if isinstance(value, Schedule):
        return value(t)
    if not isinstance(t, Column):
        return _number(name, t, value(t + (counts_from - 1)))
    values: list[float] = []
    for step in map(int, t.tolist()):
        try:
            values.append(_number(name, step, value(step + (counts_from - 1))))
        except Exception:
            if not values:
                raise
            break
    return column(values)


def _number(name: str, t: int, value: Any) -> float:
    """The result of a function as a float."""
    if value.__class__ is float:
        return value
    if math.isnan(x := number(value)) and not isinstance(value, (float, np.floating)):
        fail("schedule", f"{name} must be a number at step {t}, got {value!r}")
    return x


def steps_of(epochs: int, samples: int, batch_size: int | None = 32) -> int:
    """The number of steps in `epochs` passes over `samples`, for the length of a schedule.

    Args:
        epochs: number of passes, >= 1.
        samples: number of training samples, without those that ``validation`` holds out; >= 1.
        batch_size: samples per step; None for all. The last batch of an epoch may be smaller.

    Raises:
        InputError: an argument is not a whole number >= 1.
    """
    epochs, samples = positive_int("steps_of", "epochs", epochs), positive_int("steps_of", "samples", samples)
    size = samples if batch_size is None else positive_int("steps_of", "batch_size", batch_size)
    return epochs * math.ceil(samples / size)
