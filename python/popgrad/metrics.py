"""Fitness beyond the native losses: functions of the raw outputs of several networks at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax

from popgrad import arrays
from popgrad.checks import InputError, fail

__all__ = ["NAMES", "Measure", "Metric", "OfOutputs", "OutputMetric", "Score", "UserMetric"]

Array = NDArray[Any]
Floats = NDArray[np.float64]
Metric = str | tuple[str, float] | Callable[..., ArrayLike]

NAMES = ("balanced_error", "f1_macro", "auc", "r2", "quantile")


class Measure(ABC):
    """How to compute a fitness: as the mean of a native score, or from raw outputs.

    Attributes:
        name: name of the metric.
    """

    name: str

    def check(self, operation: str, y: Array, weight: Array | None) -> None:
        """Fail if the metric is undefined for these samples.

        Args:
            operation: name at the start of error messages.
            y: labels (B,) or targets (B, outputs).
            weight: (B,) or None.

        Raises:
            InputError: the metric is "auc" and all samples have the same class.
        """
        return


@final
@dataclass(frozen=True)
class Score(Measure):
    """The weighted mean of a native score over the samples.

    Args:
        name: name of the metric.
        score: name of the native score.
        setting: its number, such as the delta of "huber"; 0 for scores without one.
        balanced: whether all classes that occur have equal total weight in the mean.
    """

    name: str = field(compare=False)
    score: str
    setting: float = 0.0
    balanced: bool = False

    @property
    def native(self) -> tuple[str, float]:
        """The score for the native core."""
        return self.score, self.setting


class OfOutputs(Measure):
    """A function of the raw outputs of several networks at once."""

    @abstractmethod
    def bytes_per_sample(self, outputs: int, itemsize: int) -> int:
        """Bytes of memory for one sample of one candidate: its outputs and the temporary arrays."""

    @abstractmethod
    def values(self, z: Array, y: Array, weight: Array | None) -> Floats:
        """Fitness (c,) of raw outputs (c, B, outputs); infinity replaces a fitness that is not finite.

        Args:
            z: raw outputs.
            y: labels (B,) or targets (B, outputs).
            weight: (B,) or None.
        """


@final
@dataclass(frozen=True)
class OutputMetric(OfOutputs):
    """A metric of this package.

    Args:
        name: name of the metric.
        function: computes the fitness (c,) from raw outputs, y and weights (B,).
    """

    name: str
    function: Callable[[Array, Array, Floats], Floats]

    def bytes_per_sample(self, outputs: int, itemsize: int) -> int:
        """See `OfOutputs.bytes_per_sample`."""
        return outputs * (itemsize + 24) + 96

    def check(self, operation: str, y: Array, weight: Array | None) -> None:
        """See `Measure.check`."""
        if self.name == "auc" and not len(_contrasts(y, _ones(y, weight))):
            fail(operation, "auc needs samples of at least two classes, with weights above zero")

    def values(self, z: Array, y: Array, weight: Array | None) -> Floats:
        """See `OfOutputs.values`."""
        broken = ~np.isfinite(z).all(axis=(1, 2))
        with np.errstate(all="ignore"):
            values = np.array(self.function(z, y, _ones(y, weight)), np.float64)
        values[broken | ~np.isfinite(values)] = np.inf
        return values


@final
@dataclass(frozen=True)
class UserMetric(OfOutputs):
    """A metric function from the user.

    Args:
        name: name of the function.
        function: computes the fitness (c,) from raw outputs and y, and from the weights if there are any.
        operation: name at the start of error messages.
    """

    name: str
    function: Callable[..., ArrayLike]
    operation: str

    def bytes_per_sample(self, outputs: int, itemsize: int) -> int:
        """See `OfOutputs.bytes_per_sample`."""
        return outputs * itemsize

    def values(self, z: Array, y: Array, weight: Array | None) -> Floats:
        """See `OfOutputs.values`.

        Raises:
            InputError: the function did not return c numbers.
        """
        # The function gets weights only if there are any, so that a metric without weights needs no third parameter.
        given = self.function(z, y) if weight is None else self.function(z, y, weight)
        expected = f"metric {self.name} must return one number for each of {len(z)} candidates, shape ({len(z)},)"
        try:
            values = arrays.read(self.operation, "the returned value", given)
        except InputError as error:
            fail(self.operation, f"{expected}: {str(error).partition('] ')[2]}")
        if values.shape != (len(z),) or values.dtype.kind not in "fiub":
            fail(self.operation, f"{expected}, got {values.dtype} {values.shape}")
        values = values.astype(np.float64)
        values[~np.isfinite(values)] = np.inf
        return values


def named(name: str, level: float = 0.5) -> Measure:
    """The measure behind one of "f1_macro", "auc", "r2" and "quantile" (with its level)."""
    functions = {"f1_macro": _f1_macro, "auc": _auc, "r2": _r2}
    return OutputMetric(name, functions.get(name) or (lambda z, y, weight: _quantile(z, y, weight, level)))


def class_weights(y: Array, weight: Array | None) -> Floats:
    """Weights (B,) with mean 1 that give all classes of y (B,) or (B, 1) with nonzero weight the same total weight."""
    y, own = _labels(y), _ones(y, weight)
    total = np.bincount(y, own)
    share = np.divide(len(y) / np.count_nonzero(total), total, out=np.zeros(len(total)), where=total > 0)
    return np.asarray(own * share[y], np.float64)


def _labels(y: Array) -> Array:
    """Labels (B,): y itself, or 1 where the binary target (B, 1) is above 0.5."""
    return y if y.ndim == 1 else (y[:, 0] > 0.5).astype(np.int64)


def _ones(y: Array, weight: Array | None) -> Floats:
    return np.ones(len(y)) if weight is None else weight.astype(np.float64)


def _f1_macro(z: Array, y: Array, weight: Floats) -> Floats:
    """1 - the mean F1 over the classes that occur in the labels or the predictions."""
    count, samples, outputs = z.shape
    classes, y = max(outputs, 2), _labels(y)
    predicted = z.argmax(axis=2) if outputs > 1 else (z[:, :, 0] > 0).astype(np.int64)
    hit = np.where(predicted == y, weight, 0.0)
    predicted += classes * np.arange(count)[:, None]
    cells = predicted.ravel()
    said = np.bincount(cells, np.broadcast_to(weight, (count, samples)).ravel(), count * classes)
    right = np.bincount(cells, hit.ravel(), count * classes).reshape(count, classes)
    both = said.reshape(count, classes) + np.bincount(y, weight, classes)
    f1 = np.divide(2 * right, both, out=np.zeros_like(both), where=both > 0)
    return np.asarray(1 - f1.sum(axis=1) / np.count_nonzero(both, axis=1), np.float64)


def _contrasts(y: Array, weight: Floats) -> Array:
    """Classes or target columns that have both positive and negative samples with nonzero weight."""
    if y.ndim == 1:
        present = np.flatnonzero(np.bincount(y, weight))
        return present if len(present) > 1 else present[:0]
    yes, counts = y > 0.5, (weight > 0)[:, None]
    return np.flatnonzero((yes & counts).any(axis=0) & (~yes & counts).any(axis=0))


def _auc(z: Array, y: Array, weight: Floats) -> Floats:
    """1 - the area under the ROC curve: the mean over classes (one against the rest), or over outputs.

    Returns 0.5 if there are no pairs to compare, as in a minibatch of one class.
    """
    contrasts = _contrasts(y, weight)
    if len(contrasts) == 0:
        return np.full(len(z), 0.5)
    scores = z.astype(np.float64)
    if y.ndim == 1 and z.shape[2] == 2:
        return 1 - _area(scores[:, :, 1] - scores[:, :, 0], y == 1, weight)
    if y.ndim == 1:
        # Class probabilities are comparable across samples, raw outputs are not; the logarithm keeps their order.
        scores = log_softmax(scores, axis=2)
    areas = [_area(scores[:, :, k], y == k if y.ndim == 1 else y[:, k] > 0.5, weight) for k in contrasts]
    return np.asarray(1 - np.mean(areas, axis=0), np.float64)


def _area(scores: Floats, positive: Array, weight: Floats) -> Floats:
    """The share of (positive, negative) pairs in which the positive has the larger score; ties count half."""
    order = scores.argsort(axis=1)
    scores = np.take_along_axis(scores, order, axis=1)
    # Cumulative weight of the negatives, including each position. Of equal scores, `first` counts none, `last` all.
    below = np.where(positive, 0.0, weight)[order].cumsum(axis=1)
    differs = scores[:, 1:] != scores[:, :-1]
    first, last = np.zeros_like(below), np.empty_like(below)
    first[:, 1:] = np.where(differs, below[:, :-1], 0.0)
    np.maximum.accumulate(first, axis=1, out=first)
    last[:, -1] = below[:, -1]
    last[:, :-1] = np.where(differs, below[:, :-1], np.inf)
    backwards = last[:, ::-1]
    np.minimum.accumulate(backwards, axis=1, out=backwards)
    pairs = 0.5 * (np.where(positive, weight, 0.0)[order] * (first + last)).sum(axis=1)
    return np.asarray(pairs / (weight[positive].sum() * weight[~positive].sum()), np.float64)


def _r2(z: Array, y: Array, weight: Floats) -> Floats:
    """1 - R2, the mean over outputs. A constant target gives 0 if predicted exactly, else 1, as in scikit-learn."""
    y = y.astype(np.float64)
    missed = z - y
    missed *= missed
    residual = np.einsum("cbo,b->co", missed, weight)
    total = weight @ (y - np.average(y, axis=0, weights=weight)) ** 2
    known = y[weight > 0]
    varied = (known != known[0]).any(axis=0)
    share = np.divide(residual, total, out=(residual > 0).astype(np.float64), where=varied)
    return np.asarray(share.mean(axis=1), np.float64)


def _quantile(z: Array, y: Array, weight: Floats, level: float) -> Floats:
    """The pinball loss (Koenker & Bassett 1978), the mean over outputs."""
    missed = y - z.astype(np.float64)
    each = np.maximum(level * missed, (level - 1) * missed)
    return np.asarray(np.einsum("cbo,b->c", each, weight) / (weight.sum() * z.shape[2]), np.float64)
