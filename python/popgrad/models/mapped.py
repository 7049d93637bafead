"""The objective of a network on samples in a mapped file: it reads some samples at a time and never copies all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popgrad import metrics
from popgrad.arrays import is_mapped
from popgrad.budget import Cost
from popgrad.labels import Classes, ClassWeight
from popgrad.metrics import OfOutputs, Score, UserMetric
from popgrad.models.objective import NetworkObjective
from popgrad.objective import ALL, Batch, Objective, Population, Report, Running, Seen
from popgrad.system import memory_bytes

__all__ = ["MappedObjective", "in_parts"]

Array = NDArray[Any]
Floats = NDArray[np.float64]

PART = 32 << 20  # bytes of inputs to copy at a time
_RUNS = 16  # runs of consecutive samples by which a training is judged


def in_parts(objective: NetworkObjective) -> Objective:
    """The objective, or a `MappedObjective` if its inputs are in a mapped file or fill a quarter of the memory."""
    X = objective.X
    return MappedObjective(objective) if is_mapped(X) or 4 * X.nbytes > memory_bytes() else objective


class MappedObjective(Objective):
    """Loss and metrics of an `MLP` on samples that are too large to copy.

    A batch is copied to memory, and a pass over all samples copies up to 32 MiB of inputs at a time. A subset keeps
    the indices of its samples. Values and gradients of up to 32 MiB of samples have the bits of a `NetworkObjective`;
    larger ones are sums over parts.

    Args:
        whole: the objective on all samples of the file.
        rows: (b,) int64, the samples of this objective; None for all.
    """

    def __init__(self, whole: NetworkObjective, rows: Array | None = None) -> None:
        self.whole, self.rows = whole, rows
        self.layout, self.dtype = whole.layout, whole.dtype
        self.samples = whole.samples if rows is None else len(rows)
        self.name, self.metric_name = whole.name, whole.metric_name

    @property
    def classes(self) -> Classes | None:
        """Original labels of the class indices, or None."""
        return self.whole.classes

    # --- Parts ------------------------------------------------------------------------------------------------------

    def _places(self, rows: Array | None) -> Array:
        """The indices in the file of samples of this objective."""
        if self.rows is None:
            return np.arange(self.samples) if rows is None else rows
        return self.rows if rows is None else self.rows[rows]

    def _part(self, rows: Array | None) -> NetworkObjective:
        """The objective on a copy of samples."""
        return self.whole.subset(self._places(rows))

    @property
    def _limit(self) -> int:
        """The number of samples to copy at a time."""
        return max(1, PART // (self.whole.model.sizes[0] * self.dtype.itemsize))

    def _cut(self, rows: Array | None) -> Iterator[Array]:
        """The indices in the file of samples, some at a time."""
        places, limit = self._places(rows), self._limit
        for first in range(0, len(places), limit):
            yield places[first : first + limit]

    def _some(self) -> NetworkObjective:
        """The objective on some evenly spaced runs of samples, to judge the training by."""
        runs = np.array_split(np.arange(self.samples), min(_RUNS, self.samples))
        return self._part(np.concatenate([run[: max(1, self._limit // _RUNS)] for run in runs]))

    def subset(self, rows: Array) -> MappedObjective:
        """The same objective on the samples with indices `rows` (b,), which are not copied."""
        return MappedObjective(self.whole, self._places(rows))

    def with_samples(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        operation: str = "Objective.with_samples",
    ) -> Objective:
        """See `Objective.with_samples`."""
        return in_parts(self.whole.with_samples(X, y, sample_weight, operation=operation))

    def strata(self) -> Array | None:
        """See `NetworkObjective.strata`."""
        labels = self.whole.strata()
        return labels if labels is None or self.rows is None else labels[self.rows]

    def in_precision(self, precision: str) -> MappedObjective:
        """See `Objective.in_precision`."""
        return MappedObjective(self.whole.in_precision(precision), self.rows)

    def mixed(self, alpha: float) -> MappedObjective:
        """See `Objective.mixed`."""
        return MappedObjective(self.whole.mixed(alpha), self.rows)

    def class_weighted(self, class_weight: ClassWeight) -> MappedObjective:
        """See `Objective.class_weighted`."""
        return MappedObjective(self.whole.class_weighted(class_weight, self.rows), self.rows)

    def weighted_rows(self) -> Array | None:
        """See `Objective.weighted_rows`."""
        weight = self.whole.weight
        if weight is None:
            return None
        weight = weight[self._places(None)]
        return None if weight.all() else np.flatnonzero(weight)

    def lacks(self, operation: str) -> str | None:
        """See `Objective.lacks`."""
        if operation in ("gradient", "sampled"):
            return self.whole.lacks(operation)
        return super().lacks(operation)

    def check(self, operation: str, rows: Array | None = None, w: Array | None = None) -> None:
        """See `NetworkObjective.check`."""
        self.whole.check(operation, self._places(rows))
        if w is not None and isinstance(self.whole.measure, UserMetric):
            self._some().check(operation, None, w)

    # --- Values -----------------------------------------------------------------------------------------------------

    def values(self, population: Population, batch: Batch = ALL) -> Floats:
        """See `Objective.values`."""
        measure = self.whole.measure
        if self.size(batch) <= self._limit:
            return self._part(batch.rows).values(population)
        if isinstance(measure, OfOutputs):
            return np.array([self._of_outputs(measure, population[i], batch.rows) for i in range(len(population))])
        assert isinstance(measure, Score)
        total, weights = np.zeros(len(population)), 0.0
        for part in self._balanced(batch.rows) if measure.balanced else map(self.whole.subset, self._cut(batch.rows)):
            weight = _weight(part)
            total += weight * part.values(population)
            weights += weight
        return total / weights

    def _balanced(self, rows: Array | None) -> Iterator[NetworkObjective]:
        """Parts whose weights give the classes of all samples equal weight."""
        whole, measure = self.whole, self.whole.measure
        assert isinstance(measure, Score)
        y, own = self._targets(rows)
        weights = metrics.class_weights(y, own).astype(self.dtype)
        first = 0
        for places in self._cut(rows):
            weight = weights[first : first + len(places)]
            first += len(places)
            part, plain = self.whole.subset(places), Score(measure.name, measure.score, measure.setting)
            yield NetworkObjective(whole.model, part.X, part.y, weight, plain, whole.classes)

    def _targets(self, rows: Array | None) -> tuple[Array, Array | None]:
        """The arguments of metrics: labels (b,) int64 or numbers (b, outputs), and weights (b,) or None."""
        whole, places = self.whole, self._places(rows)
        y, weight = whole.y[places], None if whole.weight is None else whole.weight[places]
        return (y[:, 0].astype(np.int64) if whole.criterion.targets == "labels" else y), weight

    def _of_outputs(self, measure: OfOutputs, w: Array, rows: Array | None) -> float:
        """The value of a measure of raw outputs for one network (n,)."""
        network, outputs = self.whole.model.network, self.whole.model.sizes[-1]
        y, weight = self._targets(rows)
        z, first = np.empty((1, len(y), outputs), self.dtype), 0
        for places in self._cut(rows):
            network.forward(w[None], self.whole.subset(places).X, z[:, first : first + len(places)])
            first += len(places)
        return float(measure.values(z, y, weight)[0])

    def report(self, w: Array, value: bool = True) -> Report:
        """See `Objective.report`; one pass over the samples, or two if the value is no mean over samples."""
        measure = self.whole.measure
        mean = isinstance(measure, Score) and not measure.balanced
        total, weights = np.zeros(3), 0.0
        for places in self._cut(None):
            part = self.whole.subset(places)
            weight = _weight(part)
            total += weight * np.array(part.report(w, value and mean))
            weights += weight
        loss, metric, found = (total / weights).tolist()
        return Report(loss, metric, found if mean or not value else float(self.values(w[None])[0]))

    # --- Gradients --------------------------------------------------------------------------------------------------

    def gradient(self, w: Array, batch: Batch, out: Array) -> float:
        """See `Objective.gradient`."""
        return self.seen_gradient(w, batch, out).loss

    def seen_gradient(self, w: Array, batch: Batch, out: Array) -> Seen:
        """See `Objective.seen_gradient`."""
        step = Batch(None, batch.step)
        if self.size(batch) <= self._limit:
            return self._part(batch.rows).seen_gradient(w, step, out)
        total, running = np.zeros(len(w)), Running()
        for places in self._cut(batch.rows):
            loss, metric, weight = self.whole.subset(places).seen_gradient(w, step, out)
            running.add(loss * weight, metric * weight, weight)
            total += weight * out
        out[:] = total / running.weight
        return Seen(running.loss / running.weight, running.metric / running.weight, running.weight)

    def loss(self, w: Array, batch: Batch) -> float:
        """See `NetworkObjective.loss`."""
        total, weights = 0.0, 0.0
        for part in map(self.whole.subset, self._cut(batch.rows)):
            weight = _weight(part)
            total += weight * part.loss(w, Batch(None, batch.step))
            weights += weight
        return total / weights

    def loss_cost(self, batch: Batch) -> Cost:
        """See `Objective.loss_cost`."""
        return self.gradient_cost(batch) if self.whole.draws(batch) else self.values_cost(1, batch)

    def sampled(self, w: Array, batch: Batch, random: np.random.Generator) -> NetworkObjective:
        """See `NetworkObjective.sampled`; copies the samples of the batch."""
        return self._part(batch.rows).sampled(w, Batch(None, batch.step), random)

    # --- What went wrong --------------------------------------------------------------------------------------------

    def diverged(self, losses: Sequence[float], w: Array) -> bool:
        """See `NetworkObjective.diverged`; judged by up to 32 MiB of samples."""
        return self._some().diverged(losses, w)

    def why_not_finite(self, w: Array) -> str:
        """See `Objective.why_not_finite`; judged by up to 32 MiB of samples."""
        return self._some().why_not_finite(w)

    def scale_hint(self) -> str:
        """See `Objective.scale_hint`; judged by up to 32 MiB of samples."""
        return self._some().scale_hint()


def _weight(objective: NetworkObjective) -> float:
    """The total weight of the samples."""
    return float(objective.samples if objective.weight is None else objective.weight.sum(dtype=np.float64))
