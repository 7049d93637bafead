"""What every optimizer is: a step along a gradient, and a method that asks an objective for gradients."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popgrad.backends import aligned
from popgrad.budget import Cost
from popgrad.checks import fail
from popgrad.layout import Layout
from popgrad.method import Method
from popgrad.objective import Batch, Objective
from popgrad.state import flatten

__all__ = ["Descent", "Optimizer", "State"]

Array = NDArray[Any]


@dataclass
class State:
    """All that an optimizer needs to go on, next to the parameters: arrays and numbers.

    Args:
        slots: (k, n), one row for each name in the optimizer's ``state_names``; zero before the first step. Of the
            parameters' type, or uint16 (the bits of bfloat16) or uint8 (see ``state_dtype``).
        t: steps done.
        numbers: what else it carries from step to step, by name.
        average: (n,) the running average of the parameters, with ``ema_decay``.
        scales: (k, ceil(n / 256)) float32, the scale of each block of states in bytes.
        layers: (L, 2) int64, length of each tensor in the parameters and whether its steps are adapted to it.
        kept: (L, m) float64, what the method keeps for each tensor as a whole.
        inner: of the optimizer that a wrapper wraps.
    """

    slots: Array
    t: int = 0
    numbers: dict[str, float] = field(default_factory=dict)
    average: Array | None = None
    scales: Array | None = None
    layers: Array | None = None
    kept: Array | None = None
    inner: State | None = None

    def to_dict(self) -> dict[str, Any]:
        """Arrays (not copied) and numbers by dotted names, for a checkpoint."""
        return flatten(self)

    @classmethod
    def from_dict(cls, named: Mapping[str, Any]) -> State:
        """What `to_dict` gave, with the same arrays. Numbers may have become arrays of shape (), as in ``np.savez``.

        Raises:
            InputError: a name is missing, or a value is no array or no number, such as a list from JSON.
        """
        for name in ("slots", "t"):
            if name not in named:
                fail("State.from_dict", f"{name!r} is missing; expected what to_dict gave")
        numbers = {name.removeprefix("numbers."): _number(name, named[name]) for name in _below("numbers.", named)}
        inner = {name.removeprefix("inner."): named[name] for name in _below("inner.", named)}
        arrays = {name: named[name] for name in ("slots", *_ARRAYS) if named.get(name) is not None}
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray):
                fail("State.from_dict", f"{name!r} must be a NumPy array of its own type, got {type(array).__name__}")
        t = _number("t", named["t"])
        if not t.is_integer():
            fail("State.from_dict", f"'t' must be a whole number, got {t!r}")
        return cls(t=int(t), numbers=numbers, **arrays, inner=cls.from_dict(inner) if inner else None)


_ARRAYS = ("average", "scales", "layers", "kept")


def _below(prefix: str, named: Mapping[str, Any]) -> list[str]:
    return [name for name in named if name.startswith(prefix)]


def _number(name: str, value: Any) -> float:
    """A number that may have become an array of shape (), which would round a power of it otherwise."""
    number = value.item() if isinstance(value, (np.ndarray, np.generic)) and np.ndim(value) == 0 else value
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        fail("State.from_dict", f"{name!r} must be a number, got {value!r}")
    return float(number)


@dataclass
class Descent:
    """Where an optimizer stands in training.

    Attributes:
        w: (n,) the parameters that it steps; 64-byte aligned.
        optimizer: its state.
        seed: of the random numbers that it needs, such as drawn labels.
        failed: whether a loss was not finite: its gradient is no direction, and the parameters stay where they are.
        gradient: (n,) room for a gradient; not part of the state.
    """

    w: Array
    optimizer: State
    seed: int
    failed: bool = False
    gradient: Array = field(init=False, repr=False, metadata={"state": False})
    _inside: Descent | None = field(init=False, default=None, repr=False, metadata={"state": False})

    def __post_init__(self) -> None:
        self.gradient = aligned(len(self.w), self.w.dtype)

    def inside(self) -> Descent:
        """The same place, as the optimizer inside a wrapper sees it; arrays are shared."""
        if self._inside is None:
            inner = self.optimizer.inner
            if inner is None:
                fail("step", "state must be the one that this optimizer's init made")
            self._inside = copy.copy(self)
            self._inside.optimizer = inner
        return self._inside


class Optimizer(Method):
    """Turns a gradient into a step: frozen settings, and a `State` that is data.

    `init`, `step` and `solution` serve a loop of your own that computes gradients itself. `popgrad.fit` goes by the
    methods of `popgrad.Method`, in which the optimizer asks an objective for the gradients that it needs.
    """

    kind = "gradient"
    default_batch_size = 32

    @property
    def requires(self) -> tuple[str, ...]:
        """Names of the operations that it asks of an objective."""
        return ("gradient",)

    @abstractmethod
    def init(self, params: Array, layout: Layout | None = None) -> State:
        """The state before the first step, for parameters of shape (n,), float32 or float64.

        Args:
            params: (n,) float32 or float64.
            layout: of params, such as ``model.layout``. Methods that go by layers need it; without, all parameters are
                one matrix.

        Raises:
            InputError: `params` is not such an array, `layout` does not fit it, or ``state_dtype`` needs float32.
        """

    @abstractmethod
    def step(self, params: Array, gradient: Array, state: State, *, loss_scale: float = 1.0) -> None:
        """Change `params` and `state` in place by one step along `gradient`.

        Args:
            params: (n,) float32 or float64, C-contiguous and writable; nothing is converted.
            gradient: (n,) of the same dtype.
            state: what `init` made.
            loss_scale: what the loss was multiplied with, > 0; the gradient is divided by it in the sweep.

        Raises:
            InputError: an array is of another type or shape; nothing was changed.
        """

    @abstractmethod
    def solution(self, params: Array, state: State) -> Array:
        """The parameters to evaluate and to keep, (n,): `params`, or an average where the method keeps one."""

    def restart(self, params: Array, state: State, target: Array) -> None:
        """Continue from other parameters (n,): `params` become `target`, and `solution` returns it.

        An average restarts at `target`; moments and counters stay as they are.
        """
        params[:] = target
        if state.average is not None:
            state.average[:] = target

    @property
    @abstractmethod
    def bytes_per_parameter(self) -> float:
        """Bytes that a step of float32 parameters must move for each: what it reads and writes, once a sweep."""

    # --- As a method ------------------------------------------------------------------------------------------------

    def prepare(self, objective: Objective, w: Array, seed: int) -> Descent:
        """See `popgrad.Method.prepare`."""
        own = aligned(len(w), w.dtype)
        own[:] = w
        return Descent(own, self.init(own, objective.layout), seed)

    def cost(self, objective: Objective, batch: Batch, state: Descent) -> Cost:
        """See `popgrad.Method.cost`."""
        return objective.gradient_cost(batch)

    def advance(self, objective: Objective, batch: Batch, state: Descent) -> None:
        """See `popgrad.Method.advance`: a gradient and a step along it."""
        if math.isfinite(objective.gradient(state.w, batch, state.gradient)):
            self.step(state.w, state.gradient, state.optimizer)
        else:
            state.failed = True

    def recommend(self, state: Descent) -> Array:
        """See `popgrad.Method.recommend`."""
        return np.ascontiguousarray(self.solution(state.w, state.optimizer))

    def finished(self, state: Descent) -> str | None:
        """See `popgrad.Method.finished`."""
        return "the loss is no longer finite" if state.failed else None

    def move_to(self, state: Descent, w: Array) -> bool:
        """See `popgrad.Method.move_to`."""
        self.restart(state.w, state.optimizer, w)
        return True
