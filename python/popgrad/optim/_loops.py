"""Spans of steps in native loops, for optimizers whose steps are rules of the native core."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Iterable, Mapping
from typing import ClassVar, NamedTuple, NoReturn, cast

from popgrad import _core
from popgrad.checks import InputError, fail
from popgrad.objective import Batch, Objective, Span, Steps
from popgrad.optim._optimizer import Array, Descent, Optimizer

__all__ = ["Looping", "Tables"]

_MOST_STEPS = 4096  # in a table of plans
_LEAST_STEPS = 1024  # a table costs as much as some steps of a small network, so that short spans share one


class Tables(NamedTuple):
    """The plans of consecutive steps, for a native loop.

    Attributes:
        plans: for each plan that ``State.layers`` names, its fields (count, fields) and its extras (count, k) or None,
            see `StepTable`.
        numbers: for each of ``State.numbers``, its values (count,) float64 after each step.
    """

    plans: list[tuple[Array, Array | None]]
    numbers: dict[str, Array]

    def after(self, taken: int, numbers: Mapping[str, float]) -> Tables | None:
        """The plans after the first ones; None if none is left, or if the numbers are not those after these steps."""
        if not 0 < taken < len(self.plans[0][0]):
            return None
        if any(values[taken - 1] != numbers[name] for name, values in self.numbers.items()):
            return None
        plans = [(fields[taken:], None if extras is None else extras[taken:]) for fields, extras in self.plans]
        return Tables(plans, {name: values[taken:] for name, values in self.numbers.items()})


class Looping(Optimizer):
    """An optimizer whose steps a native loop can take, many at a time."""

    # Whether a step needs only the gradient of its batch, so that a native loop can take many steps.
    is_plain: ClassVar[bool] = True

    @property
    @abstractmethod
    def native_rule(self) -> _core.StepRule:
        """The native rule that computes the steps."""

    @property
    @abstractmethod
    def plans_ahead(self) -> bool:
        """Whether the plans of all steps are known in advance, since no schedule is a function of the user."""

    @abstractmethod
    def tables(self, first: int, count: int, numbers: Mapping[str, float]) -> Tables:
        """The plans of the steps `first`, `first` + 1, ..., at most `count`; see `NativeOptimizer.table`."""

    def loops(
        self, objective: Objective, batches: Iterable[Batch] | Steps, state: Descent
    ) -> Generator[_core.Training]:
        """See `popgrad.Method.loops`: spans of steps, as many as a table of plans holds."""
        if not self.is_plain or not isinstance(batches, Steps) or objective.lacks("training") is not None:
            yield from super().loops(objective, batches, state)
            return
        inner = state.optimizer
        while (span := batches.span()) is not None:
            tables = self._next_tables(state, span.steps)
            loop = self._loop(objective, span, state)
            loop.begin(tables.plans, inner.t + 1, span.first, span.steps, span.seconds)
            try:
                yield loop
            finally:
                if (taken := loop.taken) > 0:
                    inner.t += taken
                    inner.numbers = {name: float(values[taken - 1]) for name, values in tables.numbers.items()}
                state.failed = loop.failed
                objective.trained(loop, span)
                batches.took(loop.steps)
        # What is left must be taken one by one.
        yield from super().loops(objective, batches, state)

    def _next_tables(self, state: Descent, steps: int) -> Tables:
        """The plans of the next steps, which may be fewer or more than `steps`."""
        inner = state.optimizer
        if state.tables is not None:
            first, known = cast(tuple[int, Tables], state.tables)
            if (left := known.after(inner.t + 1 - first, inner.numbers)) is not None:
                return left
        count = max(steps, _LEAST_STEPS) if self.plans_ahead else steps
        tables = self.tables(inner.t + 1, min(count, _MOST_STEPS), inner.numbers)
        state.tables = (inner.t + 1, tables) if self.plans_ahead else None
        return tables

    def _loop(self, objective: Objective, span: Span, state: Descent) -> _core.Training:
        """The native loop for these batches; the same one as before, if it is for the same ones."""
        for_objects, for_batches = (objective, state.optimizer), (span.batch_size, span.seed)
        known = state.loop[:2] and all(a is b for a, b in zip(state.loop, for_objects, strict=False))
        if not (known and state.loop[2:4] == for_batches):
            loop = objective.training(state.w, state.gradient, state.optimizer, self.native_rule, span)
            state.loop = (*for_objects, *for_batches, loop)
        return cast(_core.Training, state.loop[-1])

    def failing(self, message: str) -> NoReturn:
        """Raise an error of `step`."""
        fail(f"{type(self).__name__}.step", message)

    def failing_natively(self, error: ValueError) -> NoReturn:
        """Raise an error of the native core as one of `step`."""
        raise InputError(str(error).replace("_core", f"{type(self).__name__}.step", 1)) from None
