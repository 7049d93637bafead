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
from popgrad.layout import Layout, checked_layout
from popgrad.optim._optimizer import Optimizer, State
from popgrad.optim._presets import Library, Matching, Presets, preset_of

__all__ = ["NativeOptimizer", "Optimizer", "Schedule", "State", "at"]

Array = NDArray[Any]
Schedule = Callable[[int], float]
Extras = tuple[float, float, float, float, float, float] | None

RULES = _core.step_rules()
_SKIP: Extras = (math.nan,) * 6  # the step is not to be done
_LEAST_FOR_BYTES = 4096  # smaller vectors keep their states in float32: there is nothing to save


def at(value: float | Schedule, t: int) -> float:
    """A hyper-parameter at step t (1, 2, ...): itself, or what its schedule says."""
    return float(value(t)) if callable(value) else value


@dataclass(frozen=True)
class NativeOptimizer(Optimizer, metaclass=Matching):
    """An optimizer whose step is a rule of the native core. Subclasses hold the hyper-parameters and name the rule.

    All share these, by keyword; they cost no extra pass over the parameters, but for the norm.

    Args:
        weight_decay: lambda >= 0, acting as ``weight_decay_mode`` says. Decoupled, it must not take more than the whole
            weight in a step: learning_rate lambda <= 1.
        weight_decay_mode: "coupled": lambda w is added to the gradient. "decoupled": w *= 1 - learning_rate lambda
            before the step. "independent": w *= 1 - lambda learning_rate / max_learning_rate, so that lambda does not
            change its meaning with the learning rate. None: as the method defines it, "coupled" unless it says so.
        max_learning_rate: for "independent" with a schedule: the largest value of that; > 0.
        l1: strength >= 0 of a penalty ``l1 * sum |w|``, by its proximal step after the update (soft thresholding by
            learning_rate * l1), which makes weights exactly zero.
        clip_value: every gradient is limited to [-clip_value, clip_value]; > 0.
        clip_norm: the gradient is scaled down to this Euclidean norm if it is longer; > 0. Before clip_value.
        skip_nonfinite: leave parameters and state as they are where the gradient holds NaN or infinity.
        ema_decay: in [0, 1); keep the running average ``a = ema_decay a + (1 - ema_decay) w`` of the parameters, which
            begins with those after the first step; `solution` returns it.
        state_dtype: how the state of float32 parameters is stored. None: float32. "bfloat16": half the bytes.
            "8bit": a quarter, as powers of a byte in blocks of 256 with a common scale, for `Momentum`, `HeavyBall`,
            `Lion`, `Adam` and `AdamW`; below 4,096 parameters float32. Both round up or down by chance, a function of
            the step and the place, so that small changes are not lost (Dettmers et al., arXiv:2110.02861, for blocks).
        matches: "torch", "optax" or "keras": what is not given takes that library's value, and steps are the same as
            its own. optax has no default learning rate, and no library one for a momentum: the class's stays.
            A schedule is called with 0 at the first step, as in these libraries, and with 1 without ``matches``.

    Raises:
        InputError: a value is out of range, or the library that it shall match has no such optimizer.
    """

    learning_rate: float | Schedule
    weight_decay: float = field(default=0.0, kw_only=True)
    weight_decay_mode: Literal["coupled", "decoupled", "independent"] | None = field(default=None, kw_only=True)
    max_learning_rate: float | None = field(default=None, kw_only=True)
    l1: float = field(default=0.0, kw_only=True)
    clip_value: float | None = field(default=None, kw_only=True)
    clip_norm: float | None = field(default=None, kw_only=True)
    skip_nonfinite: bool = field(default=False, kw_only=True)
    ema_decay: float | None = field(default=None, kw_only=True)
    state_dtype: Literal["bfloat16", "8bit"] | None = field(default=None, kw_only=True)
    matches: Library | None = field(default=None, kw_only=True)

    # The native rule, and what its states are called; an option may choose another one for an instance.
    rule: ClassVar[str]
    state_names: ClassVar[tuple[str, ...]] = ()
    # Hyper-parameters that must be > 0 (or schedules), those that must be in [0, 1), and those that may be 1 as well.
    _positive: ClassVar[tuple[str, ...]] = ("learning_rate",)
    _fractions: ClassVar[tuple[str, ...]] = ()
    _shares: ClassVar[tuple[str, ...]] = ()
    # Those that must be >= 0, and those of which one must be > 0 as well: what keeps a step from dividing by zero.
    _nonnegative: ClassVar[tuple[str, ...]] = ()
    _guards: ClassVar[tuple[str, ...]] = ()
    _choices: ClassVar[dict[str, tuple[str, ...]]] = {}
    # How the method's weight decay acts ("own": by the rule itself), and what weight_decay_mode may say instead.
    _decay: ClassVar[str] = "coupled"
    _modes: ClassVar[tuple[str, ...]] = ("coupled", "decoupled", "independent")
    # What `State.numbers` begins with, and a row of `State.kept`.
    _numbers: ClassVar[dict[str, float]] = {}
    # Bytes a parameter that the first of two sweeps moves, in float32.
    _first_sweep: ClassVar[int] = 0
    _bare: ClassVar[bool]
    # What `matches` stands for.
    _presets: ClassVar[Presets] = {}

    def __post_init__(self) -> None:
        positive(self, *self._positive)
        fraction(self, *self._fractions, *(["ema_decay"] if self.ema_decay is not None else []))
        for name in ("weight_decay", "l1", *self._nonnegative, *self._guards):
            if not at_least_zero(getattr(self, name)):
                fail(self, f"{name} must be a finite number >= 0, got {getattr(self, name)!r}")
        if self._guards and not any(getattr(self, name) for name in self._guards):
            fail(self, f"{self._guards[0]} must be > 0 where {self._guards[1]} is 0, got 0")
        for name in self._shares:
            if not (at_least_zero(getattr(self, name)) and getattr(self, name) <= 1):
                fail(self, f"{name} must be in [0, 1], got {getattr(self, name)!r}")
        for name, known in self._choices.items():
            one_of(self, name, getattr(self, name), known)
        optional = ("clip_value", "clip_norm", "max_learning_rate")
        positive(self, *[name for name in optional if getattr(self, name) is not None])
        if self.weight_decay_mode is not None:
            if not self._modes:
                fail(self, "has a weight decay of its own: weight_decay_mode must be None")
            one_of(self, "weight_decay_mode", self.weight_decay_mode, self._modes)
        if self._mode == "independent" and callable(self.learning_rate) and self.max_learning_rate is None:
            fail(self, 'weight_decay_mode="independent" with a schedule needs max_learning_rate')
        if not callable(self.learning_rate):
            self._check_shrinkage(1)
        if self.state_dtype is not None:
            one_of(self, "state_dtype", self.state_dtype, ("bfloat16", "8bit"))
            _, _, sums, _, positive_states, _ = RULES[self.rule]
            if sums or (self.state_dtype == "8bit" and positive_states < 0):
                fail(self, f"its state cannot be kept in {self.state_dtype}: state_dtype must be None")
        decays = self.weight_decay != 0 and self._mode != "own"
        around = (self.l1, self.clip_value, self.clip_norm, self.skip_nonfinite, self.ema_decay is not None, decays)
        # Known once, for steps of small networks: nothing is to be done around the rule.
        object.__setattr__(self, "_bare", not any(around))

    @property
    def _mode(self) -> str:
        return self.weight_decay_mode or self._decay

    def __repr__(self) -> str:
        """The hyper-parameters, and the options that were changed or that the class or library sets."""
        shared = {f.name: f.default for f in fields(NativeOptimizer) if f.name != "learning_rate"}
        preset = preset_of(type(self), self.matches) if self.matches is not None else {}
        default = {f.name: f.default for f in fields(self)} | preset
        shown = [f.name for f in fields(self) if not f.kw_only]
        shown += [
            f.name
            for f in fields(self)
            if f.kw_only and not getattr(self, f.name) == default[f.name] == shared.get(f.name, default[f.name])
        ]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def _at(self, value: float | Schedule, t: int) -> float:
        """A hyper-parameter at step t (1, 2, ...); the libraries that `matches` names count steps from 0."""
        return at(value, t if self.matches is None else t - 1)

    @abstractmethod
    def _fields(self, t: int, numbers: dict[str, float]) -> dict[str, float]:
        """The members of the native rule at step t, by name. What is to be carried on goes into `numbers`."""

    def init(self, params: Array, layout: Layout | None = None) -> State:
        """See `Optimizer.init`."""
        where = f"{type(self).__name__}.init"
        if not isinstance(params, np.ndarray) or params.ndim != 1 or params.dtype not in (np.float32, np.float64):
            got = f"{params.dtype} {params.shape}" if isinstance(params, np.ndarray) else type(params).__name__
            fail(where, f"params must be a float32 or float64 array (n,), got {got}")
        if self.state_dtype is not None and params.dtype != np.float32:
            fail(where, f"state_dtype={self.state_dtype!r} needs float32 parameters, got {params.dtype}")
        n, k, stored = len(params), len(self.state_names), params.dtype
        bytes_ = self.state_dtype == "8bit" and n >= _LEAST_FOR_BYTES
        if self.state_dtype == "bfloat16":
            stored = np.dtype(np.uint16)
        elif bytes_:
            stored = np.dtype(np.uint8)
        state = State(aligned((k, n), stored), 0, dict(self._numbers))
        if bytes_:
            state.scales = aligned((k, -(-n // 256)), np.float32)
        if self.ema_decay is not None:
            state.average = aligned(n, params.dtype)
        _, _, sums, kept, _, _ = RULES[self.rule]
        tensors = checked_layout(where, layout, n).tensors
        if sums:
            whole = layout is None  # a vector without structure has its steps adapted, as one matrix
            adapted = [(tensor.size, whole or self._adapts(len(tensor.shape))) for tensor in tensors]
            state.layers = np.array(adapted, np.int64)
            state.kept = np.tile(np.array(self._kept(), np.float64), (len(tensors), 1))
            assert state.kept.shape[1] == kept
        return state

    def _adapts(self, dimensions: int) -> bool:
        """Whether a tensor with so many dimensions has its steps adapted to it."""
        return True

    def _kept(self) -> list[float]:
        """A row of `State.kept` before the first step."""
        return [0.0] * RULES[self.rule][3]

    def _decoupled(self, t: int) -> float:
        """The share of the weights that decoupled decay takes away at step t."""
        if self._mode == "decoupled":
            return self._at(self.learning_rate, t) * self.weight_decay
        if self._mode == "independent":
            rate = self._at(self.learning_rate, t)
            return self.weight_decay * rate / (self.max_learning_rate or rate or 1.0)
        return 0.0

    def _shrinkage(self, t: int) -> float:
        """The share of the weights that is taken away at step t, whatever the gradient."""
        return self._decoupled(t)

    def _check_shrinkage(self, t: int) -> None:
        if (share := self._shrinkage(t)) > 1:
            name = "weight_decay" if self._decoupled(t) > 0 else "decay"
            fail(self, f"{name} times the learning rate must be <= 1, lest weights change their sign, got {share!r}")

    def _check_schedules(self, t: int) -> None:
        """Fail unless the values of all schedules at step t are valid."""
        for name in self._positive:
            if callable(schedule := getattr(self, name)):
                if not at_least_zero(scheduled := self._at(schedule, t)):
                    fail("schedule", f"must give a finite number >= 0 at step {t}, got {scheduled!r}")
                self._check_shrinkage(t)

    def step(self, params: Array, gradient: Array, state: State, *, loss_scale: float = 1.0) -> None:
        """See `Optimizer.step`."""
        index, _, _, _, _, names = RULES[self.rule]
        numbers, t = dict(state.numbers), state.t + 1
        if numbers.keys() != self._numbers.keys() or (state.average is None) != (self.ema_decay is None):
            fail(f"{type(self).__name__}.step", "state must be the one that this optimizer's init made")
        self._check_schedules(t)
        members = self._fields(t, numbers)
        try:
            extras = self._extras(gradient, t, loss_scale)
            if extras is _SKIP:
                return
            fields = tuple([members[name] for name in names])
            more = (extras, state.average, state.scales, state.layers, state.kept, t)
            _core.step(index, fields, params, gradient, state.slots, *more)
        except ValueError as error:
            raise InputError(str(error).replace("_core", f"{type(self).__name__}.step", 1)) from None
        state.t = t
        state.numbers = numbers

    def solution(self, params: Array, state: State) -> Array:
        """See `Optimizer.solution`."""
        return params if state.average is None or state.t == 0 else state.average

    @property
    def bytes_per_parameter(self) -> float:
        """See `Optimizer.bytes_per_parameter`."""
        width = {None: 4.0, "bfloat16": 2.0, "8bit": 1 + 4 / 256}[self.state_dtype]
        total = 12 + 2 * width * len(self.state_names) + 8 * (self.ema_decay is not None)
        return total + self._first_sweep + 4 * (self.clip_norm is not None or self.skip_nonfinite)

    def _extras(self, gradient: Array, t: int, loss_scale: float = 1.0) -> Extras:
        """(scale, clip, l2, decay, l1, mix) of the native sweep; None if nothing is to be done; _SKIP to skip it."""
        if self._bare and loss_scale == 1:
            return None
        if not (loss_scale > 0 and math.isfinite(loss_scale)):
            raise ValueError(f"[_core] loss_scale must be a finite number > 0, got {loss_scale!r}")
        scale, learning_rate = 1.0 / loss_scale, self._at(self.learning_rate, t)
        if self.clip_norm or self.skip_nonfinite:
            norm = math.sqrt(_core.sum_squares(gradient)) / loss_scale
            if self.skip_nonfinite and not math.isfinite(norm):
                return _SKIP
            if self.clip_norm and norm > self.clip_norm:
                scale *= self.clip_norm / norm
        l2 = self.weight_decay if self._mode == "coupled" else 0.0
        mix = 0.0 if self.ema_decay is None else 1.0 if t == 1 else 1 - self.ema_decay
        return (scale, self.clip_value or math.inf, l2, self._decoupled(t), learning_rate * self.l1, mix)
