"""Objectives: functions of a parameter vector on a batch of samples, and the meter that counts their cost."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popgrad import _core
from popgrad.budget import GRADIENT_FORWARDS, Cost
from popgrad.checks import fail
from popgrad.labels import ClassWeight
from popgrad.layout import Layout

__all__ = [
    "ALL",
    "Around",
    "Batch",
    "Metered",
    "Objective",
    "Population",
    "Priced",
    "Report",
    "Running",
    "Seen",
    "Span",
    "Steps",
    "span_samples",
]

Array = NDArray[Any]
Floats = NDArray[np.float64]


class Population(Protocol):
    """Candidates (P, n): an array, or `popgrad.Perturbations`, which generates its members on demand."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(P, n)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the candidates."""

    def __len__(self) -> int: ...

    def __getitem__(self, which: Any, /) -> Any:
        """One candidate (n,) by its index, or several (k, n) by a slice or an array of indices."""


class Batch(NamedTuple):
    """The samples of a step.

    Attributes:
        rows: (b,) int64, indices of the samples; None for all.
        step: number of the step or generation, 1, 2, ...; seeds random numbers such as dropout masks. 0 means an
            evaluation outside of training, without dropout.
    """

    rows: Array | None = None
    step: int = 0


ALL = Batch()


class Span(NamedTuple):
    """Consecutive steps whose batches are known in advance: those of `popgrad.train.batches.Batches`.

    Attributes:
        first: number of the first step, 1, 2, ...
        steps: at most so many steps, >= 1.
        seconds: no step begins after this time; may be infinite.
        batch_size: samples per batch, >= 1.
        seed: seed of the order of the samples, in [0, 2^64).
    """

    first: int
    steps: int
    seconds: float
    batch_size: int
    seed: int

    def at_most(self, steps: int) -> Span:
        """The same span, with at most so many steps."""
        return self._replace(steps=min(self.steps, steps))


def span_samples(span: Span, steps: int, samples: int) -> int:
    """The number of samples in the first `steps` batches of a span, if an epoch has this many samples."""
    each = math.ceil(samples / span.batch_size)

    def before(step: int) -> int:
        epochs, place = divmod(step - 1, each)
        return epochs * samples + place * span.batch_size

    return before(span.first + steps) - before(span.first)


class Steps(ABC):
    """The steps up to the next record: their batches one by one, or spans of steps."""

    @abstractmethod
    def __iter__(self) -> Iterator[Batch]:
        """The batches of the steps."""

    @abstractmethod
    def span(self) -> Span | None:
        """The next steps; None if there is none, or if steps must be taken one by one."""

    @abstractmethod
    def took(self, steps: int) -> None:
        """Report how many steps of the last span were taken."""


class Seen(NamedTuple):
    """What a gradient saw of its samples.

    Attributes:
        loss, metric: weighted means over the samples; a metric that is not known is NaN.
        weight: sum of the sample weights.
    """

    loss: float
    metric: float
    weight: float


@dataclass
class Running:
    """Sums over the training steps since the last record, in the order of the steps.

    Attributes:
        loss, metric: sums of weight times the mean of a step.
        weight: sum of the weights.
    """

    loss: float = 0.0
    metric: float = 0.0
    weight: float = 0.0

    def add(self, loss: float, metric: float, weight: float) -> None:
        """Add sums."""
        self.loss += loss
        self.metric += metric
        self.weight += weight


class Report(NamedTuple):
    """The values in a record of training: for one parameter vector, on all samples of an objective.

    Attributes:
        loss: the loss that gradient methods descend.
        metric: a readable metric such as the error rate; `Objective.metric_name` is its name.
        value: the value that searches minimize; `Objective.name` is its name.
    """

    loss: float
    metric: float
    value: float


