"""What every gradient optimizer shares: frozen settings, a state that is data, one native sweep per step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from popgrad import _core
from popgrad.backends import aligned
from popgrad.checks import InputError, fail, fraction, positive

__all__ = ["Optimizer", "Schedule", "State", "at"]

Array = NDArray[Any]
Schedule = Callable[[int], float]

_RULES = _core.step_rules()


def at(value: float | Schedule, t: int) -> float:
    """A hyper-parameter at step t (1, 2, ...): itself, or what its schedule says."""
    return float(value(t)) if callable(value) else value


@dataclass
class State:
    """All that an optimizer needs to go on, next to the parameters.

    Args:
        slots: (k, n), one row for each name in the optimizer's ``state_names``; zero before the first step.
        t: steps done.
        numbers: what else it carries from step to step, by name.
    """

    slots: Array
    t: int = 0
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Optimizer(ABC):
    """Turns a gradient into a step. Subclasses hold the hyper-parameters and name the native rule."""

    # The native rule, and what its states are called; an option may choose another one for an instance.
    rule: ClassVar[str]
    state_names: ClassVar[tuple[str, ...]] = ()
    # Hyper-parameters that must be > 0 (or schedules), and those that must be in [0, 1).
    _positive: ClassVar[tuple[str, ...]] = ("learning_rate",)
    _fractions: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        positive(self, *self._positive)
        fraction(self, *self._fractions)

    @abstractmethod
    def _fields(self, t: int, numbers: dict[str, float]) -> dict[str, float]:
        """The members of the native rule at step t, by name. What is to be carried on goes into `numbers`."""

    def init(self, params: Array) -> State:
        """The state before the first step, for parameters of shape (n,), float32 or float64.

        Raises:
            InputError: `params` is not such an array.
        """
        if not isinstance(params, np.ndarray) or params.ndim != 1 or params.dtype not in (np.float32, np.float64):
            got = f"{params.dtype} {params.shape}" if isinstance(params, np.ndarray) else type(params).__name__
            fail(f"{type(self).__name__}.init", f"params must be a float32 or float64 array (n,), got {got}")
        return State(aligned((len(self.state_names), len(params)), params.dtype))

    def step(self, params: Array, gradient: Array, state: State) -> None:
        """Change `params` and `state` in place by one step along `gradient`.

        Args:
            params: (n,) float32 or float64, C-contiguous and writable; nothing is converted.
            gradient: (n,) of the same dtype.
            state: what `init` made.

        Raises:
            InputError: an array is of another type or shape; nothing was changed.
        """
        index, _, names = _RULES[self.rule]
        numbers = dict(state.numbers)
        fields = self._fields(state.t + 1, numbers)
        try:
            _core.step(index, tuple([fields[name] for name in names]), params, gradient, state.slots)
        except ValueError as error:
            raise InputError(str(error).replace("_core", f"{type(self).__name__}.step", 1)) from None
        state.t += 1
        state.numbers = numbers
