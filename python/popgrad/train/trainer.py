"""The training loop: `Trainer` applies a method to an objective within a budget, and yields records."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, fields, replace
from typing import Any, Literal, Self, final

import numpy as np
from numpy.typing import NDArray

from popgrad import _core
from popgrad.budget import DEFAULT_EPOCHS, GRADIENT_FORWARDS, Budget, Cost, Used, default_budget
from popgrad.checks import fail, one_of, positive_int, whole_seed
from popgrad.method import Method
from popgrad.objective import Batch, Metered, Objective, Running, Span, Steps
from popgrad.racing import Racing
from popgrad.state import flatten, restored
from popgrad.train.batches import Batches
from popgrad.train.pauses import Pauses
from popgrad.train.records import History, Last, Marks, Recorder, improving

__all__ = ["Precision", "Trainer"]

Array = NDArray[Any]
Precision = Literal["float32", "float64", "bfloat16"]

_LONGEST_CALL = 0.1  # seconds of native steps, if something may be due at any time


@final
class Trainer:
    """Trains parameters; iteration yields the history after each record, beginning with the untrained parameters.

    `popgrad.fit` iterates over a trainer. A run that was stopped at any record and resumed gives the same bits as an
    uninterrupted run::

        trainer = pg.Trainer(model.objective(X, y), optimizer, model.params, epochs=20)
        for history in trainer:
            print(history.forwards[-1], history.loss[-1])
            state = trainer.state_dict()

    Args:
        objective: objective on the training samples.
        method: a method of `popgrad.optim` or `popgrad.search`.
        w: (n,) initial parameters; not changed.
        held: the same objective on the validation samples, or None.
        last: last state of an earlier run, which this trainer continues with a new history.

    For the other arguments, see `popgrad.fit`.

    Attributes:
        history: history of the run so far.
        params: (n,) parameters of the last record.
        pauses: steps at which the trainer interrupts its stretch of steps, such as for checkpoints; None for none.
        before_step: function of the batch that is called before every step, or None. It may call `stop`; the step is
            then not taken.

    Raises:
        InputError: an argument is invalid.
    """

    def __init__(
        self,
        objective: Objective,
        method: Method,
        w: Array,
        *,
        held: Objective | None = None,
        epochs: int | None = None,
        batch_size: int | Literal["auto"] | None = "auto",
        budget: Budget | None = None,
        seed: int = 0,
        select: Literal["loss", "metric"] | None = None,
        record_every: int | Sequence[int] | NDArray[np.integer[Any]] | None = None,
        racing: Racing | None = None,
        record: Literal["running", "full"] = "running",
        precision: Precision | None = None,
        last: Last | None = None,
    ) -> None:
        if not isinstance(method, Method):
            fail("Trainer", f"method must be one of popgrad.optim or popgrad.search, got {type(method).__name__}")
        if select is not None:
            one_of("fit", "select", select, ("loss", "metric"))
        one_of("fit", "record", record, ("running", "full"))
        seed = whole_seed("fit", seed)
        epochs = None if epochs is None else positive_int("fit", "epochs", epochs)
        if budget is not None and not isinstance(budget, Budget):
            fail("fit", f"budget must be a popgrad.Budget, got {budget!r}")
        if racing is not None and not isinstance(racing, Racing):
            fail("fit", f"racing must be a popgrad.Racing, such as pg.Racing(keep=0.5), got {racing!r}")
        self._check_objectives(objective, held, w if last is None else method.recommend(last.state))
        if precision is not None:
            objective = _in_precision(objective, method, precision)
        self.objective = Metered(objective if racing is None else racing.over(objective, seed))
        self.method = method
        method.check("fit", self.objective)
        samples = objective.samples
        size = method.default_batch_size if batch_size == "auto" else batch_size
        self.batches = Batches(
            samples, samples if size is None else min(positive_int("fit", "batch_size", size), samples), seed
        )
        # With full batches, the running figures would be those of the parameters before the last step.
        self._full = record == "full" or objective.size(self.batches.at(1)) == samples
        self.state = method.prepare(objective, w, seed) if last is None else _copied(method, last)
        self.step = 0 if last is None else last.step
        self._seen = 0  # samples of all batches so far
        self._seconds = 0.0
        self._done = False
        self._limit(samples, epochs, budget, record_every)
        self._recorder = Recorder(objective, held, select)
        self.pauses: Pauses | None = None
        self.before_step: Callable[[Batch], None] | None = None

    @staticmethod
    def _check_objectives(objective: Objective, held: Objective | None, w: Array) -> None:
        if not isinstance(objective, Objective) or not isinstance(held, (Objective, type(None))):
            got = type(held if isinstance(objective, Objective) else objective).__name__
            fail("Trainer", f"objectives must be popgrad.Objective, such as model.objective(X, y), got {got}")
        objective.layout.check_vector("fit", len(w))
        objective.check("fit", w=w)
        if held is not None:
            held.check("fit")
        if not np.isfinite(w).all():
            fail("fit", "the parameters of the untrained model are not finite; initialize the model anew")

    def _limit(self, samples: int, epochs: int | None, budget: Budget | None, record_every: Any) -> None:
        """Set the budget and the schedule of records.

        Raises:
            InputError: the budget does not allow one step.
        """
        began = time.perf_counter()
        cost = self.method.cost(self.objective, self.batches.at(self.step + 1), self.state)
        first = Used(cost.forwards, cost.evaluations, time.perf_counter() - began)
        epoch = GRADIENT_FORWARDS * samples
        if budget is None and epochs is None:
            budget = default_budget(samples, self.method.least_steps * first.forwards)
            epochs = DEFAULT_EPOCHS if budget.forwards == DEFAULT_EPOCHS * epoch else None
        elif epochs is not None:
            limit = float(epochs * epoch)
            if budget is None:
                budget = Budget(limit)
            elif budget.forwards is None or budget.forwards > limit:
                budget = replace(budget, forwards=limit)
            else:
                epochs = None
        assert budget is not None
        _check_first(budget, first, epochs, epoch)
        self.budget, self.epochs = budget, epochs  # epochs: None unless they limit the forwards
        self._marks = Marks(record_every, epoch, budget.affordable(first), budget.seconds)

    # --- The loop ---------------------------------------------------------------------------------------------------

    @property
    def history(self) -> History:
        """The history of the run so far."""
        return self._recorder.history

    @property
    def params(self) -> Array:
        """The parameters (n,) of the last record."""
        return self._recorder.params

    @property
    def validates(self) -> bool:
        """Whether there are validation samples."""
        return self._recorder.held is not None

    @property
    def used(self) -> Used:
        """The forwards, evaluations and seconds used so far."""
        return Used(self.objective.forwards, self.objective.evaluations, self._seconds)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> History:
        with closing(self.stretch()) as loops:
            for loop in loops:
                _core.train([loop])
        if self._done:
            raise StopIteration
        return self.history

    @property
    def done(self) -> bool:
        """Whether the run has ended."""
        return self._done

    def stretch(self) -> Generator[_core.Training]:
        """What `next` does, for a caller that runs the native loops of several trainers at once.

        Yields native loops, see `popgrad.Method.loops`. At its end, the history has another record, unless `done`.
        """
        if self._done:
            return
        if not self.history.loss:
            self._record(None)
            return
        yield from self._loops()
        if self.objective.forwards == self.history.forwards[-1]:
            self.finish()
            return
        self._record(None if self._full else self.objective.running)
        self.method.after_record(self.state, self.history.objective[-1])
        self._marks.advance(self.used)

    def _record(self, running: Running | None) -> None:
        self._recorder.record(self.method.recommend(self.state), self.used, running)
        self.objective.running = Running()

    def _loops(self) -> Generator[_core.Training]:
        """The steps up to the next record or the end of the run, with all pauses on the way; see `Method.loops`."""
        self._pause()  # at the step of the last record
        while not self.history.reason:
            yield from self.method.loops(self.objective, _Stretch(self), self.state)
            self.history.nonfinite = self.objective.nonfinite
            if self.history.reason or self.mark_reached:
                return
            self._pause()

    @property
    def mark_reached(self) -> bool:
        """Whether a record is due."""
        return self._marks.reached(self.objective.forwards, self._seconds)

    def _pause(self) -> None:
        if self.pauses is not None and self.pauses.due(self.step, self._seconds):
            self.pauses.on_pause(self)

    def affords(self, cost: Cost) -> bool:
        """Whether the budget allows a step of this cost; if not, the history has the reason."""
        meter = self.objective
        limit = self.budget.exceeded(
            meter.forwards + cost.forwards, meter.evaluations + cost.evaluations, self._seconds
        )
        if limit is not None:
            self.history.reason = self._why_it_ended(limit)
        return limit is None

    def span(self) -> Span | None:
        """The next steps of gradients alone, up to the next record or pause; None if the budget allows none."""
        meter, batches, budget, begin = self.objective, self.batches, self.budget, self.step + 1
        used, count = batches.samples_before(begin), math.inf
        if not self.affords(Cost(GRADIENT_FORWARDS * (batches.samples_before(begin + 1) - used), 1)):
            return None
        if (mark := self._marks.next_total(meter.forwards)) < math.inf:
            count = batches.step_beyond(used + math.ceil((mark - meter.forwards) / GRADIENT_FORWARDS)) - begin
        if budget.forwards is not None and budget.forwards < math.inf:
            within = used + int((budget.forwards - meter.forwards) // GRADIENT_FORWARDS)
            count = min(count, batches.step_within(within) - begin)
        if budget.evaluations is not None:
            count = min(count, budget.evaluations - meter.evaluations)
        seconds = math.inf if budget.seconds is None else budget.seconds - self._seconds
        if self.pauses is not None:
            left = self.pauses.steps_left(self.step)
            count, seconds = min(count, math.inf if left is None else left), min(seconds, _LONGEST_CALL)
        return Span(begin, int(min(count, sys.maxsize)), seconds, batches.size, batches.seed)

    def count(self, steps: int, samples: int, seconds: float) -> bool:
        """Count steps that were taken.

        Args:
            steps: number of steps.
            samples: samples in their batches.
            seconds: wall time of all steps of the run so far.

        Returns:
            Whether the stretch of steps ends here, because the method has finished or a pause is due.
        """
        self.step += steps
        self._seen += samples
        self._seconds = seconds
        if (reason := self.method.finished(self.state)) is not None:
            self.history.reason = reason
            return True
        return self.pauses is not None and self.pauses.due(self.step, seconds)

    def _why_it_ended(self, limit: str) -> str:
        if limit != "forwards" or self.epochs is None:
            return f"the budget of {self.budget.limit(limit)} is used up"
        passes = f"{self.epochs} epoch{'s' * (self.epochs != 1)}"
        if self._seen == self.epochs * self.batches.samples:
            return f"finished {passes}"
        return f"the forwards of {passes} are used up"

    def move_to(self, w: Array) -> bool:
        """Continue from other parameters (n,). If the last record is of this step, record them in its place.

        Returns:
            False if the method cannot continue from other parameters; the trainer is then unchanged.
        """
        if not self.method.move_to(self.state, w):
            return False
        if self.history.forwards and self.history.forwards[-1] == self.objective.forwards:
            self._recorder.replace(w.copy())
        return True

    def stop(self, reason: str) -> None:
        """End the run at the next whole step, with a record. The first reason counts."""
        self.history.reason = self.history.reason or reason

    def finish(self, reason: str = "") -> None:
        """End the run, and set reason (unless it is set), last, improving and diverged in the history."""
        history, objective = self.history, self._recorder.train
        self._done = True
        history.reason = history.reason or reason
        history.last = Last(self.method, self.state, self.step)
        history.improving = improving(history)
        w = self.method.recommend(self.state)
        if self.method.kind == "gradient" and objective.diverged(history.loss, w):
            history.diverged, history.improving = True, False
            losses = f"training loss {history.loss[0]:.4g} at the start, {history.loss[-1]:.4g} at the end"
            hint = objective.scale_hint()
            history.reason += f"; the run diverged: try a smaller learning rate{hint} ({losses})"

    # --- State ------------------------------------------------------------------------------------------------------

    def _numbers(self) -> dict[str, int | float]:
        meter, batches = self.objective, self.batches
        fixed = {"samples": batches.samples, "batch_size": batches.size, "seed": batches.seed}
        used = {"forwards": meter.forwards, "evaluations": meter.evaluations, "nonfinite": meter.nonfinite}
        place = {"step": self.step, "seen": self._seen, "seconds": self._seconds}
        sums = {f"running_{name}": value for name, value in asdict(meter.running).items()}
        return {**fixed, **used, **place, **sums}

    def state_dict(self) -> dict[str, Any]:
        """The state of the run by dotted names: copied arrays, and numbers."""
        flat = flatten({"method": self.state, "run": self._numbers(), "records": self._recorder.tree()})
        return {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in flat.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the run of another trainer with the same arguments.

        Args:
            state: the result of `state_dict`.

        Raises:
            InputError: the state is from another method, or from a run with another number of samples, batch size or
                seed. This trainer is unchanged.
        """
        where = "Trainer.load_state_dict"
        parts: dict[str, dict[str, Any]] = {"method": {}, "run": {}, "records": {}}
        for name, value in state.items():
            first, _, rest = name.partition(".")
            if first not in parts:
                fail(where, f"{name!r} does not fit this run: it is not a part of it")
            parts[first][rest] = value
        mine = self._numbers()
        numbers = restored(where, mine, parts["run"])
        for name in ("samples", "batch_size", "seed"):
            if numbers[name] != mine[name]:
                fail(where, f"the state was saved with {name} {numbers[name]}, but this run has {mine[name]}")
        method = restored(where, self.state, parts["method"])
        self._recorder.load(where, parts["records"], self.objective.layout.size)
        meter, self.state = self.objective, method
        meter.forwards, meter.evaluations = int(numbers["forwards"]), int(numbers["evaluations"])
        meter.nonfinite = self.history.nonfinite = int(numbers["nonfinite"])
        self.step, self._seen, self._seconds = int(numbers["step"]), int(numbers["seen"]), numbers["seconds"]
        meter.running = Running(*(numbers[f"running_{field.name}"] for field in fields(Running)))
        self.history.reason = self.method.finished(self.state) or ""
        self._marks.advance(self.used)


