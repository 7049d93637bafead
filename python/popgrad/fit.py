"""The training loop: the only file that knows both kinds of optimizer."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popgrad import arrays, holdout, labels, records
from popgrad import racing as races
from popgrad.backends import Stream, aligned, random_generator
from popgrad.budget import DEFAULT_EPOCHS, GRADIENT_FORWARDS, Budget, Used, default_budget
from popgrad.checks import fail, one_of, positive_int, whole_seed
from popgrad.labels import Classes
from popgrad.metrics import Measure, Metric
from popgrad.model import MLP
from popgrad.optim import Optimizer, SophiaG
from popgrad.records import History, Last, Marks, Recorder
from popgrad.samples import Data
from popgrad.search import Search

__all__ = ["Callback", "History", "fit"]

Array = NDArray[Any]
Callback = Callable[[MLP, History], Any]
Validation = float | tuple[ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, ArrayLike] | None


def fit(
    model: MLP,
    X: ArrayLike,
    y: ArrayLike,
    *,
    optimizer: Optimizer | Search,
    epochs: int | None = None,
    batch_size: int | Literal["auto"] | None = "auto",
    validation: Validation = None,
    budget: Budget | None = None,
    callbacks: Iterable[Callback] = (),
    seed: int = 0,
    sample_weight: ArrayLike | None = None,
    objective: Metric = "loss",
    select: Literal["loss", "metric"] | None = None,
    record_every: int | Sequence[int] | NDArray[np.integer[Any]] | None = None,
    racing: float | None = None,
    resume: History | None = None,
) -> History:
    """Train a model with a gradient method or a search.

    Args:
        model: starts from its current parameters, and has the best recorded parameters afterwards.
        X: (N, inputs), without NaN: an array, a frame, or a tensor in CPU memory. y: (N,) labels, or (N,) or
            (N, outputs) numbers. Labels that are text, or K whole numbers beyond 0 to K - 1, become `MLP.classes`, in
            sorted order.
        optimizer: one of `popgrad.optim` or `popgrad.search`.
        epochs: stop after the work of so many passes of gradients over the training samples (3 forwards a sample),
            for a search too.
        batch_size: samples of a step; None means all. "auto": 32 for a gradient method, all for a search. A search
            measures a whole generation on the same samples.
        validation: share of the samples to hold back, in (0, 1), or (X, y), or (X, y, sample_weight). Exactly
            round(N * share) samples are held back; the choice is a function of `seed`. Labels are stratified: each
            class has the same share, up to one sample, and a class of two or more samples is in both parts wherever
            the sizes permit. Numeric targets are divided at random.
        budget: when to stop; the last step ends within it. With `epochs`, the smaller of the two. Without both:
            3,000,000 forwards, or 20 epochs or 50 generations of the search if these are more.
        callbacks: functions, or one, called as ``callback(model, history)`` after every record, with the
            parameters of that record in the model. A callback that returns True ends the run. A callback may change
            ``model.params``, for example project them: a gradient method continues from the changed parameters, an
            average of the parameters restarts there, and they are recorded in place of the others. A search cannot
            continue from parameters that it has not proposed: it ignores the change, with a warning.
        seed: of shuffling, of the validation share and of the search.
        sample_weight: (N,) weights >= 0; samples of weight 0 are left out. The mean over a minibatch uses the
            weights of that minibatch.
        objective: what a search minimizes, and what picks the best record: a metric of `MLP.evaluate`. Gradient
            methods always descend the loss. A function of raw outputs is called once before training starts, to check
            that it returns a number for each candidate.
        select: what picks the best record: "loss", "metric" (``history.metric_name``; ties go to the smaller loss), or
            None for the objective. Measured on the validation samples if there are any.
        record_every: forwards between records, or a list of rising totals, with a record after each (and at the end
            of the run). Default: at most about a hundred records; one after every epoch at first, then after ever more
            epochs, up to a 75th of the budget.
        racing: a search measures a generation by successive halving (`popgrad.race`), in which this share, in (0, 1),
            stays in the race from round to round. The run is charged the forwards that are really used, 5/16 of all
            for 32 candidates that are halved. The best candidate of a generation is measured on all samples, the
            others on fewer.
        resume: the history of an earlier run of the same model and gradient optimizer. The run continues with that
            run's last parameters and optimizer state. With the same samples, batch_size and seed, it also continues
            the order of minibatches, and two runs equal one run of both lengths. The optimizer's settings, such as the
            learning rate, may differ. The new history starts at zero.

    Returns:
        The history; its first record is the untrained model.

    Raises:
        InputError: an argument does not fit; nothing was changed.
    """
    _check_method(model, optimizer, racing)
    measure = model.measure("fit", objective)
    if select is not None:
        one_of("fit", "select", select, ("loss", "metric"))
    seed = whole_seed("fit", seed)
    epochs = None if epochs is None else positive_int("fit", "epochs", epochs)
    if budget is not None and not isinstance(budget, Budget):
        fail("fit", f"budget must be a popgrad.Budget, got {budget!r}")
    callbacks = _checked_callbacks(callbacks)
    last = None if resume is None else _checked_resume(model, optimizer, resume)
    train, held, classes = _divide(model, X, y, sample_weight, validation, seed)
    if batch_size == "auto":
        batch_size = 32 if isinstance(optimizer, Optimizer) else None
    batch = len(train) if batch_size is None else min(positive_int("fit", "batch_size", batch_size), len(train))
    for part in [train] if held is None else [train, held]:
        part.check("fit", measure)
    if measure.own:
        # Two candidates: a function that returns one number for all candidates is found here.
        train.evaluate(np.stack([model.params, model.params]), measure)
    if not np.isfinite(model.params if last is None else last.params).all():
        fail("fit", "the parameters of the untrained model are not finite; initialize the model anew")
    kind: _Gradients | _Populations
    if isinstance(optimizer, Optimizer):
        kind = _Gradients(model, train, optimizer, batch, seed, last)
    else:
        kind = _Populations(model, train, optimizer, batch, seed, measure, racing)
    began = time.perf_counter()
    cost, candidates = kind.price()
    used = Used(0, 0, time.perf_counter() - began)
    first = Used(cost, candidates, used.seconds)
    budget, epochs = _limits(kind, len(train), epochs, budget, first)
    marks = Marks(record_every, GRADIENT_FORWARDS * len(train), budget.affordable(first), budget.seconds)

    recorder, before = Recorder(model, train, held, measure, select), model.params.copy()
    history = recorder.history
    recorder.record(kind.params(), Used(0, 0, 0.0))
    if not math.isfinite(history.loss[0]):
        model.params = before
        _fail_by_overflow(before, train)
    model.classes = classes
    while not (_told_to_stop(callbacks, recorder, kind) or history.reason):
        while not history.reason and not marks.reached(used):
            began = time.perf_counter()
            cost, candidates = kind.price()
            limit = budget.exceeded(used.forwards + cost, used.evaluations + candidates, used.seconds)
            if limit is not None:
                history.reason = _why_it_ended(kind, len(train), epochs, budget, limit)
                break
            history.nonfinite += kind.step()
            seconds = used.seconds + time.perf_counter() - began
            used = Used(used.forwards + cost, used.evaluations + candidates, seconds)
            history.reason = kind.finished() or ""
        if used.forwards == history.forwards[-1]:
            break
        recorder.record(kind.params(), used)
        marks.advance(used)
    _judge(history, kind, train)
    model.params = history.best_params
    return history


# --- Before the work ----------------------------------------------------------------------------------------------


def _check_method(model: object, optimizer: object, racing: float | None) -> None:
    """Fail unless the model, the optimizer and racing fit each other."""
    if not isinstance(model, MLP):
        fail("fit", f"model must be a popgrad.MLP, got {type(model).__name__}")
    if not isinstance(optimizer, (Optimizer, Search)):
        fail(
            "fit",
            f"optimizer must be one of popgrad.optim or popgrad.search, such as pg.optim.Adam(), got {optimizer!r}",
        )
    if isinstance(optimizer, Optimizer):
        model.check_gradient("fit")
    if racing is not None:
        races.checked_keep("fit(racing)", racing)
        if isinstance(optimizer, Optimizer):
            fail("fit", "racing is for searches; a gradient method has one candidate")


def _checked_callbacks(callbacks: Iterable[Callback]) -> list[Callback]:
    listed = list(callbacks) if isinstance(callbacks, Iterable) else [callbacks]
    for callback in listed:
        if not callable(callback):
            fail("fit", f"callbacks must be functions of (model, history), got {callback!r}")
    return listed


def _checked_resume(model: MLP, optimizer: Optimizer | Search, resume: object) -> Last:
    """Where the earlier run ended."""
    if not isinstance(resume, History):
        fail("fit", f"resume must be the History that an earlier fit returned, got {resume!r}")
    last = resume.last
    if last is None or not isinstance(optimizer, Optimizer):
        fail("fit", "resume is for gradient methods; a search starts anew from the parameters of the model")
    if _kinds(last.optimizer) != _kinds(optimizer):
        fail("fit", f"resume must be of a run of {_kinds(optimizer)}, got one of {_kinds(last.optimizer)}")
    if last.params.shape != model.params.shape or last.params.dtype != model.dtype:
        got = f"{last.params.dtype} {last.params.shape}"
        fail("fit", f"resume must be of a model with {model.dtype} parameters {model.params.shape}, got {got}")
    return last


def _kinds(optimizer: Optimizer) -> str:
    """Names of the classes of an optimizer and of those that it wraps."""
    inner = getattr(optimizer, "inner", None)
    return type(optimizer).__name__ + (f"({_kinds(inner)})" if isinstance(inner, Optimizer) else "")


def _divide(
    model: MLP, X: ArrayLike, y: ArrayLike, weight: ArrayLike | None, validation: Any, seed: int
) -> tuple[Data, Data | None, Classes | None]:
    """Training samples, validation samples, and the classes of both."""
    y, classes = arrays.read("fit", "y", y), model.classes
    if classes is None and model.takes_classes:
        classes = labels.find("fit", y, max(2, model.sizes[-1]))
    everything = model.data(X, y, weight, operation="fit", classes=classes)
    if everything.weight is not None and not everything.weight.all():
        # They teach nothing, and a minibatch of such samples alone would have no mean.
        everything = everything.rows(np.flatnonzero(everything.weight))
    if validation is None:
        return everything, None, classes
    if isinstance(validation, (tuple, list)) and len(validation) in (2, 3):
        return everything, model.data(*validation, operation="fit(validation)", classes=classes), classes
    share = holdout.checked_share(validation)
    targets = everything.y[:, 0].astype(np.int64) if _are_labels(model, everything) else None
    held = holdout.held_back(len(everything), share, targets, seed)
    return everything.rows(np.flatnonzero(~held)), everything.rows(np.flatnonzero(held)), classes


def _are_labels(model: MLP, data: Data) -> bool:
    """Whether each target is a label; the targets of binary_cross_entropy may be probabilities."""
    return model.takes_classes and bool((data.y == np.floor(data.y)).all())


def _fail_by_overflow(params: Array, train: Data) -> NoReturn:
    """Say which numbers make the loss overflow."""
    largest, kind = {"X": float(np.abs(train.X).max()), "y": float(np.abs(train.y).max())}, train.X.dtype
    name = max(largest, key=largest.__getitem__)
    if largest[name] > float(np.abs(params).max()):
        held = f"which {kind} cannot hold; scale {name}, for example to mean 0 and standard deviation 1"
        fail("fit", f"{name} holds values up to {largest[name]:.3g}, and the loss overflows, {held}")
    fail("fit", "the loss of the untrained model is not finite; initialize the model anew")


def _limits(
    kind: _Gradients | _Populations, samples: int, epochs: int | None, budget: Budget | None, first: Used
) -> tuple[Budget, int | None]:
    """What the run may use, and the epochs if these limit the forwards.

    Raises:
        InputError: not even one step fits.
    """
    epoch = GRADIENT_FORWARDS * samples
    if budget is None and epochs is None:
        budget = default_budget(samples, first.forwards if isinstance(kind, _Populations) else 0)
        return budget, DEFAULT_EPOCHS if budget.forwards == DEFAULT_EPOCHS * epoch else None
    if epochs is not None:
        limit = float(epochs * epoch)
        if budget is None:
            budget = Budget(limit)
        elif budget.forwards is None or budget.forwards > limit:
            budget = replace(budget, forwards=limit)
        else:
            epochs = None
    assert budget is not None
    exceeded = budget.exceeded(*first)
    if exceeded == "forwards" and epochs is not None:
        least = math.ceil(first.forwards / epoch)
        fail(
            "fit",
            f"one step costs {first.forwards:,} forwards, more than the {budget.limit('forwards')} of epochs={epochs}; "
            f"give epochs >= {least}, or a budget in place of epochs",
        )
    if exceeded is not None:
        cost = str(Budget(first.forwards, first.evaluations))
        fail("fit", f"one step costs {cost}, more than the budget of {budget} allows")
    return budget, epochs


# --- The run ------------------------------------------------------------------------------------------------------


def _told_to_stop(callbacks: list[Callback], recorder: Recorder, kind: _Gradients | _Populations) -> bool:
    """Call every callback; whether one of them returned True (NumPy's own True counts)."""
    if not callbacks:
        return False
    model = recorder.model
    recorded = model.params.copy()
    answers = [callback(model, recorder.history) for callback in callbacks]
    if model.params.tobytes() != recorded.tobytes() and kind.take_up(model.params):
        recorder.replace(model.params)
    return any(isinstance(answer, (bool, np.bool_)) and bool(answer) for answer in answers)


def _why_it_ended(kind: _Gradients | _Populations, samples: int, epochs: int | None, budget: Budget, limit: str) -> str:
    if limit != "forwards" or epochs is None:
        return f"the budget of {budget.limit(limit)} is used up"
    passes = f"{epochs} epoch{'s' * (epochs != 1)}"
    if isinstance(kind, _Gradients) and kind.seen == epochs * samples:
        return f"finished {passes}"
    return f"the forwards of {passes} are used up"


def _judge(history: History, kind: _Gradients | _Populations, train: Data) -> None:
    """Fill in what is known of a run when it has ended."""
    history.reason = history.reason or "a callback ended it"
    history.last = kind.last()
    history.improving = records.improving(history)
    if isinstance(kind, _Gradients) and records.diverged(history, train, kind.params()):
        history.diverged, history.improving = True, False
        losses = f"training loss {history.loss[0]:.4g} at the start, {history.loss[-1]:.4g} at the end"
        history.reason += f"; the run diverged: try a smaller learning rate{_scale_hint(train)} ({losses})"


def _scale_hint(train: Data) -> str:
    """What else to try where a run diverges and its inputs are far from a unit scale."""
    largest = float(np.abs(train.X).max())
    return f", and scale X, which holds values up to {largest:.4g}" if largest > 30 else ""


class _Gradients:
    """Steps along gradients of minibatches, in an order that is a function of (seed, epoch)."""

    def __init__(
        self, model: MLP, train: Data, optimizer: Optimizer, batch: int, seed: int, resumed: Last | None
    ) -> None:
        self.model, self.train, self.optimizer, self.seed = model, train, optimizer, seed
        # A vector of its own: the model has the parameters of the last record, which may be an average.
        self.w = aligned(len(model.params), model.dtype)
        self.w[:] = model.params if resumed is None else resumed.params
        self.state = optimizer.init(self.w, [view.shape for view in model.views().values()])
        self.steps = 0
        if resumed is not None:
            self.state, self.steps = copy.deepcopy(resumed.state), resumed.steps
        self.gradient = aligned(len(self.w), model.dtype)
        self.batches = _minibatches(len(train), batch, seed, self.steps)
        self.rows = next(self.batches)
        self.size = len(train) if self.rows is None else len(self.rows)
        self.seen = 0  # samples, each pass counted
        self.bad = False

    def _observes(self) -> bool:
        return isinstance(self.optimizer, SophiaG) and self.optimizer.due(self.state)

    def price(self) -> tuple[int, int]:
        gradients = self.optimizer.gradients_per_step + self._observes()
        return (GRADIENT_FORWARDS * gradients + self._observes()) * self.size, gradients

    def step(self) -> int:
        t = self.state.t + 1
        if self._observes():
            assert isinstance(self.optimizer, SophiaG)
            drawn = self.train.draw(self.w, self.rows, random_generator(self.seed, Stream.LABELS, t))
            drawn.gradient(self.w, self.gradient, step=t)
            self.optimizer.observe(self.w, self.gradient, self.state, self.size)
        loss = self.train.gradient(self.w, self.gradient, self.rows, t)
        if math.isfinite(loss) and self.optimizer.ascend(self.w, self.gradient, self.state):
            loss = self.train.gradient(self.w, self.gradient, self.rows, t)
        self.steps += 1
        self.seen += self.size
        self.rows = next(self.batches)
        if self.rows is not None:
            self.size = len(self.rows)
        if not math.isfinite(loss):
            # Its gradient is no direction: the parameters stay as they were, and so would every later step.
            self.bad = True
            return 1
        self.optimizer.step(self.w, self.gradient, self.state)
        return 0

    def finished(self) -> str | None:
        return "the loss is no longer finite" if self.bad else None

    def params(self) -> Array:
        return np.ascontiguousarray(self.optimizer.solution(self.w, self.state))

    def take_up(self, params: Array) -> bool:
        """Continue from parameters that a callback has changed."""
        self.optimizer.restart(self.w, self.state, params)
        return True

    def last(self) -> Last:
        return Last(self.optimizer, self.w, self.state, self.steps)


class _Populations:
    """Generations of a search, each measured on the same samples."""

    def __init__(
        self, model: MLP, train: Data, search: Search, batch: int, seed: int, measure: Measure, racing: float | None
    ) -> None:
        self.train, self.measure, self.racing, self.seed = train, measure, racing, seed
        self.run = search.start(model.params, seed)
        self.batches = _minibatches(len(train), batch, seed)
        self.rows = next(self.batches)
        self.warned = False

    def _rounds(self) -> list[tuple[int, int]]:
        """Candidates and samples of each round; without a race there is one."""
        members, samples = len(self.run.ask()), len(self.train) if self.rows is None else len(self.rows)
        return [(members, samples)] if self.racing is None else races.schedule(members, samples, self.racing)

    def price(self) -> tuple[int, int]:
        return sum(members * samples for members, samples in self._rounds()), len(self.run.ask())

    def step(self) -> int:
        before, population = self.run.nonfinite, self.run.ask()
        if self.racing is None:
            self.run.tell(self.train.evaluate(population, self.measure, self.rows))
        else:
            random = random_generator(self.seed, Stream.RACE, self.run.generation)
            order = random.permutation(np.arange(len(self.train)) if self.rows is None else self.rows)
            self.run.tell(races.run(self.train, self.measure, population, order, self._rounds()).consistent())
        self.rows = next(self.batches)
        return self.run.nonfinite - before

    def finished(self) -> str | None:
        return self.run.stop()

    def params(self) -> Array:
        return self.run.recommend()

    def take_up(self, params: Array) -> bool:
        """Say once that parameters that a callback has changed are not a candidate of the search."""
        if not self.warned:
            warnings.warn(
                "[fit] a callback changed model.params; a search continues from its own candidates and ignores that",
                stacklevel=4,
            )
        self.warned = True
        return False

    def last(self) -> None:
        return None


def _minibatches(samples: int, batch: int, seed: int, skip: int = 0) -> Iterator[Array | None]:
    """Rows of minibatches without end, shuffled anew every epoch; None stands for all samples.

    The rest of an epoch that does not fill a batch is a smaller one. The first `skip` minibatches are left out.
    """
    if batch == samples:
        while True:
            yield None
    epoch, skipped = divmod(skip, math.ceil(samples / batch))
    while True:
        order = random_generator(seed, Stream.SHUFFLE, epoch).permutation(samples)
        for first in range(skipped * batch, samples, batch):
            yield order[first : first + batch]
        epoch, skipped = epoch + 1, 0
