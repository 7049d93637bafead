"""The loss or metric of a network on checked samples, as an `Objective`."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popgrad import _core, labels, metrics
from popgrad.budget import Cost
from popgrad.checks import fail
from popgrad.labels import Classes, ClassWeight
from popgrad.losses import REGISTRY
from popgrad.metrics import Measure, OfOutputs, Score, UserMetric
from popgrad.models.validation import checked_precision, checked_weights
from popgrad.objective import ALL, Batch, Objective, Population, Report, Seen, Span
from popgrad.perturbations import Perturbations

if TYPE_CHECKING:
    from popgrad.losses import Loss
    from popgrad.models.mlp import MLP

__all__ = ["NetworkObjective"]

Array = NDArray[Any]
Floats = NDArray[np.float64]
Evaluator = Callable[[Population], Floats]

MEMORY_LIMIT = 64 << 20  # bytes for the buffers of an evaluation


class NetworkObjective(Objective):
    """Loss and metrics of an `MLP` on samples; made by `MLP.objective`.

    Args:
        model: the model, with its network and loss.
        X: (B, inputs) inputs.
        y: (B, 1) labels or (B, outputs) targets.
        weight: (B,) or None. All arrays have the model's dtype and must not change while the objective is in use.
        measure: measure that `values` returns.
        classes: original labels of the class indices in y, or None.
        criterion: the loss; None for that of the model.
    """

    def __init__(
        self,
        model: MLP,
        X: Array,
        y: Array,
        weight: Array | None,
        measure: Measure,
        classes: Classes | None = None,
        criterion: Loss | None = None,
    ) -> None:
        self.criterion = model.criterion if criterion is None else criterion
        self._loss_score = Score("loss", *self.criterion.score)
        self.bfloat16 = False  # whether gradients multiply bfloat16 numbers
        self.mixup = 0.0
        self.model, self.X, self.y, self.weight, self.measure, self.classes = model, X, y, weight, measure, classes
        self.layout, self.dtype, self.samples = model.layout, model.dtype, len(X)
        self.name, self.metric_name = measure.name, model.metric_name
        self._packed: dict[tuple[bool, bool], _core.Packed] = {}  # by `balanced` and `bfloat16`

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_packed": {}}

    def _changed(self, **changes: Any) -> NetworkObjective:
        """A copy with other attributes."""
        again = copy.copy(self)
        vars(again).update(changes, _packed={})
        again.samples = len(again.X)
        return again

    def subset(self, rows: Array) -> NetworkObjective:
        """The same objective on a copy of the samples with indices `rows` (b,)."""
        weight = None if self.weight is None else self.weight[rows]
        return self._changed(X=self.X[rows], y=self.y[rows], weight=weight)

    def with_model(self, model: MLP) -> NetworkObjective:
        """See `Objective.with_model`."""
        if model.criterion != self.criterion:
            fail("fit_many", f"models must have one loss, got {self.criterion.shown} and {model.criterion.shown}")
        return self._changed(model=model)

    def in_precision(self, precision: str) -> NetworkObjective:
        """See `Objective.in_precision`; `loss` and `values` stay in the model's dtype."""
        bfloat16 = checked_precision("fit", precision, self.dtype) == "bfloat16"
        if bfloat16 and _core.bfloat16() is None:
            why = f"the instruction set in use, {_core.isa()}, has no bfloat16 products"
            fail("fit", f"precision='bfloat16': {why}; omit precision, and the gradients are in float32")
        return self._changed(bfloat16=bfloat16)

    def mixed(self, alpha: float) -> NetworkObjective:
        """See `Objective.mixed`; the partners are a shuffled batch, drawn by the model's seed and the step."""
        return self._changed(mixup=alpha)

    def class_weighted(self, class_weight: ClassWeight, rows: Array | None = None) -> NetworkObjective:
        """See `Objective.class_weighted`; "balanced" counts the samples with indices `rows` (b,), by default all."""
        y = self.strata()
        if y is None:
            fail("fit", "class_weight needs one class label per sample: a classification with one target")
        counted = y if rows is None else y[rows]
        count = max(2, self.model.sizes[-1])
        factors = labels.class_factors("fit", class_weight, np.bincount(counted, minlength=count), self.classes)
        weight = factors[y] * (1.0 if self.weight is None else self.weight)
        return self._changed(weight=checked_weights("fit", weight, self.samples, self.dtype))

    def strata(self) -> Array | None:
        """Labels (B,) int64, or None if the targets are numbers, such as probabilities in binary_cross_entropy."""
        if self.model.takes_classes and bool((self.y == np.floor(self.y)).all()):
            return self.y[:, 0].astype(np.int64)
        return None

    def lacks(self, operation: str) -> str | None:
        """See `Objective.lacks`."""
        model = self.model
        if operation == "gradient" and not model.has_gradient:
            return (
                f"activation {model.activation!r} has no gradient. Train the model with a search (popgrad.search), "
                "or choose another activation."
            )
        if operation == "sampled" and self.criterion.unsmoothed is None:
            known = ", ".join(name for name, kind in REGISTRY.items() if kind().unsmoothed is not None)
            return f"targets can be sampled for {known}, but not for the loss {model.loss_name!r}"
        return super().lacks(operation)

    def check(self, operation: str, rows: Array | None = None, w: Array | None = None) -> None:
        """See `Objective.check`.

        Raises:
            InputError: all weights are zero, all samples for "auc" have the same class, or a user-defined metric does
                not return one number per candidate.
        """
        y, weight = self._seen(rows)
        if weight is not None and not weight.any():
            fail(operation, "sample_weight is zero for all of these samples")
        self.measure.check(operation, y, weight)
        if w is not None and isinstance(self.measure, UserMetric):
            # Two candidates detect a function that returns a single number for all candidates.
            self.evaluator(self.measure, rows)(np.stack([w, w]))

    def with_samples(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        operation: str = "Objective.with_samples",
    ) -> NetworkObjective:
        """See `Objective.with_samples`; the classes are the same."""
        return self.model.checked_objective(operation, X, y, sample_weight, self.measure, self.classes)

    def weighted_rows(self) -> Array | None:
        """See `Objective.weighted_rows`."""
        return None if self.weight is None or self.weight.all() else np.flatnonzero(self.weight)

    def _seen(self, rows: Array | None) -> tuple[Array, Array | None]:
        """The arguments of metrics: labels (b,) int64 or numbers (b, outputs), and weights (b,) or None."""
        y, weight = (values if rows is None or values is None else values[rows] for values in (self.y, self.weight))
        assert y is not None
        return (y[:, 0].astype(np.int64) if self.criterion.targets == "labels" else y), weight

    # --- Values -----------------------------------------------------------------------------------------------------

    def values(self, population: Population, batch: Batch = ALL) -> Floats:
        """See `Objective.values`."""
        return self.evaluator(self.measure, batch.rows)(population)

    def evaluator(
        self,
        measure: Measure,
        rows: Array | None = None,
        memory_limit: int = MEMORY_LIMIT,
        bfloat16: bool = False,
    ) -> Evaluator:
        """A function that maps a population to its fitness (P,); non-finite values become infinity.

        The samples are prepared once, before the function is returned.

        Args:
            measure: the measure to evaluate.
            rows: (b,) int64, the samples to use; default all.
            memory_limit: limit in bytes for metrics that need raw outputs. It covers the outputs, the intermediate
                results of the metric, and generated members of `Perturbations`. At least one candidate is evaluated
                at a time, regardless of the limit.
            bfloat16: whether to multiply bfloat16 numbers. Requires a float32 model, `_core.bfloat16()`, and a
                population without low-rank noise.
        """
        if isinstance(measure, OfOutputs):
            return self._of_outputs(measure, rows, memory_limit, bfloat16)
        assert isinstance(measure, Score)
        network, score = self.model.network, measure.native
        packed = self._pack(measure.balanced, rows, bfloat16)

        def evaluate(population: Population) -> Floats:
            out = np.empty(len(population))
            if isinstance(population, Perturbations):
                network.evaluate_noise(score, population.noise, population.center, packed, out)
            else:
                assert isinstance(population, np.ndarray)
                network.evaluate(score, population, packed, out)
            out[~np.isfinite(out)] = np.inf
            return out

        return evaluate

    def _pack(self, balanced: bool, rows: Array | None, bfloat16: bool) -> _core.Packed:
        """The samples, packed for the kernels. The pack of all samples is cached, since a search reuses it."""
        if rows is None and (balanced, bfloat16) in self._packed:
            return self._packed[balanced, bfloat16]
        weight = self.weight
        if balanced:
            weight = np.zeros(self.samples, self.dtype)
            weight[slice(None) if rows is None else rows] = metrics.class_weights(*self._seen(rows))
        packed = self.model.network.pack(self.X, self.y, weight, rows, bfloat16)
        if rows is None:
            self._packed[balanced, bfloat16] = packed
        return packed

    def _of_outputs(self, measure: OfOutputs, rows: Array | None, memory_limit: int, bfloat16: bool) -> Evaluator:
        """An evaluator that computes a measure from raw outputs, in chunks of candidates within the memory limit."""
        network, outputs = self.model.network, self.model.sizes[-1]
        X = self.X if rows is None else self.X[rows]
        y, weight = (None if values is None else _read_only(values) for values in self._seen(rows))
        assert y is not None
        each = len(X) * measure.bytes_per_sample(outputs, X.itemsize)

        def evaluate(population: Population) -> Floats:
            out = np.empty(len(population))
            member = population.shape[1] * X.itemsize if isinstance(population, Perturbations) else 0
            count = min(len(population), max(1, memory_limit // (each + member)))
            z = np.empty((count, len(X), outputs), X.dtype)
            for first in range(0, len(population), count):
                part = population[first : first + count]
                network.forward(part, X, z[: len(part)], bfloat16)
                out[first : first + count] = measure.values(z[: len(part)], y, weight)
            return out

        return evaluate

    def report(self, w: Array, value: bool = True) -> Report:
        """See `Objective.report`; computes all values in one pass over the samples."""
        wanted = [self._loss_score, self.model.measure("fit", self.metric_name)]
        wanted += [self.measure] * value
        scores: list[Score] = []
        for measure in wanted:
            if isinstance(measure, Score) and measure not in scores:
                scores.append(measure)
        outputs = None
        if any(isinstance(measure, OfOutputs) for measure in wanted):
            outputs = np.empty((self.samples, self.model.sizes[-1]), self.dtype)
        packed = [self._pack(score.balanced, None, False) for score in scores]
        means = self.model.network.measure([score.native for score in scores], packed, w, outputs)
        found = [means[scores.index(m)] if isinstance(m, Score) else self._of(m, outputs) for m in wanted]
        return Report(*(x if math.isfinite(x) else math.inf for x in found), *[math.nan] * (not value))

    def _of(self, measure: Measure, outputs: Array | None) -> float:
        """The value of a measure, from the raw outputs (B, outputs) of one network."""
        assert isinstance(measure, OfOutputs)
        assert outputs is not None
        y, weight = (None if values is None else _read_only(values) for values in self._seen(None))
        assert y is not None
        return float(measure.values(outputs[None], y, weight)[0])

    # --- Gradients --------------------------------------------------------------------------------------------------

    def gradient(self, w: Array, batch: Batch, out: Array) -> float:
        """See `Objective.gradient`; without dropout, input noise and mixup at step 0."""
        return self._gradient(w, batch, out, None)[0]

    def seen_gradient(self, w: Array, batch: Batch, out: Array) -> Seen:
        """See `Objective.seen_gradient`."""
        return Seen(*self._gradient(w, batch, out, self._running_metric))

    def _gradient(
        self, w: Array, batch: Batch, out: Array, metric: tuple[str, float] | None
    ) -> tuple[float, float, float]:
        model = self.model
        data = self.X, self.y, self.weight, batch.rows
        random = model.input_noise, self.mixup, model.seed, batch.step
        return model.network.gradient(self._loss_score.native, w, *data, out, *random, metric, self.bfloat16)

    @property
    def _running_metric(self) -> tuple[str, float] | None:
        """The score that computes the metric along with a gradient."""
        measure = self.model.measure("fit", self.metric_name)
        return measure.native if isinstance(measure, Score) and not measure.balanced else None

    def training(self, w: Array, gradient: Array, state: Any, rule: _core.StepRule, span: Span) -> _core.Training:
        """See `Objective.training`."""
        model = self.model
        return _core.Training(
            model.network,
            self._loss_score.native,
            self._running_metric,
            self.X,
            self.y,
            self.weight,
            w,
            gradient,
            state,
            rule,
            span.batch_size,
            span.seed,
            model.input_noise,
            self.mixup,
            model.seed,
            self.bfloat16,
        )

    def loss(self, w: Array, batch: Batch) -> float:
        """See `Objective.loss`: a forward pass, unless gradients draw dropout masks, input noise or mixup."""
        if self.draws(batch):
            return super().loss(w, batch)
        return float(self.evaluator(self._loss_score, batch.rows)(w[None])[0])

    def loss_cost(self, batch: Batch) -> Cost:
        """See `Objective.loss_cost`."""
        return self.gradient_cost(batch) if self.draws(batch) else self.values_cost(1, batch)

    def draws(self, batch: Batch) -> bool:
        """Whether gradients on a batch draw random numbers."""
        return batch.step > 0 and (self.model.draws or self.mixup > 0)

    def sampled(self, w: Array, batch: Batch, random: np.random.Generator) -> NetworkObjective:
        """An objective on the samples of a batch, with targets sampled from the network's predictions.

        The distribution is the one whose negative log-likelihood is the loss: categorical, Bernoulli, Poisson, or
        normal (for the mean squared error over K outputs, with variance K / 2). Sampled labels are not smoothed.

        Args:
            w: (n,) of the model's dtype.
            batch: the samples of the result.
            random: generator for the targets.

        Raises:
            InputError: the loss is not a negative log-likelihood.
        """
        model, loss = self.model, self.criterion.unsmoothed
        if loss is None:
            fail("MLP", str(self.lacks("sampled")))
        part = self if batch.rows is None else self.subset(batch.rows)
        outputs = np.empty((part.samples, model.sizes[-1]), model.dtype)
        model.network.forward(w[None], part.X, outputs[None])
        y = np.ascontiguousarray(loss.sampled(outputs, random), model.dtype)
        drawn = NetworkObjective(model, part.X, y, part.weight, self.measure, criterion=loss)
        return drawn._changed(bfloat16=self.bfloat16)

    # --- What went wrong --------------------------------------------------------------------------------------------

    def diverged(self, losses: Sequence[float], w: Array) -> bool:
        """Whether a gradient method failed on these samples.

        Training failed if one of the following holds:

        - The last loss is not finite.
        - The last loss is more than 10 % above both the loss of the untrained model and the loss of the best constant
          output.
        - The last loss is no better than that of the best constant output, and an earlier loss was below half of it.
        - The last loss is no better than that of the best constant output, and the network is dead: its outputs are
          the same for 99 % of the samples.

        Args:
            losses: losses of all records.
            w: (n,) final parameters.
        """
        last, best = losses[-1], min(losses)
        if not math.isfinite(last):
            return True
        # Losses are compared by what they are above the smallest possible one, which may be negative.
        y = self.y.astype(np.float64)
        floor = float(np.average(self.criterion.least(y).mean(axis=1), weights=self.weight))
        first, last, best, constant = (loss - floor for loss in (losses[0], last, best, self.constant_loss()))
        if last > 1.1 * max(first, constant):
            return True
        return last > 0.999 * constant and (best < constant / 2 or self.constant_outputs(w))

    def why_not_finite(self, w: Array) -> str:
        """See `Objective.why_not_finite`; the message names the argument with the largest values."""
        largest = {"X": float(np.abs(self.X).max()), "y": float(np.abs(self.y).max())}
        name = max(largest, key=largest.__getitem__)
        if largest[name] <= float(np.abs(w).max()):
            return super().why_not_finite(w)
        held = f"which {self.dtype} cannot hold; scale {name}, for example to mean 0 and standard deviation 1"
        return f"{name} holds values up to {largest[name]:.3g}, and the loss overflows, {held}"

    def scale_hint(self) -> str:
        """See `Objective.scale_hint`; a hint if the inputs are far from unit scale."""
        largest = float(np.abs(self.X).max())
        return f", and scale X, which holds values up to {largest:.4g}" if largest > 30 else ""

    def constant_loss(self) -> float:
        """The loss of the best constant output: the mean target, or the logits of the mean target."""
        model, weight = self.model, self.weight
        y = self.y
        if self.criterion.targets == "labels":
            y = np.eye(model.sizes[-1])[y[:, 0].astype(np.int64)]
        mean = np.average(y.astype(np.float64), axis=0, weights=weight)
        mean = self.criterion.constant(mean, float(np.finfo(model.dtype).tiny))
        # A network of biases alone, since only the outputs matter.
        network = _core.Network([1, model.sizes[-1]], "identity")
        params = np.concatenate([np.zeros_like(mean), mean]).astype(model.dtype)
        packed = network.pack(np.zeros((self.samples, 1), model.dtype), self.y, weight)
        return network.measure([self._loss_score.native], [packed], params)[0]

    def constant_outputs(self, w: Array) -> bool:
        """Whether a network (n,) has the same outputs for at least 99 % of the samples, although the inputs differ."""
        if np.array_equal(self.X, np.broadcast_to(self.X[0], self.X.shape)):
            return False
        z = np.empty((1, self.samples, self.model.sizes[-1]), self.model.dtype)
        self.model.network.forward(w[None], self.X, z)
        return bool((z[0] == np.median(z[0], axis=0)).all(axis=1).mean() >= 0.99)


def _read_only(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view