class Objective(ABC):
    """A function to minimize, of parameters (n,) and a batch of samples.

    `popgrad.Model.objective` creates objectives. To minimize your own function with `popgrad.fit`, derive a class that
    sets `layout`, `dtype` and `samples` and defines `values`. If the class defines `gradient`, gradient methods work
    too. If an objective lacks an operation that a method requires, `popgrad.fit` raises an error before any work; see
    `lacks`.

    Attributes:
        layout: layout of the parameters.
        dtype: dtype of the parameters, float32 or float64.
        samples: number of samples, >= 1.
        name: name of the value that `values` returns.
        metric_name: name of the metric in `report`.
    """

    layout: Layout
    dtype: np.dtype[Any] = np.dtype(np.float32)
    samples: int = 1
    name: str = "loss"
    metric_name: str = "loss"

    @abstractmethod
    def values(self, population: Population, batch: Batch = ALL) -> Floats:
        """Values (P,) of all candidates on the same samples; smaller is better, and non-finite values become inf.

        Args:
            population: (P, n), with the dtype `dtype`; an array is C-contiguous. Do not change it.
            batch: the samples; default all.
        """

    def gradient(self, w: Array, batch: Batch, out: Array) -> float:
        """Return the loss at `w` (n,), and write its gradient to `out` (n,)."""
        fail(type(self).__name__, self.lacks("gradient") or "has no gradient")

    def seen_gradient(self, w: Array, batch: Batch, out: Array) -> Seen:
        """Like `gradient`, but also return the metric, from the same forward pass, and the weight of the samples."""
        loss = self.gradient(w, batch, out)
        return Seen(loss, loss if self.metric_name == "loss" else math.nan, float(self.size(batch)))

    def training_gradient(self, w: Array, batch: Batch, out: Array) -> float:
        """Like `gradient`, for the step of an optimizer: its loss and metric enter the figures of the next record."""
        return self.gradient(w, batch, out)

    def training(self, w: Array, gradient: Array, state: Any, rule: _core.StepRule, span: Span) -> _core.Training:
        """A native loop of gradients and steps.

        Args:
            w: (n,) the parameters, changed in place.
            gradient: (n,) memory for the gradient.
            state: a `popgrad.optim.State`, whose arrays are changed in place.
            rule: the rule of the optimizer.
            span: its batch size and seed hold for the loop, not its steps.
        """
        fail(type(self).__name__, self.lacks("training") or "has no native loop")

    def trained(self, loop: _core.Training, span: Span) -> None:
        """Report what a native loop did."""
        return

    def loss(self, w: Array, batch: Batch) -> float:
        """The loss that `gradient` returns at `w` (n,), with the same dropout, for line searches.

        By default this computes a gradient, at its cost; override it and `loss_cost` if the loss alone costs less.
        """
        return self.gradient(w, batch, np.empty_like(w))

    def sampled(self, w: Array, batch: Batch, random: np.random.Generator) -> Objective:
        """The same objective on the samples of the batch, with targets sampled from the model's predictions at `w`."""
        fail(type(self).__name__, self.lacks("sampled") or "cannot sample targets")

    def subset(self, rows: Array) -> Objective:
        """The same objective on the samples with the indices `rows` (b,)."""
        fail(type(self).__name__, self.lacks("subset") or "cannot be split")

    def with_samples(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        operation: str = "Objective.with_samples",
    ) -> Objective:
        """The same objective on other samples, such as validation samples; see `popgrad.Model.objective`."""
        fail(operation, self.lacks("with_samples") or "accepts no other samples")

    def with_model(self, model: Any) -> Objective:
        """The same objective of another model of the same shape, without a copy of the samples."""
        fail(type(self).__name__, self.lacks("with_model") or "belongs to one model")

    def in_precision(self, precision: str) -> Objective:
        """The same objective, whose training gradients are computed in a precision; see `popgrad.fit`.

        By default, the only precision is the dtype.
        """
        if precision != self.dtype.name:
            fail("fit", f"precision must be '{self.dtype}', the only one of {type(self).__name__}, got {precision!r}")
        return self

    def mixed(self, alpha: float) -> Objective:
        """The same objective, whose training gradients mix samples (mixup, Zhang et al. 2018, arXiv:1710.09412).

        Args:
            alpha: parameter of the Beta distribution of the share of a sample, > 0.
        """
        fail("fit", f"mixup: {self.lacks('mixed') or 'cannot mix its samples'}")

    def class_weighted(self, class_weight: ClassWeight) -> Objective:
        """The same objective with the weight of each sample times that of its class; see `popgrad.fit`."""
        fail("fit", f"class_weight: {self.lacks('class_weighted') or 'has no classes'}")

    def lacks(self, operation: str) -> str | None:
        """The reason why an operation, such as "gradient", is not possible, for an error message; otherwise None."""
        if getattr(type(self), operation) is getattr(Objective, operation):
            return f"{type(self).__name__} does not define {operation}"
        return None

    def check(self, operation: str, rows: Array | None = None, w: Array | None = None) -> None:
        """Fail if the values are undefined on the samples, or a user-defined metric returns invalid results.

        Args:
            operation: prefix of error messages.
            rows: (b,) int64, the samples to use; default all.
            w: (n,) parameters for a call of the user-defined metric.
        """
        return

    def weighted_rows(self) -> Array | None:
        """Indices of the samples whose weight is not zero; None for all."""
        return None

    def strata(self) -> Array | None:
        """Labels (samples,) for stratified splits; None for random splits."""
        return None

    def report(self, w: Array, value: bool = True) -> Report:
        """Loss, metric and value at `w` (n,) on all samples; if `value` is False, the value may be NaN."""
        found = float(self.values(w[None], ALL)[0])
        return Report(found, found, found)

    # --- What went wrong --------------------------------------------------------------------------------------------

    def diverged(self, losses: Sequence[float], w: Array) -> bool:
        """Whether a gradient method failed: the last loss is not finite, or more than 10 % above the first.

        Args:
            losses: losses of all records.
            w: (n,) final parameters.
        """
        return not losses[-1] <= 1.1 * losses[0]

    def why_not_finite(self, w: Array) -> str:
        """An error message for untrained parameters (n,) whose loss is not finite, with the likely cause and remedy."""
        return "the loss of the untrained model is not finite; initialize the model anew"

    def scale_hint(self) -> str:
        """A further remedy for divergence, besides a smaller learning rate, such as ", and scale X"; or ""."""
        return ""

    # --- Costs ------------------------------------------------------------------------------------------------------

    def size(self, batch: Batch) -> int:
        """The number of samples in a batch."""
        return self.samples if batch.rows is None else len(batch.rows)

    def values_cost(self, popsize: int, batch: Batch) -> Cost:
        """The cost of `values` for `popsize` candidates."""
        return Cost(popsize * self.size(batch), popsize)

    def gradient_cost(self, batch: Batch) -> Cost:
        """The cost of `gradient`."""
        return Cost(GRADIENT_FORWARDS * self.size(batch), 1)

    def loss_cost(self, batch: Batch) -> Cost:
        """The cost of `loss`."""
        return self.gradient_cost(batch)

    def sampled_cost(self, batch: Batch) -> Cost:
        """The cost of `sampled`, a forward pass; calls on the result cost extra."""
        return Cost(self.size(batch), 0)


