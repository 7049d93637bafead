"""The interface of all optimizers: `Optimizer`, its state, and its use as a `popgrad.Method`."""

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
    """The state of an optimizer between steps, apart from the parameters: arrays and numbers.

    Args:
        slots: (k, n), one row per name in the optimizer's ``state_names``; zero before the first step. The dtype of the
            parameters, or uint16 (the bits of bfloat16) or uint8 (see ``state_dtype``).
        t: number of steps done.
        numbers: further numbers that the optimizer keeps between steps, by name.
        average: (n,) the running average of the parameters, with ``ema_decay``.
        scales: (k, ceil(n / 256)) float32, the scale of each block of 8-bit states. Every layer begins with a block.
        layers: (L, 4) int64, for consecutive parts of the vector: the size; whether the step is adapted to the norm of
            the part; the index of its settings in `Groups`, or -1 if it is frozen; and the inputs of a unit if it is a
            matrix that max_norm limits, otherwise 0. None: one part.
        kept: (L, m) float64, numbers that the method keeps per tensor.
        inner: state of the inner optimizer of a wrapper.
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
        """The arrays (not copied) and numbers by dotted names, for a checkpoint."""
        return flatten(self)

    @classmethod
    def from_dict(cls, named: Mapping[str, Any]) -> State:
        """Rebuild a state from the result of `to_dict`, without copying the arrays.

        Numbers may be arrays of shape (), as ``np.savez`` stores them.

        Raises:
            InputError: a name is missing, or a value is neither an array nor a number, such as a list from JSON.
        """
        for name in ("slots", "t"):
            if name not in named:
                fail("State.from_dict", f"{name!r} is missing; expected the result of to_dict")
        numbers = {name.removeprefix("numbers."): _number(name, named[name]) for name in _below("numbers.", named)}
        inner = {name.removeprefix("inner."): named[name] for name in _below("inner.", named)}
        arrays = {name: named[name] for name in ("slots", *_ARRAYS) if named.get(name) is not None}
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray):
                fail("State.from_dict", f"{name!r} must be a NumPy array, got {type(array).__name__}")
        t = _number("t", named["t"])
        if not t.is_integer():
            fail("State.from_dict", f"'t' must be a whole number, got {t!r}")
        return cls(t=int(t), numbers=numbers, **arrays, inner=cls.from_dict(inner) if inner else None)


_ARRAYS = ("average", "scales", "layers", "kept")


def _below(prefix: str, named: Mapping[str, Any]) -> list[str]:
    return [name for name in named if name.startswith(prefix)]


def _number(name: str, value: Any) -> float:
    """A number as a float. Arrays of shape () are converted, since their powers would be rounded to their dtype."""
    number = value.item() if isinstance(value, (np.ndarray, np.generic)) and np.ndim(value) == 0 else value
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        fail("State.from_dict", f"{name!r} must be a number, got {value!r}")
    return float(number)


@dataclass
class Descent:
    """The state of an optimizer as a `popgrad.Method`.

    Attributes:
        w: (n,) the parameters being trained; 64-byte aligned.
        optimizer: the optimizer's state.
        seed: seed of random numbers, such as for sampled labels.
        failed: whether a loss was not finite, so that no step was taken.
        gradient: (n,) buffer for the gradient; not part of the state.
        loop: the native loop of the last steps, with the objective and the batches that it is for; not part of the
            state.
        tables: plans of steps that are known in advance, and the number of the first one; not part of the state.
    """

    w: Array
    optimizer: State
    seed: int
    failed: bool = False
    gradient: Array = field(init=False, repr=False, metadata={"state": False})
    loop: tuple[Any, ...] = field(init=False, default=(), repr=False, metadata={"state": False})
    tables: Any = field(init=False, default=None, repr=False, metadata={"state": False})
    _inside: Descent | None = field(init=False, default=None, repr=False, metadata={"state": False})

    def __post_init__(self) -> None:
        self.gradient = aligned(len(self.w), self.w.dtype)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "loop": (), "tables": None, "_inside": None}

    def inside(self) -> Descent:
        """The state for the inner optimizer of a wrapper; the arrays are shared."""
        if self._inside is None:
            inner = self.optimizer.inner
            if inner is None:
                fail("step", "state must come from this optimizer's init")
            self._inside = copy.copy(self)
            self._inside.optimizer = inner
        return self._inside


class Optimizer(Method):
    """A gradient method: frozen settings, and a `State` that is data.

    Call `init`, `step` and `solution` in a training loop that computes gradients itself. `popgrad.fit` calls the
    methods of `popgrad.Method` instead, in which the optimizer requests gradients from an objective.
    """

    kind = "gradient"
    default_batch_size = 32

    @property
    def requires(self) -> tuple[str, ...]:
        """Names of the `Objective` operations that the optimizer calls."""
        return ("gradient",)

    @abstractmethod
    def init(self, params: Array, layout: Layout | None = None) -> State:
        """The state before the first step, for parameters of shape (n,), float32 or float64.

        Args:
            params: (n,) float32 or float64.
            layout: layout of `params`, such as ``model.layout``. Methods that adapt steps per layer need it; without
                a layout, they treat all parameters as one matrix.

        Raises:
            InputError: `params` has the wrong shape or type, `layout` does not fit it, or ``state_dtype`` needs
                float32.
        """

    @abstractmethod
    def step(self, params: Array, gradient: Array, state: State, *, loss_scale: float = 1.0) -> None:
        """Change `params` and `state` in place by one step along `gradient`.

        Args:
            params: (n,) float32 or float64, C-contiguous and writable; not converted.
            gradient: (n,) of the same dtype.
            state: result of `init`.
            loss_scale: factor by which the loss was multiplied, > 0; the step divides the gradient by it.

        Raises:
            InputError: an array has the wrong type or shape; nothing was changed.
        """

    @abstractmethod
    def solution(self, params: Array, state: State) -> Array:
        """The parameters (n,) to evaluate and to keep: `params`, or their average if the optimizer keeps one."""

    def notice(self, state: State, value: float) -> None:
        """Tell the schedules that react to records, such as `ReduceOnPlateau`, the objective of a record.

        Args:
            state: result of `init`.
            value: the objective, such as the validation loss after an epoch; smaller is better.
        """

    def restart(self, params: Array, state: State, target: Array) -> None:
        """Continue from other parameters (n,): set `params` to `target`, so that `solution` returns `target`.

        An average restarts at `target`; moments and counters do not change.
        """
        params[:] = target
        if state.average is not None:
            state.average[:] = target

    @property
    @abstractmethod
    def bytes_per_parameter(self) -> float:
        """Bytes per float32 parameter that a step reads and writes."""

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
        """See `popgrad.Method.advance`: compute a gradient and take a step."""
        if math.isfinite(objective.training_gradient(state.w, batch, state.gradient)):
            self.step(state.w, state.gradient, state.optimizer)
        else:
            state.failed = True

    def recommend(self, state: Descent) -> Array:
        """See `popgrad.Method.recommend`."""
        return np.ascontiguousarray(self.solution(state.w, state.optimizer))

    def finished(self, state: Descent) -> str | None:
        """See `popgrad.Method.finished`."""
        return "the loss is no longer finite" if state.failed else None

    def after_record(self, state: Descent, value: float) -> None:
        """See `popgrad.Method.after_record`."""
        self.notice(state.optimizer, value)

    def move_to(self, state: Descent, w: Array) -> bool:
        """See `popgrad.Method.move_to`."""
        self.restart(state.w, state.optimizer, w)
        return True
