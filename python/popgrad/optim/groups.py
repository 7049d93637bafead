"""Settings per layer: one optimizer steps each group of tensors with its own settings."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, final

from popgrad import _core
from popgrad.checks import fail, number
from popgrad.layout import Layout
from popgrad.optim._base import NativeOptimizer
from popgrad.optim._layers import first_state
from popgrad.optim._loops import Looping, Tables
from popgrad.optim._optimizer import Array, State
from popgrad.schedules import Reacting, Schedule

__all__ = ["Groups"]

_FACTOR = "learning_rate_factor"
_COMMON = {  # settings that may not differ, and why
    "state_dtype": "the states of all tensors are stored in one array",
    "matches": "it sets the defaults of the optimizer",
    "clip_norm": "it limits the norm of all gradients together",
    "skip_nonfinite": "it skips the step of all tensors together",
}
# What may differ where sums over all tensors set the learning rate, as in Prodigy.
_AROUND = ("weight_decay", "l1", "clip_value", "ema_decay", "max_norm", "gradient_noise", "noise_seed")


@final
@dataclass(frozen=True)
class Groups(Looping):
    """An optimizer whose settings differ between the tensors of a model.

    For example, no weight decay for biases, and a tenth of the learning rate for the first layer::

        pg.optim.Groups({"*.bias": {"weight_decay": 0}, "0.*": {"learning_rate_factor": 0.1}}, pg.optim.AdamW())

    The first pattern that matches the name of a tensor counts; tensors without one have the settings of `inner`. With
    an empty mapping, all bits are those of `inner`. To use a wrapper such as `Lookahead`, wrap the groups:
    ``Lookahead(Groups(...))``. Freeze tensors with ``model.freeze``.

    Args:
        settings: for each pattern over names of tensors, such as "0.weight", "*.bias" or "0.*" (see `fnmatch`), keyword
            arguments of the class of `inner`. A value may be a schedule. "learning_rate_factor" multiplies the
            learning rate of `inner`, a number or a schedule. clip_norm, skip_nonfinite, state_dtype and matches act on
            all tensors together and cannot differ, nor whether there is an ema_decay.
        inner: an optimizer that steps along one gradient, such as `Adam`. `Prodigy` and `DoG`, whose learning rate
            comes from all tensors together, accept only weight_decay, l1, clip_value, ema_decay, max_norm and
            gradient_noise.

    State: that of `inner`; ``numbers`` holds the numbers of group k = 1, 2, ... as "k.name".

    Raises:
        InputError: a setting is unknown, out of range or cannot differ, or `inner` is a wrapper. At `init`: there is no
            layout, or a pattern matches no tensor.
    """

    settings: Mapping[str, Mapping[str, Any]]
    inner: NativeOptimizer
    _kinds: ClassVar[list[NativeOptimizer]]  # the settings of `inner`, and those that differ from it and one another
    _kind_of: ClassVar[dict[str, int]]  # index into them, by pattern

    def __post_init__(self) -> None:
        inner = self.inner
        if not isinstance(inner, NativeOptimizer):
            outer = type(inner).__name__
            hint = f"; wrap the groups instead: {outer}(Groups(...))" if hasattr(inner, "inner") else f", got {inner!r}"
            fail(self, f"inner must be an optimizer such as pg.optim.Adam(){hint}")
        if not inner.is_plain:
            fail(self, f"{type(inner).__name__} needs more than one gradient and has no settings per layer")
        if not isinstance(self.settings, Mapping):
            fail(self, f'settings must be a mapping such as {{"*.bias": {{"weight_decay": 0}}}}, got {self.settings!r}')
        kinds, kind_of = [inner], {}
        for pattern, given in self.settings.items():
            kind = self._kind(pattern, given)
            if kind not in kinds:
                kinds.append(kind)
            kind_of[pattern] = kinds.index(kind)
        own = {pattern: dict(given) for pattern, given in self.settings.items()}
        for name, value in {"settings": own, "_kinds": kinds, "_kind_of": kind_of}.items():
            object.__setattr__(self, name, value)

    def _kind(self, pattern: object, given: object) -> NativeOptimizer:
        """The optimizer with the settings of a pattern."""
        if not isinstance(pattern, str) or not isinstance(given, Mapping):
            fail(self, f"expected a pattern and a mapping of settings, got {pattern!r}: {given!r}")
        inner, known = self.inner, [f.name for f in fields(self.inner) if f.init]
        for name in given:
            if name not in (*known, _FACTOR):
                near = difflib.get_close_matches(str(name), [*known, _FACTOR], 1, 0)[0]
                fail(self, f"{type(inner).__name__} has no setting {name!r} (for {pattern!r}). Did you mean {near!r}?")
            if name in _COMMON and given[name] != getattr(inner, name):
                fail(self, f"{name} cannot differ between tensors, since {_COMMON[name]}; set it in inner")
            if name in inner.undivided or (inner.native_rule.whole and name not in _AROUND):
                what = type(inner).__name__
                fail(self, f"{name} of {what} cannot differ, since {what} needs one value for all tensors")
        kind = replace(inner, **self._with_rate(pattern, given))
        if (kind.ema_decay is None) != (inner.ema_decay is None):
            fail(self, "either all tensors have an ema_decay or none; set it in inner")
        if (kind.rule, kind.state_names) != (inner.rule, inner.state_names):
            fail(self, f"the settings of {pattern!r} need other states than inner: {', '.join(map(str, given))}")
        return kind

    def _with_rate(self, pattern: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings, with the factor of the learning rate applied."""
        if _FACTOR not in given:
            return dict(given)
        if "learning_rate" in given:
            fail(self, f"{pattern!r} has both learning_rate and {_FACTOR}")
        factor, rate, rest = number(given[_FACTOR]), self.inner.learning_rate, dict(given)
        del rest[_FACTOR]
        if not 0 < factor < float("inf"):
            fail(self, f"{_FACTOR} must be a finite number > 0, got {given[_FACTOR]!r}")
        if isinstance(rate, Reacting):
            fail(self, f"{_FACTOR} cannot scale {type(rate).__name__}, which follows records; set learning_rate")
        largest = self.inner.max_learning_rate
        if largest is not None:
            rest.setdefault("max_learning_rate", factor * largest)
        if isinstance(rate, Schedule):
            return rest | {"learning_rate": _Scaled(rate, factor)}
        return rest | {"learning_rate": _ScaledFunction(rate, factor) if callable(rate) else factor * rate}

    # --- Steps ------------------------------------------------------------------------------------------------------

    @property
    def native_rule(self) -> _core.StepRule:
        """The native rule of `inner`."""
        return self.inner.native_rule

    def init(self, params: Array, layout: Layout | None = None) -> State:
        """See `Optimizer.init`; requires a layout."""
        where = "Groups.init"
        if layout is None and self.settings:
            fail(where, "needs the names of the tensors: pass layout=model.layout")
        kinds: dict[str, int] = {}
        for pattern, kind in self._kind_of.items():
            assert layout is not None
            for name in layout.matching(where, pattern):
                kinds.setdefault(name, kind)
        plans = None if layout is None else [kinds.get(name, 0) for name in layout.shapes()]
        state = first_state(where, self._kinds, params, layout, plans)
        state.numbers = self._joined([dict(kind.first_numbers) for kind in self._kinds])
        return state

    @staticmethod
    def _joined(numbers: list[dict[str, Any]]) -> dict[str, Any]:
        """The numbers of all kinds, under the names in ``State.numbers``."""
        return {f"{k}.{name}" if k else name: x for k, own in enumerate(numbers) for name, x in own.items()}

    def _parted(self, numbers: Mapping[str, float]) -> list[dict[str, float]]:
        """The numbers of each kind."""
        if numbers.keys() != self._joined([dict(kind.first_numbers) for kind in self._kinds]).keys():
            self.failing("state must come from this optimizer's init")
        return [
            {name: numbers[f"{k}.{name}" if k else name] for name in kind.first_numbers}
            for k, kind in enumerate(self._kinds)
        ]

    def step(self, params: Array, gradient: Array, state: State, *, loss_scale: float = 1.0) -> None:
        """See `Optimizer.step`."""
        numbers, t = self._parted(state.numbers), state.t + 1
        if (state.average is None) != (self.inner.ema_decay is None):
            self.failing("state must come from this optimizer's init")
        if not 0 < loss_scale < float("inf"):
            self.failing(f"loss_scale must be a finite number > 0, got {loss_scale!r}")
        plans = [kind.plan(t, own, loss_scale=loss_scale) for kind, own in zip(self._kinds, numbers, strict=True)]
        try:
            if not _core.step_groups(plans, params, gradient, state, t):
                return  # a gradient that is not finite
        except ValueError as error:
            self.failing_natively(error)
        state.t = t
        state.numbers = self._joined(numbers)

    @property
    def plans_ahead(self) -> bool:
        """See `Looping.plans_ahead`."""
        return all(kind.plans_ahead for kind in self._kinds)

    def tables(self, first: int, count: int, numbers: Mapping[str, float]) -> Tables:
        """See `NativeOptimizer.table`, for each group."""
        found = []
        for kind, own in zip(self._kinds, self._parted(numbers), strict=True):
            found.append(kind.table(first, count, own))
            count = len(found[-1].fields)  # a later step may have a value out of range
        plans = [(table.fields[:count], None if table.extras is None else table.extras[:count]) for table in found]
        return Tables(plans, self._joined([table.numbers for table in found]))

    def notice(self, state: State, value: float) -> None:
        """See `Optimizer.notice`: every group has its own schedules."""
        parts = self._parted(state.numbers)
        for k, kind in enumerate(self._kinds):
            own = State(state.slots, state.t, parts[k])
            kind.notice(own, value)
            parts[k] = own.numbers
        state.numbers = self._joined(parts)

    def solution(self, params: Array, state: State) -> Array:
        """See `Optimizer.solution`."""
        return self.inner.solution(params, state)

    def restart(self, params: Array, state: State, target: Array) -> None:
        """See `Optimizer.restart`."""
        self.inner.restart(params, state, target)

    @property
    def bytes_per_parameter(self) -> float:
        """That of `inner`."""
        return self.inner.bytes_per_parameter


@final
@dataclass(frozen=True)
class _Scaled(Schedule):
    """A schedule times a factor."""

    schedule: Schedule
    factor: float

    def value_at(self, t: Any) -> Any:
        return self.factor * self.schedule.value_at(t)


@final
@dataclass(frozen=True)
class _ScaledFunction:
    """A function of the step, times a factor."""

    function: Callable[[int], float]
    factor: float

    def __call__(self, t: int) -> float:
        return self.factor * self.function(t)
