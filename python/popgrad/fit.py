"""The training loop: the only file that knows both kinds of optimizer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count, repeat
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popgrad import racing as races
from popgrad.backends import Stream, aligned, random_generator
from popgrad.budget import GRADIENT_FORWARDS, Budget
from popgrad.checks import fail, positive_int, whole_seed
from popgrad.metrics import Measure, Metric
from popgrad.model import MLP
from popgrad.optim import Optimizer, SophiaG
from popgrad.samples import Data
from popgrad.search import Search

__all__ = ["Callback", "History", "fit"]

Array = NDArray[Any]


@dataclass
class History:
    """What happened, record by record; the first one is the untrained model.

    Attributes:
        metric_name: what ``metric`` and ``validation_metric`` are, "error_rate" or "mse"; smaller is better.
        forwards: samples through the network so far (`popgrad.Budget` says how they are counted).
        evaluations: candidates evaluated so far; a gradient counts as one.
        seconds: wall time of the steps so far, without the measuring of records.
        loss, metric: over all training samples.
        validation_loss, validation_metric: over the validation samples; empty without any.
        best: index of the record with the smallest validation loss (or metric, if that is the objective); over
            the training samples where there are no others.
        best_params: (n,) the parameters at that record, which the model has after `fit`.
        nonfinite: losses or fitnesses that were NaN or infinite.
        reason: why the run ended.
    """

    metric_name: str
    forwards: list[int] = field(default_factory=list)
    evaluations: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    metric: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    validation_metric: list[float] = field(default_factory=list)
    best: int = 0
    best_params: Array = field(default_factory=lambda: np.empty(0), repr=False)
    nonfinite: int = 0
    reason: str = ""
    diverged: bool = False


Callback = Callable[[MLP, History], Any]


def fit(
    model: MLP,
    X: ArrayLike,
    y: ArrayLike,
    *,
    optimizer: Optimizer | Search,
    epochs: int | None = None,
    batch_size: int | Literal["auto"] | None = "auto",
    validation: float | tuple[ArrayLike, ArrayLike] | None = None,
    budget: Budget | None = None,
    callbacks: Iterable[Callback] = (),
    seed: int = 0,
    sample_weight: ArrayLike | None = None,
    objective: Metric = "loss",
    record_every: int | Sequence[int] | NDArray[np.integer[Any]] | None = None,
    racing: float | None = None,
) -> History:
    """Train a model, by gradients or by a search.

    Args:
        model: starts from its present parameters, and has the best recorded ones afterwards.
        X: (N, inputs), without NaN. y: (N,) labels or (N,) or (N, outputs) numbers.
        optimizer: one of `popgrad.optim` or `popgrad.search`.
        epochs: the work of so many passes of gradients over the training samples (3 forwards a sample), for
            either kind. Default 20 if there is no budget, else no limit.
        batch_size: samples of a step; None means all. "auto": 32 for gradients, all for a search. A search
            measures a whole generation on the same samples.
        validation: share of the samples to hold back, in (0, 1), or a pair (X, y).
        budget: when to stop; the last step ends within it.
        callbacks: functions, or one, called as ``callback(model, history)`` after every record, with the
            parameters of that record; one that returns True ends the run.
        seed: of shuffling, of the validation share and of the search.
        sample_weight: (N,) weights >= 0; samples of weight 0 are left out. A minibatch's mean is over its
            own weights.
        objective: what a search minimises, and what picks the best record: a metric of `MLP.evaluate`. Gradient
            methods always descend the loss. A function of raw outputs is called once before the work begins, to see
            that it returns a number for each candidate.
        record_every: forwards between records, default those of one epoch; or a list of rising totals, a record
            following each (and the end of the run).
        racing: a search measures a generation by successive halving (`popgrad.race`), in which this share, in (0, 1),
            goes on from round to round; it is charged the forwards really used, 5/16 of all for 32 candidates that
            are halved. The best of a generation is known from all samples, the others from fewer.

    Returns:
        The history; its first record is the untrained model.

    Raises:
        InputError: an argument does not fit; nothing was changed.
    """
    if not isinstance(model, MLP):
        fail("fit", f"model must be a popgrad.MLP, got {type(model).__name__}")
    if not isinstance(optimizer, (Optimizer, Search)):
        fail(
            "fit",
            f"optimizer must be one of popgrad.optim or popgrad.search, such as pg.optim.Adam(), got {optimizer!r}",
        )
    if isinstance(optimizer, Optimizer):
        model.check_gradient("fit")
    measure = model.measure("fit", objective)
    metric_name = "error_rate" if "cross_entropy" in model.loss_name else "mse"
    if racing is not None:
        races.checked_keep("fit(racing)", racing)
        if isinstance(optimizer, Optimizer):
            fail("fit", "racing is for searches; a gradient method has one candidate")
    seed = whole_seed("fit", seed)
    if budget is not None and not isinstance(budget, Budget):
        fail("fit", f"budget must be a popgrad.Budget, got {budget!r}")
    callbacks = _checked_callbacks(callbacks)
    train, held = _divide(model, X, y, sample_weight, validation, seed)
    if batch_size == "auto":
        batch_size = 32 if isinstance(optimizer, Optimizer) else None
    batch = len(train) if batch_size is None else min(positive_int("fit", "batch_size", batch_size), len(train))
    epoch = GRADIENT_FORWARDS * len(train)
    if epochs is not None or budget is None:
        limit: float = positive_int("fit", "epochs", 20 if epochs is None else epochs) * epoch
        if budget is None:
            budget = Budget(limit)
        else:
            budget = replace(budget, forwards=min(limit, budget.forwards or limit))
    marks = _marks(epoch if record_every is None else record_every)

    for part in [train] if held is None else [train, held]:
        part.check("fit", measure)
    if measure.own:
        # Two candidates: what returns one number for all of them is found out here.
        train.evaluate(np.stack([model.params, model.params]), measure)
    recorder = _Recorder(model, train, held, History(metric_name), measure)
    recorder.record(model.params, 0, 0, 0.0)
    if not (math.isfinite(recorder.history.loss[0]) and np.isfinite(model.params).all()):
        fail("fit", "the parameters or the loss of the untrained model are not finite; initialise the model anew")
    kind: _Gradients | _Populations
    if isinstance(optimizer, Optimizer):
        kind = _Gradients(model, train, optimizer, batch, seed)
    else:
        kind = _Populations(model, train, optimizer, batch, seed, measure, racing)
    began = time.perf_counter()
    cost, candidates = kind.price()
    seconds = time.perf_counter() - began
    if not budget.allows(cost, candidates, seconds):
        fail("fit", f"one step costs {cost} forwards and {candidates} evaluations, more than {budget} allows")
    history = recorder.history
    forwards = evaluations = 0
    mark = next(marks)
    while not (_told_to_stop(callbacks, model, history) or history.reason):
        while not history.reason and forwards < mark:
            began = time.perf_counter()
            cost, candidates = kind.price()
            if not budget.allows(forwards + cost, evaluations + candidates, seconds):
                history.reason = "the budget is used up"
                break
            history.nonfinite += kind.step()
            forwards, evaluations = forwards + cost, evaluations + candidates
            seconds += time.perf_counter() - began
            history.reason = kind.finished() or ""
        if forwards == history.forwards[-1]:
            break
        recorder.record(kind.params(), forwards, evaluations, seconds)
        while mark <= forwards:
            mark = next(marks)
    history.reason = history.reason or "a callback ended it"
    model.params = history.best_params
    return history


def _marks(record_every: int | Sequence[int] | NDArray[np.integer[Any]]) -> Iterator[float]:
    """Totals of forwards after which to record, without end."""
    if isinstance(record_every, (Sequence, np.ndarray)):
        totals = [positive_int("fit", "each of record_every", total) for total in record_every]
        if totals != sorted(totals):
            fail("fit", f"record_every must rise, got {record_every!r}")
        return chain(totals, repeat(math.inf))
    every = positive_int("fit", "record_every", record_every)
    return count(every, every)


def _checked_callbacks(callbacks: Iterable[Callback]) -> list[Callback]:
    listed = list(callbacks) if isinstance(callbacks, Iterable) else [callbacks]
    for callback in listed:
        if not callable(callback):
            fail("fit", f"callbacks must be functions of (model, history), got {callback!r}")
    return listed


def _told_to_stop(callbacks: list[Callback], model: MLP, history: History) -> bool:
    """Call every callback; whether one of them returned True (NumPy's own True counts)."""
    answers = [callback(model, history) for callback in callbacks]
    return any(isinstance(answer, (bool, np.bool_)) and bool(answer) for answer in answers)


class _Gradients:
    """Steps along gradients of minibatches, in an order that is a function of (seed, epoch)."""

    def __init__(self, model: MLP, train: Data, optimizer: Optimizer, batch: int, seed: int) -> None:
        self.model, self.train, self.optimizer, self.seed = model, train, optimizer, seed
        # A vector of its own: the model has the parameters of the last record, which may be an average.
        self.w = aligned(len(model.params), model.dtype)
        self.w[:] = model.params
        self.state = optimizer.init(self.w, [view.shape for view in model.views().values()])
        self.gradient = aligned(len(self.w), model.dtype)
        self.batches = _minibatches(len(train), batch, seed)
        self.rows = next(self.batches)
        self.size = len(train) if self.rows is None else len(self.rows)
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
        return "the loss is no longer finite: try a smaller learning rate" if self.bad else None

    def params(self) -> Array:
        return np.ascontiguousarray(self.optimizer.solution(self.w, self.state))


class _Populations:
    """Generations of a search, each measured on the same samples."""

    def __init__(
        self, model: MLP, train: Data, search: Search, batch: int, seed: int, measure: Measure, racing: float | None
    ) -> None:
        self.train, self.measure, self.racing, self.seed = train, measure, racing, seed
        self.run = search.start(model.params, seed)
        self.batches = _minibatches(len(train), batch, seed)
        self.rows = next(self.batches)

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


class _Recorder:
    """Measures parameters on all training and validation samples, and keeps the best."""

    def __init__(self, model: MLP, train: Data, held: Data | None, history: History, objective: Measure) -> None:
        self.model, self.train, self.held, self.history = model, train, held, history
        self.metric = model.measure("fit", history.metric_name)
        self.objective = objective
        self.best = math.inf

    def record(self, params: Array, forwards: int, evaluations: int, seconds: float) -> None:
        history, row = self.history, params[None]
        history.forwards.append(forwards)
        history.evaluations.append(evaluations)
        history.seconds.append(seconds)
        history.loss.append(float(self.train.evaluate(row)[0]))
        history.metric.append(float(self.train.evaluate(row, self.metric)[0]))
        judge = self.train if self.held is None else self.held
        if self.held is not None:
            history.validation_loss.append(float(self.held.evaluate(row)[0]))
            history.validation_metric.append(float(self.held.evaluate(row, self.metric)[0]))
        value = float(judge.evaluate(row, self.objective)[0])
        if value < self.best or len(history.forwards) == 1:
            self.best, history.best = value, len(history.forwards) - 1
            history.best_params = params.copy()
        if params is not self.model.params:
            self.model.params = params


def _divide(
    model: MLP, X: ArrayLike, y: ArrayLike, weight: ArrayLike | None, validation: Any, seed: int
) -> tuple[Data, Data | None]:
    """Training and validation samples."""
    everything = model.data(X, y, weight, operation="fit")
    if everything.weight is not None and not everything.weight.all():
        # They teach nothing, and a minibatch of such samples alone would have no mean.
        everything = everything.rows(np.flatnonzero(everything.weight))
    if validation is None:
        return everything, None
    if isinstance(validation, (tuple, list)):
        if len(validation) != 2:
            fail("fit", "validation must be a share in (0, 1) or a pair (X, y)")
        return everything, model.data(*validation, operation="fit(validation)")
    if isinstance(validation, bool) or not isinstance(validation, (int, float, np.floating)) or not 0 < validation < 1:
        fail("fit", f"validation must be a share in (0, 1) or a pair (X, y), got {validation!r}")
    kept_back = round(len(everything) * validation)
    if not 0 < kept_back < len(everything):
        fail("fit", f"validation={validation} of {len(everything)} samples leaves no samples for one of the two parts")
    order = random_generator(seed, Stream.DIVIDE, 0).permutation(len(everything))
    return everything.rows(np.sort(order[kept_back:])), everything.rows(np.sort(order[:kept_back]))


def _minibatches(samples: int, batch: int, seed: int) -> Iterator[Array | None]:
    """Rows of minibatches without end, shuffled anew every epoch; None stands for all samples.

    The rest of an epoch that does not fill a batch is a smaller one.
    """
    epoch = 0
    while True:
        if batch == samples:
            yield None
            continue
        order = random_generator(seed, Stream.SHUFFLE, epoch).permutation(samples)
        for first in range(0, samples, batch):
            yield order[first : first + batch]
        epoch += 1
