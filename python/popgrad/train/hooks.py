"""Calls the hooks of callbacks during a run of `popgrad.fit`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from popgrad.checks import fail
from popgrad.models import Model
from popgrad.objective import Around, Batch, Objective, Seen
from popgrad.train.callbacks import Callback, Record, TrainingRun
from popgrad.train.pauses import Pauses
from popgrad.train.trainer import Trainer

__all__ = ["Hooks", "checked_callbacks"]

Array = NDArray[Any]


@final
class _Function(Callback):
    """A function of (model, history) as a callback."""

    def __init__(self, function: Record) -> None:
        self._function = function

    def on_record(self, run: TrainingRun) -> Any:
        return self._function(run.model, run.history)


def checked_callbacks(callbacks: Iterable[Callback | Record] | Callback | Record) -> list[Callback]:
    """A list of callbacks, from one or several callbacks or functions.

    Raises:
        InputError: one is neither a callback nor a function.
    """
    listed = list(callbacks) if isinstance(callbacks, Iterable) else [callbacks]
    found = []
    for callback in listed:
        if isinstance(callback, type) or not (isinstance(callback, Callback) or callable(callback)):
            fail("fit", f"callbacks must be pg.Callback or functions of (model, history), got {callback!r}")
        found.append(callback if isinstance(callback, Callback) else _Function(callback))
    return found


@final
class Hooks:
    """The hooks of all callbacks of a run.

    Args:
        callbacks: the callbacks, in the order in which they are called.
        model: the model that `popgrad.fit` trains.
        trainer: its trainer, before the first record. If a callback has a hook of batches, generations or gradients,
            the trainer's `before_step` is set, and its objective is wrapped.
    """

    def __init__(self, callbacks: list[Callback], model: Model, trainer: Trainer) -> None:
        self.run = TrainingRun(model, trainer)
        self._callbacks = callbacks
        self._warned = False
        searches = trainer.method.kind == "search"
        self._begin = [*(["on_generation_begin"] if searches else []), "on_batch_begin"]
        self._end = ["on_batch_end", *(["on_generation_end"] if searches else [])]
        per_step = self._has(*self._begin, *self._end)
        if self._has("on_grad_computed"):
            trainer.objective.inner = _Watched(trainer.objective.inner, self._on_gradient)
            per_step = True
        if per_step:
            trainer.before_step = self._before_step

    def _has(self, *names: str) -> bool:
        """Whether a callback overrides one of these hooks."""
        return any(_overrides(callback, name) for callback in self._callbacks for name in names)

    def _call(self, name: str, changes: bool = False) -> None:
        """Call a hook of every callback that overrides it, and end the run if one returns True.

        Args:
            name: the hook.
            changes: whether the run continues from the parameters that a callback leaves in the model. The next
                callback then sees the record of these parameters.
        """
        for callback in self._callbacks:
            if _overrides(callback, name):
                before = self.run.model.params.tobytes() if changes else b""
                answer = getattr(callback, name)(self.run)
                if isinstance(answer, (bool, np.bool_)) and answer:
                    self.run.trainer.stop("a callback ended the run")
                if changes:
                    self._adopt(before)

    # --- Called by fit ----------------------------------------------------------------------------------------------

    def train_begin(self) -> None:
        """Call `on_train_begin`."""
        self._call("on_train_begin")

    def record(self) -> None:
        """Call `on_record`."""
        self._call("on_record", changes=True)

    def train_end(self) -> None:
        """Call `on_train_end`."""
        self._call("on_train_end")

    def pauses(self) -> list[Pauses]:
        """The pauses at which hooks are due."""
        found: list[Pauses] = []
        if self.run.trainer.before_step is not None:
            found.append(_Every(1, self._after_step))
        if self._has("on_epoch_begin", "on_epoch_end"):
            batches = self.run.trainer.batches
            found.append(_Every(math.ceil(batches.samples / batches.size), self._between_epochs))
        return found

    # --- Called by the trainer --------------------------------------------------------------------------------------

    def _before_step(self, batch: Batch) -> None:
        self.run.batch = batch
        for name in self._begin:
            self._call(name)

    def _on_gradient(self, gradient: Array, loss: float) -> None:
        self.run.gradient, self.run.loss = gradient, loss
        self._call("on_grad_computed")
        self.run.gradient = self.run.loss = None

    def _after_step(self, first: bool) -> None:
        if not first:
            self._with_current(*self._end)
            self.run.batch = None

    def _between_epochs(self, first: bool) -> None:
        if not first:
            self._with_current("on_epoch_end")
        if _may_step(self.run.trainer):
            self._with_current("on_epoch_begin")

    def _with_current(self, *names: str) -> None:
        """Call hooks while the model has the current parameters."""
        trainer = self.run.trainer
        self.run.model.params = trainer.method.recommend(trainer.state)
        for name in names:
            self._call(name, changes=True)

    def _adopt(self, before: bytes) -> None:
        """Continue from the model's parameters if they are not the bytes `before`."""
        params = self.run.model.params
        if params.tobytes() == before or self.run.trainer.move_to(params) or self._warned:
            return
        self._warned = True
        warnings.warn(
            "[fit] a callback changed model.params; a search continues from its own candidates and ignores the change",
            stacklevel=6,
        )


@final
class _Every:
    """A pause before the first step of this process, and at every whole multiple of a number of steps.

    Args:
        every: the number of steps.
        act: function to call, with whether this is the first pause.
    """

    def __init__(self, every: int, act: Callable[[bool], None]) -> None:
        self._every, self._act = every, act
        self._step = -1  # of the last pause

    def due(self, step: int, seconds: float) -> bool:
        """See `popgrad.train.pauses.Pauses`."""
        return step != self._step and (self._step < 0 or step % self._every == 0)

    def steps_left(self, step: int) -> int:
        """See `popgrad.train.pauses.Pauses`."""
        return self._every - step % self._every

    def on_pause(self, trainer: Trainer) -> None:
        """See `popgrad.train.pauses.Pauses`."""
        first, self._step = self._step < 0, trainer.step
        self._act(first)


@final
class _Watched(Around):
    """An objective that calls a function after every gradient, with the gradient and the loss."""

    def __init__(self, inner: Objective, on_gradient: Callable[[Array, float], None]) -> None:
        super().__init__(inner)
        self._on_gradient = on_gradient

    def gradient(self, w: Array, batch: Batch, out: Array) -> float:
        loss = self.inner.gradient(w, batch, out)
        self._on_gradient(out, loss)
        return loss

    def seen_gradient(self, w: Array, batch: Batch, out: Array) -> Seen:
        seen = self.inner.seen_gradient(w, batch, out)
        self._on_gradient(out, seen.loss)
        return seen


def _overrides(callback: Callback, name: str) -> bool:
    return getattr(type(callback), name) is not getattr(Callback, name)


def _may_step(trainer: Trainer) -> bool:
    """Whether the run goes on: it was not stopped, and the budget allows another step."""
    if trainer.history.reason:
        return False
    cost = trainer.method.cost(trainer.objective, trainer.batches.at(trainer.step + 1), trainer.state)
    used = trainer.used
    return trainer.budget.allows(used.forwards + cost.forwards, used.evaluations + cost.evaluations, used.seconds)
