"""What every gradient optimizer shares: frozen settings, a state that is data, one native sweep per step."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from popgrad import _core
from popgrad.backends import aligned
from popgrad.checks import InputError, at_least_zero, fail, fraction, one_of, positive
from popgrad.optim._presets import Library, Matching, Presets, preset_of

__all__ = ["Optimizer", "Schedule", "State", "at"]

Array = NDArray[Any]
Schedule = Callable[[int], float]
Extras = tuple[float, float, float, float, float] | None

_RULES = _core.step_rules()


def at(value: float | Schedule, t: int) -> float:
    """A hyper-parameter at step t (1, 2, ...): itself, or what its schedule says."""
    if not callable(value):
        return value
    scheduled = value(t)
    if not at_least_zero(scheduled):
        fail("schedule", f"must give a finite number >= 0 at step {t}, got {scheduled!r}")
    return float(scheduled)


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
class Optimizer(metaclass=Matching):
    """Turns a gradient into a step. Subclasses hold the hyper-parameters and name the native rule.

    All share these, by keyword; they cost no extra pass over the parameters, but for the norm.

    Args:
        weight_decay: lambda >= 0. Added to the gradient as lambda w, unless the method defines its own way: then it
            is in [0, 1) and said there.
        weight_decay_mode: "coupled", added to the gradient; "decoupled", on the weights before the step, times the
            learning rate; None: the method's own.
        l1: strength >= 0 of a penalty ``l1 * sum |w|``, by its proximal step after the update (soft thresholding by
            learning_rate * l1), which makes weights exactly zero.
        clip_value: every gradient is limited to [-clip_value, clip_value]; > 0.
        clip_norm: the gradient is scaled down to this Euclidean norm if it is longer; > 0. Before clip_value.
        skip_nonfinite: leave parameters and state as they are where the gradient holds NaN or infinity.
        matches: "torch", "optax" or "keras": what is not given takes that library's value, and steps are the same as
            its own. optax has no default learning rate, and no library one for a momentum: the class's stays.

    Raises:
        InputError: a value is out of range, or the library that it shall match has no such optimizer.
    """

    learning_rate: float | Schedule
    weight_decay: float = field(default=0.0, kw_only=True)
    weight_decay_mode: Literal["coupled", "decoupled"] | None = field(default=None, kw_only=True)
    l1: float = field(default=0.0, kw_only=True)
    clip_value: float | None = field(default=None, kw_only=True)
    clip_norm: float | None = field(default=None, kw_only=True)
    skip_nonfinite: bool = field(default=False, kw_only=True)
    matches: Library | None = field(default=None, kw_only=True)

    # The native rule, and what its states are called; an option may choose another one for an instance.
    rule: ClassVar[str]
    state_names: ClassVar[tuple[str, ...]] = ()
    # Hyper-parameters that must be > 0 (or schedules), and those that must be in [0, 1).
    _positive: ClassVar[tuple[str, ...]] = ("learning_rate",)
    _fractions: ClassVar[tuple[str, ...]] = ()
    # Those that must be >= 0, and those of which one must be > 0 as well: what keeps a step from dividing by zero.
    _nonnegative: ClassVar[tuple[str, ...]] = ()
    _guards: ClassVar[tuple[str, ...]] = ()
    _choices: ClassVar[dict[str, tuple[str, ...]]] = {}
    # How the method's weight decay acts: "coupled", added to the gradient; "decoupled", on the weights before the
    # step, times the learning rate; "own", by the rule itself.
    _decay: ClassVar[str] = "coupled"
    # What `matches` stands for.
    _presets: ClassVar[Presets] = {}

    def __post_init__(self) -> None:
        positive(self, *self._positive)
        if self.weight_decay_mode is not None:
            one_of(self, "weight_decay_mode", self.weight_decay_mode, ("coupled", "decoupled"))
            if self._decay == "own":
                fail(self, "has a weight decay of its own: weight_decay_mode must be None")
        fraction(self, *self._fractions, *(["weight_decay"] if self._mode != "coupled" else []))
        for name in ("weight_decay", "l1", *self._nonnegative, *self._guards):
            if not at_least_zero(getattr(self, name)):
                fail(self, f"{name} must be a finite number >= 0, got {getattr(self, name)!r}")
        if self._guards and not any(getattr(self, name) for name in self._guards):
            fail(self, f"{self._guards[0]} must be > 0 where {self._guards[1]} is 0, got 0")
        for name, known in self._choices.items():
            one_of(self, name, getattr(self, name), known)
        positive(self, *[name for name in ("clip_value", "clip_norm") if getattr(self, name) is not None])

    @property
    def _mode(self) -> str:
        return self.weight_decay_mode or self._decay

    def __repr__(self) -> str:
        """The method's own settings, and the shared ones that were changed or that the class or library sets."""
        shared = {f.name: f.default for f in fields(Optimizer) if f.name != "learning_rate"}
        shown = [f.name for f in fields(self) if f.name not in shared]
        preset = preset_of(type(self), self.matches) if self.matches is not None else {}
        default = {f.name: f.default for f in fields(self)} | preset
        shown += [name for name in shared if not getattr(self, name) == default[name] == shared[name]]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

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
        members = self._fields(state.t + 1, numbers)
        try:
            extras = self._extras(gradient, state.t + 1)
            if extras and not math.isfinite(extras[0]):
                return
            _core.step(index, tuple([members[name] for name in names]), params, gradient, state.slots, extras)
        except ValueError as error:
            raise InputError(str(error).replace("_core", f"{type(self).__name__}.step", 1)) from None
        state.t += 1
        state.numbers = numbers

    def _extras(self, gradient: Array, t: int) -> Extras:
        """(scale, clip, l2, keep, l1) of the native sweep; None if nothing is to be done; scale NaN: skip the step."""
        decays = self.weight_decay != 0 and self._decay != "own"
        if not (decays or self.l1 or self.clip_value or self.clip_norm or self.skip_nonfinite):
            return None
        scale, learning_rate = 1.0, at(self.learning_rate, t)
        if self.clip_norm or self.skip_nonfinite:
            norm = math.sqrt(_core.sum_squares(gradient))
            if self.skip_nonfinite and not math.isfinite(norm):
                return (math.nan, 0.0, 0.0, 0.0, 0.0)
            if self.clip_norm and norm > self.clip_norm:
                scale = self.clip_norm / norm
        l2 = self.weight_decay if self._mode == "coupled" else 0.0
        keep = 1 - learning_rate * self.weight_decay if self._mode == "decoupled" else 1.0
        return (scale, self.clip_value or math.inf, l2, keep, learning_rate * self.l1)