class Priced(Objective):
    """An objective that only reports the costs of operations, and computes no values or gradients.

    Args:
        layout: layout of the parameters.
        samples: number of samples.
        dtype: dtype of the parameters.
    """

    def __init__(self, layout: Layout, samples: int = 1, dtype: Any = np.float32) -> None:
        self.layout, self.samples, self.dtype = layout, samples, np.dtype(dtype)

    def values(self, population: Population, batch: Batch = ALL) -> Floats:
        """Always fails."""
        fail("Priced", "has no values")

    def lacks(self, operation: str) -> None:
        """None, since the cost of every operation is known."""
        return


class Around(Objective):
    """A wrapper around an inner objective; methods that a subclass does not override call the inner objective."""

    def __init__(self, inner: Objective) -> None:
        self.inner = inner
        self.layout, self.dtype, self.samples = inner.layout, inner.dtype, inner.samples
        self.name, self.metric_name = inner.name, inner.metric_name

    def values(self, population: Population, batch: Batch = ALL) -> Floats:
        """The values of the inner objective."""
        return self.inner.values(population, batch)

    def gradient(self, w: Array, batch: Batch, out: Array) -> float:
        """The gradient of the inner objective."""
        return self.inner.gradient(w, batch, out)

    def seen_gradient(self, w: Array, batch: Batch, out: Array) -> Seen:
        """The gradient of the inner objective, and what it saw."""
        return self.inner.seen_gradient(w, batch, out)

    def training_gradient(self, w: Array, batch: Batch, out: Array) -> float:
        """The gradient of the inner objective, for the step of an optimizer."""
        return self.inner.training_gradient(w, batch, out)

    def loss(self, w: Array, batch: Batch) -> float:
        """The loss of the inner objective."""
        return self.inner.loss(w, batch)

    def sampled(self, w: Array, batch: Batch, random: np.random.Generator) -> Objective:
        """The inner objective with sampled targets."""
        return self.inner.sampled(w, batch, random)

    def lacks(self, operation: str) -> str | None:
        """The reason why the inner objective lacks an operation, or None."""
        if operation == "training" and type(self).training is Objective.training:
            return Objective.lacks(self, operation)  # a native loop would use the gradients of the inner objective
        return self.inner.lacks(operation)

    def report(self, w: Array, value: bool = True) -> Report:
        """The report of the inner objective."""
        return self.inner.report(w, value)

    def size(self, batch: Batch) -> int:
        """The batch size in the inner objective."""
        return self.inner.size(batch)

    def values_cost(self, popsize: int, batch: Batch) -> Cost:
        """The cost in the inner objective."""
        return self.inner.values_cost(popsize, batch)

    def gradient_cost(self, batch: Batch) -> Cost:
        """The cost in the inner objective."""
        return self.inner.gradient_cost(batch)

    def loss_cost(self, batch: Batch) -> Cost:
        """The cost in the inner objective."""
        return self.inner.loss_cost(batch)

    def sampled_cost(self, batch: Batch) -> Cost:
        """The cost in the inner objective."""
        return self.inner.sampled_cost(batch)