class _Stretch(Steps):
    """The steps up to the next record, the next pause or the end of the run."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.ended = False
        self.began = time.perf_counter() - trainer.used.seconds

    def __iter__(self) -> Iterator[Batch]:
        trainer, meter = self.trainer, self.trainer.objective
        while not self._over:
            batch = trainer.batches.at(trainer.step + 1)
            cost = trainer.method.cost(meter, batch, trainer.state)
            if not trainer.affords(cost):
                return
            if trainer.before_step is not None:
                trainer.before_step(batch)
                if trainer.history.reason:
                    return
            yield batch
            self._count(1, meter.size(batch))

    @property
    def _over(self) -> bool:
        trainer = self.trainer
        return self.ended or bool(trainer.history.reason) or trainer.mark_reached

    def span(self) -> Span | None:
        """See `Steps.span`."""
        trainer = self.trainer
        if trainer.before_step is not None or self._over:
            return None
        return trainer.span()

    def took(self, steps: int) -> None:
        """See `Steps.took`."""
        batches, step = self.trainer.batches, self.trainer.step
        self._count(steps, batches.samples_before(step + steps + 1) - batches.samples_before(step + 1))

    def _count(self, steps: int, samples: int) -> None:
        self.ended = self.trainer.count(steps, samples, time.perf_counter() - self.began)


def _in_precision(objective: Objective, method: Method, precision: Precision) -> Objective:
    """The objective with gradients in a precision, which must be a gradient method's."""
    if precision == "bfloat16" and "gradient" not in method.requires:
        fail("fit", f"precision='bfloat16' needs a method that follows gradients, but {method.described()} does not")
    return objective.in_precision(precision)


def _check_first(budget: Budget, first: Used, epochs: int | None, epoch: int) -> None:
    """Fail unless the budget allows the first step."""
    exceeded = budget.exceeded(*first)
    if exceeded == "forwards" and epochs is not None:
        least = math.ceil(first.forwards / epoch)
        fail(
            "fit",
            f"one step costs {first.forwards:,} forwards, more than the {budget.limit('forwards')} of epochs={epochs}; "
            f"pass epochs >= {least}, or a budget instead of epochs",
        )
    if exceeded is not None:
        cost = str(Budget(first.forwards, first.evaluations))
        fail("fit", f"one step costs {cost}, more than the budget of {budget} allows")


def _copied(method: Method, last: Last) -> Any:
    """A copy of the state in which an earlier run ended."""
    if method.kind == "search" and method != last.method:
        fail("fit", f"resume must be from a run with the same settings, {method!r}, got {last.method!r}")
    return restored("fit", last.state, flatten(last.state))
