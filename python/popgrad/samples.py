"""Samples and targets that a model has checked, and what networks make of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from popgrad import _core, metrics
from popgrad.checks import fail
from popgrad.metrics import Measure
from popgrad.perturbations import Perturbations

__all__ = ["Data"]

Array = NDArray[Any]

SCORES = _core.scores()
MEMORY_LIMIT = 64 << 20  # bytes that an evaluation may take beside its arguments and its result


class Model(Protocol):
    """What samples need to know of an `MLP`."""

    sizes: list[int]
    loss_name: str
    dtype: np.dtype[Any]
    dropout: float
    seed: int
    network: _core.Network


class Data:
    """Samples and targets that a model has checked; made by `MLP.data`.

    Args:
        model: whose network and loss are meant.
        X: (B, inputs). y: (B, 1) labels or (B, outputs) targets. weight: (B,) or None. All of the model's dtype, and
            not to be changed as long as this lives: the kernels keep a copy of their own.
    """

    def __init__(self, model: Model, X: Array, y: Array, weight: Array | None) -> None:
        self.model, self.X, self.y, self.weight = model, X, y, weight
        self._packed: dict[tuple[bool, bool], _core.Packed] = {}  # by `balanced` and `bfloat16`

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_packed": {}}

    def __len__(self) -> int:
        return len(self.X)

    def rows(self, rows: Array) -> Data:
        """The samples with these numbers, copied."""
        weight = None if self.weight is None else self.weight[rows]
        return Data(self.model, self.X[rows], self.y[rows], weight)

    def check(self, operation: str, measure: Measure, rows: Array | None = None) -> None:
        """Fail if these samples (rows (b,) int64, default all) do not say what the measure is.

        Raises:
            InputError: no sample has weight, or "auc" of samples of one class.
        """
        y, weight = self._seen(rows)
        if weight is not None and not weight.any():
            fail(operation, "sample_weight is zero for all of these samples")
        measure.check(operation, y, weight)

    def _seen(self, rows: Array | None) -> tuple[Array, Array | None]:
        """Targets as metrics see them, labels (b,) int64 or numbers (b, outputs), and weights (b,) or None."""
        y, weight = (values if rows is None or values is None else values[rows] for values in (self.y, self.weight))
        assert y is not None
        labels = SCORES[self.model.loss_name].labels
        return (y[:, 0].astype(np.int64) if labels else y), weight

    def evaluate(
        self, population: Array | Perturbations, measure: Measure | None = None, rows: Array | None = None
    ) -> NDArray[np.float64]:
        """Fitness (P,) of a C-contiguous population of the model's dtype; infinity where it is not finite.

        Args:
            population: (P, n), or `Perturbations` that fit the model.
            measure: `MLP.measure`; default the loss.
            rows: (b,) int64, the samples to use; default all.
        """
        return self.evaluator(measure, rows)(population)

    def evaluator(
        self,
        measure: Measure | None = None,
        rows: Array | None = None,
        memory_limit: int = MEMORY_LIMIT,
        bfloat16: bool = False,
    ) -> Callable[[Array | Perturbations], NDArray[np.float64]]:
        """`evaluate` for many populations: what depends on the samples alone is done once.

        Args:
            measure, rows: as for `evaluate`.
            memory_limit: bytes for the raw outputs, where they are needed, what is computed from them, and members of
                `Perturbations`, which must be made for that; those of one candidate are taken in any case.
            bfloat16: whether to multiply bfloat16 numbers. It needs a float32 model and `_core.bfloat16()`, and no
                population with noise of low rank.
        """
        network, score = self.model.network, measure.score if measure else self.model.loss_name
        if measure is not None and not score:
            return self._of_outputs(measure, rows, memory_limit, bfloat16)
        packed = self._pack(bool(measure and measure.balanced), rows, bfloat16)

        def evaluate(population: Array | Perturbations) -> NDArray[np.float64]:
            out = np.empty(len(population))
            if isinstance(population, Perturbations):
                network.evaluate_noise(score, population.noise, population.center, packed, out)
            else:
                network.evaluate(score, population, packed, out)
            out[~np.isfinite(out)] = np.inf
            return out

        return evaluate

    def _pack(self, balanced: bool, rows: Array | None, bfloat16: bool) -> _core.Packed:
        """The samples, laid out for the kernels; all of them once: a search evaluates them many times."""
        if rows is None and (balanced, bfloat16) in self._packed:
            return self._packed[balanced, bfloat16]
        weight = self.weight
        if balanced:
            weight = np.zeros(len(self), self.X.dtype)
            weight[slice(None) if rows is None else rows] = metrics.class_weights(*self._seen(rows))
        packed = self.model.network.pack(self.X, self.y, weight, rows, bfloat16)
        if rows is None:
            self._packed[balanced, bfloat16] = packed
        return packed

    def _of_outputs(
        self, measure: Measure, rows: Array | None, memory_limit: int, bfloat16: bool
    ) -> Callable[[Array | Perturbations], NDArray[np.float64]]:
        """An evaluator from raw outputs, of as many candidates at a time as the memory is for."""
        network, outputs = self.model.network, self.model.sizes[-1]
        X = self.X if rows is None else self.X[rows]
        y, weight = (None if values is None else _read_only(values) for values in self._seen(rows))
        assert y is not None
        each = len(X) * measure.bytes_per_sample(outputs, X.itemsize)

        def evaluate(population: Array | Perturbations) -> NDArray[np.float64]:
            out = np.empty(len(population))
            member = population.shape[1] * X.itemsize if isinstance(population, Perturbations) else 0
            count = min(len(population), max(1, memory_limit // (each + member)))
            z = np.empty((count, len(X), outputs), X.dtype)
            for first in range(0, len(population), count):
                part = rows_of(population, first, count)
                network.forward(part, X, z[: len(part)], bfloat16)
                out[first : first + count] = measure.values(z[: len(part)], y, weight)
            return out

        return evaluate

    def gradient(self, params: Array, out: Array, rows: Array | None = None, step: int | None = None) -> float:
        """The mean loss; its gradient is written to `out`.

        Args:
            params, out: (n,) of the model's dtype.
            rows: (b,) int64, the samples to use; default all.
            step: number of the training step, which dropout's masks depend on; None means no dropout.
        """
        model = self.model
        dropout = 0.0 if step is None else model.dropout
        return model.network.gradient(
            model.loss_name, params, self.X, self.y, self.weight, rows, out, dropout, model.seed, step or 0
        )

    def constant_loss(self) -> float:
        """The loss of a network that ignores its inputs: its outputs are the mean target, or give its probability."""
        model, weight = self.model, self.weight
        y = np.eye(model.sizes[-1])[self.y[:, 0].astype(np.int64)] if SCORES[model.loss_name].labels else self.y
        mean = np.average(y.astype(np.float64), axis=0, weights=weight)
        if "cross_entropy" in model.loss_name:
            least = float(np.finfo(model.dtype).tiny)
            mean = np.log(np.maximum(mean, least)) - (
                np.log(np.maximum(1 - mean, least)) if model.loss_name.startswith("binary") else 0.0
            )
        params = np.zeros((1, model.network.n), model.dtype)
        params[0, -len(mean) :] = mean  # the biases of the last layer
        return float(self.evaluate(params)[0])

    def constant_outputs(self, params: Array) -> bool:
        """Whether a network (n,) gives the same outputs for at least 99 % of the samples, though these differ."""
        if np.array_equal(self.X, np.broadcast_to(self.X[0], self.X.shape)):
            return False
        z = np.empty((1, len(self), self.model.sizes[-1]), self.model.dtype)
        self.model.network.forward(params[None], self.X, z)
        return bool((z[0] == np.median(z[0], axis=0)).all(axis=1).mean() >= 0.99)

    def draw(self, params: Array, rows: Array | None, random: np.random.Generator) -> Data:
        """The samples with targets drawn from what the network predicts for them.

        The loss is the negative logarithm of a probability: of classes, of yes and no, or of a normal distribution
        (the mean squared error over K outputs has variance K / 2).

        Args:
            params: (n,) of the model's dtype.
            rows: (b,) int64, the samples to use; default all.
            random: what to draw with.

        Raises:
            InputError: the loss has no such distribution.
        """
        model, loss = self.model, self.model.loss_name
        part = self if rows is None else self.rows(rows)
        outputs = np.empty((len(part), model.sizes[-1]), model.dtype)
        model.network.forward(params[None], part.X, outputs[None])
        if loss == "cross_entropy":
            noise = random.gumbel(size=outputs.shape)
            y: Array = (outputs + noise).argmax(axis=1)[:, None]
        elif loss == "binary_cross_entropy":
            y = random.logistic(size=outputs.shape) < outputs
        elif loss == "mse":
            y = outputs + random.normal(0, np.sqrt(outputs.shape[1] / 2), outputs.shape)
        else:
            fail("MLP", f"targets can be drawn for cross_entropy, binary_cross_entropy and mse, not for {loss}")
        return Data(model, part.X, np.ascontiguousarray(y, model.dtype), part.weight)


def rows_of(population: Array | Perturbations, first: int, count: int) -> Array:
    """Up to `count` members from `first` on."""
    last = min(first + count, len(population))
    return population.rows(first, last) if isinstance(population, Perturbations) else population[first:last]


def _read_only(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view