class Metered(Around):
    """An objective that counts the cost of all calls; only this class charges a budget.

    Its gradients are zero in frozen tensors.

    Attributes:
        forwards, evaluations: cost so far, in the units of `popgrad.Budget`.
        nonfinite: number of losses and values so far that were NaN or infinite.
        running: figures of the training steps since the last record.
    """

    def __init__(self, inner: Objective, meter: Metered | None = None) -> None:
        super().__init__(inner)
        self.forwards = self.evaluations = self.nonfinite = 0
        self.running = Running()
        self._meter = self if meter is None else meter  # objectives with sampled targets share the meter

    def _charge(self, cost: Cost) -> None:
        self._meter.forwards += cost.forwards
        self._meter.evaluations += cost.evaluations

    def values(self, population: Population, batch: Batch = ALL) -> Floats:
        """The values of the inner objective, with their cost counted."""
        values = self.inner.values(population, batch)
        self._charge(self.inner.values_cost(len(population), batch))
        self._meter.nonfinite += len(values) - int(np.isfinite(values).sum())
        return values

    def gradient(self, w: Array, batch: Batch, out: Array) -> float:
        """The gradient of the inner objective, with its cost counted."""
        loss = self.inner.gradient(w, batch, out)
        self.layout.clear_frozen(out)
        self._charge(self.inner.gradient_cost(batch))
        self._meter.nonfinite += not math.isfinite(loss)
        return loss

    def seen_gradient(self, w: Array, batch: Batch, out: Array) -> Seen:
        """The gradient of the inner objective and what it saw, with its cost counted."""
        seen = self.inner.seen_gradient(w, batch, out)
        self.layout.clear_frozen(out)
        self._charge(self.inner.gradient_cost(batch))
        self._meter.nonfinite += not math.isfinite(seen.loss)
        return seen

    def training_gradient(self, w: Array, batch: Batch, out: Array) -> float:
        """The gradient of the inner objective for a step, with its cost counted and its figures added to `running`."""
        seen = self.seen_gradient(w, batch, out)
        self.running.add(seen.loss * seen.weight, seen.metric * seen.weight, seen.weight)
        return seen.loss

    def training(self, w: Array, gradient: Array, state: Any, rule: _core.StepRule, span: Span) -> _core.Training:
        """The native loop of the inner objective; `trained` counts its cost."""
        return self.inner.training(w, gradient, state, rule, span)

    def trained(self, loop: _core.Training, span: Span) -> None:
        """Count the cost of what a native loop did, and add its figures to `running`."""
        samples = span_samples(span, loop.steps, self.samples)
        self._charge(Cost(GRADIENT_FORWARDS * samples, loop.steps))
        self._meter.nonfinite += loop.failed
        self.running.add(loop.loss, loop.metric, loop.weight)

    def loss(self, w: Array, batch: Batch) -> float:
        """The loss of the inner objective, with its cost counted."""
        loss = self.inner.loss(w, batch)
        self._charge(self.inner.loss_cost(batch))
        if not math.isfinite(loss):
            self._meter.nonfinite += 1
        return loss

    def sampled(self, w: Array, batch: Batch, random: np.random.Generator) -> Metered:
        """The inner objective with sampled targets, metered by the same meter, with the cost of sampling counted."""
        drawn = self.inner.sampled(w, batch, random)
        self._charge(self.inner.sampled_cost(batch))
        return Metered(drawn, self._meter)
