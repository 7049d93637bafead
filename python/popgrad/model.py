"""The multilayer perceptron: one flat parameter vector, and what a network makes of it."""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, softmax

from popgrad import _core, arrays, checkpoint, labels, metrics, quantize
from popgrad.arrays import real
from popgrad.backends import Stream, aligned, move
from popgrad.checks import at_least_zero, fail, fraction, one_of, positive_int, whole_seed
from popgrad.labels import Classes
from popgrad.metrics import Measure, Metric
from popgrad.perturbations import Perturbations
from popgrad.rescore import settle
from popgrad.samples import MEMORY_LIMIT, SCORES, Data, rows_of

__all__ = ["MLP"]

Array = NDArray[Any]

ACTIVATIONS = _core.activations()
LOSSES = tuple(name for name, score in SCORES.items() if score.differentiable)
METRICS = ("loss", "error_rate", "mse", "mae")  # the native ones; `popgrad.metrics` has the others

_DTYPES = ("float32", "float64")
PRECISIONS = (*_DTYPES, "bfloat16")
_SETTINGS = ("activation", "loss", "dropout", "dtype", "seed", "init")  # of a model, beside its sizes
_ENCODE = "give labels as 0, 1, 2, ..., or set MLP.classes (pg.fit does, if y holds text)"
_WIDEST = 1 << 24  # units of a layer; the native core takes no more

# The variance that keeps a signal's size from layer to layer, times fan: He et al. 2015 for units that are
# half the time at rest; Glorot & Bengio 2010 (mean of both fans) for what is linear around zero; LeCun et al. 1998
# for the rest.
_RECTIFIERS = ("relu", "leaky_relu", "elu", "gelu", "silu", "softplus")
INITS = tuple(f"{who}_{how}" for who in ("he", "glorot", "lecun") for how in ("normal", "uniform"))


class MLP:
    """A multilayer perceptron whose parameters are one flat vector.

    Args:
        sizes: inputs, hidden layers, outputs; at least two numbers.
        activation: of the hidden layers; the outputs are raw (logits for the two cross-entropies). "sin" in float32
            is exact up to 1e4 and of no use from 1e7 on.
        loss: "cross_entropy" (labels (B,) in [0, outputs)), "binary_cross_entropy" (targets in [0, 1]),
            "mse", "mae" or "huber" (delta = 1). Losses are means over samples, and over outputs where there
            is a target for each, as in PyTorch.
        dropout: share of hidden units that a training gradient leaves out, in [0, 1).
        dtype: "float32" or "float64".
        seed: of the initial weights and of dropout, in [0, 2^64).
        init: one of he_normal, he_uniform, glorot_normal, glorot_uniform, lecun_normal, lecun_uniform.
            Default: he_uniform for rectifiers (relu, leaky_relu, elu, gelu, silu, softplus), glorot_uniform for
            identity, tanh and sigmoid, lecun_uniform for sin and step. Biases start at zero.

    Raises:
        InputError: an argument is out of range or a name unknown.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str = "relu",
        loss: str = "cross_entropy",
        dropout: float = 0.0,
        dtype: str = "float32",
        seed: int = 0,
        init: str | None = None,
    ) -> None:
        if not hasattr(sizes, "__len__") or len(sizes) < 2:
            fail(self, f"sizes must be at least two numbers, such as [64, 32, 10], got {sizes!r}")
        self.sizes = [positive_int(self, "each of sizes", size) for size in sizes]
        if max(self.sizes) > _WIDEST:
            fail(self, f"each of sizes must be at most {_WIDEST}, got {max(self.sizes)}")
        count = sum((inputs + 1) * outputs for inputs, outputs in zip(self.sizes[:-1], self.sizes[1:], strict=True))
        if count >= 1 << 59:  # in float64, their bytes would not be a whole number of 64 bits
            fail(self, f"sizes must give less than 2^59 parameters, got {count:,}")
        self.activation = one_of(self, "activation", activation, ACTIVATIONS)
        self.loss_name = one_of(self, "loss", loss, LOSSES)
        self.dtype = np.dtype(one_of(self, "dtype", _name_of(dtype), _DTYPES))
        self.dropout = dropout
        fraction(self, "dropout")
        self.dropout = float(dropout)
        self.seed = whole_seed(self, seed)
        self.init = one_of(self, "init", init or default_init(activation), INITS)
        if self.loss_name == "cross_entropy" and self.sizes[-1] < 2:
            fail(self, "cross_entropy needs at least two outputs; for one use loss='binary_cross_entropy'")
        self._classes: Classes | None = None
        self.network = _core.Network(self.sizes, activation)
        try:
            self._params = aligned(self.network.n, self.dtype)
        except MemoryError:
            fail(self, f"no memory for the {self.network.n:,} parameters of sizes {self.sizes}")
        self.initialise(self.seed)

    def __repr__(self) -> str:
        return (
            f"MLP({self.sizes}, activation={self.activation!r}, loss={self.loss_name!r}, dropout={self.dropout}, "
            f"dtype={self.dtype.name!r}, seed={self.seed}, init={self.init!r})"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "network"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.network = _core.Network(self.sizes, self.activation)
        self._params = aligned(self.network.n, self.dtype)  # a copy's memory is aligned too
        self._params[:] = state["_params"]

    # --- Parameters --------------------------------------------------------------------------------------------

    @property
    def params(self) -> Array:
        """All parameters, (n,), writable, 64-byte aligned: weight (out, in) row by row, bias, next layer."""
        return self._params

    @params.setter
    def params(self, values: ArrayLike) -> None:
        array = real("MLP.params", "params", values)
        if array.shape != self._params.shape:
            fail("MLP.params", f"params must have shape {self._params.shape}, got {array.shape}")
        self._params[:] = _cast(array, self.dtype)

    @property
    def takes_classes(self) -> bool:
        """Whether a target is one label: cross_entropy, or binary_cross_entropy with one output."""
        return self.loss_name == "cross_entropy" or (self.loss_name == "binary_cross_entropy" and self.sizes[-1] == 1)

    @property
    def classes(self) -> Classes | None:
        """The labels behind the numbers 0 to K - 1, or None if labels are these numbers.

        `pg.fit` sets them where y holds text, or K whole numbers beyond that range; `predict` returns them, targets
        are given as them, and `save` keeps them. Set None to give the model other labels. If they are text, a target
        that is a number still stands for itself.

        Raises:
            InputError: they are not K different strings or numbers, or the model's targets are no labels.
        """
        return self._classes

    @classes.setter
    def classes(self, classes: Sequence[Any] | None) -> None:
        if classes is not None and not self.takes_classes:
            fail("MLP.classes", f"a model with loss {self.loss_name!r} and {self.sizes[-1]} outputs has no classes")
        count = max(2, self.sizes[-1])
        self._classes = None if classes is None else labels.checked("MLP.classes", classes, count)

    def views(self, params: Array | None = None) -> dict[str, Array]:
        """Weights and biases by their names in a PyTorch ``Sequential``, views into the parameters.

        Args:
            params: another parameter vector (n,) to look into; default the model's own.

        Raises:
            InputError: `params` has another shape or is not contiguous, so that no view of it is possible.
        """
        params = self._params if params is None else params
        if params.shape != self._params.shape or not params.flags.c_contiguous:
            fail("MLP.views", f"params must be a contiguous array {self._params.shape}, got shape {params.shape}")
        # Linear, activation and, where there is any, Dropout count as one module each.
        stride = 3 if self.dropout > 0 else 2
        views, at = {}, 0
        for layer, (inputs, outputs) in enumerate(zip(self.sizes[:-1], self.sizes[1:], strict=True)):
            middle, end = at + inputs * outputs, at + (inputs + 1) * outputs
            views[f"{stride * layer}.weight"] = params[at:middle].reshape(outputs, inputs)
            views[f"{stride * layer}.bias"] = params[middle:end]
            at = end
        return views

    def quantized(self, params: ArrayLike, weights: str) -> Array:
        """The parameters that a network with coarse weights really uses; biases stay as they are.

        ``model.params = model.quantized(model.params, "binary")`` makes it predict with them. Of every weight matrix w:

        - "binary": sign(w) times the mean of abs(w) (XNOR-Net, arXiv:1603.05279, one scale a matrix); zero is positive.
        - "ternary": 0 where abs(w) <= 0.7 times its mean, else sign(w) times the mean of the abs(w) of those others
          (arXiv:1605.04711).
        - "int8": whole multiples in [-127, 127] of max(abs(w)) / 127, the nearest, halves to even.

        Args:
            params: (n,), or a population (P, n); not changed.
            weights: "binary", "ternary" or "int8".

        Returns:
            A copy of the same shape, of the model's dtype. A matrix that holds NaN or infinity has no finite value.

        Raises:
            InputError: `params` has another shape or type, or the name is unknown.
        """
        one_of("MLP.quantized", "weights", weights, quantize.KINDS)
        array = real("MLP.quantized", "params", params)
        if array.ndim not in (1, 2) or array.shape[-1] != self.network.n:
            fail("MLP.quantized", f"params must have shape ({self.network.n},) or (P, the same), got {array.shape}")
        try:
            return self._quantized(np.atleast_2d(array), weights).reshape(array.shape)
        except MemoryError:
            fail("MLP.quantized", f"no memory for another population of shape {array.shape}; give it in parts")

    def _quantized(self, members: Array, weights: str) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            out = np.array(members, self.dtype, order="C")
            at = 0
            for inputs, outputs in zip(self.sizes[:-1], self.sizes[1:], strict=True):
                quantize.KINDS[weights](out[:, at : at + inputs * outputs])
                at += (inputs + 1) * outputs
        return out

    def initialise(self, seed: int) -> None:
        """Draw new weights; the same seed, in [0, 2^64), gives the same ones on every machine."""
        seed = whole_seed("MLP.initialise", seed)
        scheme, shape = self.init.split("_")
        width = np.zeros_like(self._params)
        for name, view in self.views(width).items():
            if name.endswith("weight"):
                outputs, inputs = view.shape
                variance = {"he": 2 / inputs, "glorot": 2 / (inputs + outputs), "lecun": 1 / inputs}[scheme]
                view[:] = math.sqrt(variance if shape == "normal" else 3 * variance)
        out, stream = self._params[None], Stream.INITIALIZE
        if shape == "normal":
            zero = np.zeros_like(width)
            move("SpreadGaussian", out, [zero, width], seed=seed, generation=0, stream=stream, width=1.0)
        else:
            move("Uniform", out, [-width, width], seed=seed, generation=0, stream=stream)

    # --- Data --------------------------------------------------------------------------------------------------

    def _inputs(self, operation: str, X: ArrayLike) -> Array:
        array = real(operation, "X", X)
        if array.ndim != 2:
            fail(operation, f"X must have shape (samples, {self.sizes[0]}), got {array.shape}")
        if array.shape[1] != self.sizes[0]:
            fail(operation, f"X must have {self.sizes[0]} columns, got {array.shape[1]}")
        if len(array) == 0:
            fail(operation, "X has no rows; at least one sample is needed")
        try:
            typed = _cast(array, self.dtype)
        except MemoryError:
            fail(operation, f"no memory for X, {array.shape}, as {self.dtype}; give it in parts")
        if not np.isfinite(typed).all():
            row = int(np.argmin(np.isfinite(typed).all(axis=1)))
            what = f"NaN, infinity or more than {self.dtype} holds"
            fail(operation, f"X holds {what} (first in row {row}); impute or drop those rows first")
        return typed

    def _targets(self, operation: str, y: ArrayLike, samples: int, classes: Classes | None) -> Array:
        outputs = self.sizes[-1]
        y = arrays.read(operation, "y", y)
        if len(y.shape) == 0 or len(y) != samples:
            fail(operation, f"y must have one entry per row of X, {samples}, got shape {y.shape}")
        if classes is not None:
            y = labels.encode(operation, y, classes)
        y = real(operation, "y", y, f"; {_ENCODE}" if self.takes_classes else "")
        if SCORES[self.loss_name].labels:
            if y.shape not in ((samples,), (samples, 1)):
                fail(operation, f"y must be class labels of shape ({samples},), got {y.shape}")
            whole = y.reshape(-1).astype(np.float64)
            wrong = ~((whole >= 0) & (whole < outputs) & (whole == np.floor(whole)))
            if wrong.any():
                row = int(np.argmax(wrong))
                fail(
                    operation, f"labels must be whole numbers in [0, {outputs}), got {y.reshape(-1)[row]} in row {row}"
                )
            y = whole[:, None]
        else:
            if y.shape != (samples, outputs) and not (outputs == 1 and y.ndim == 1):
                fail(operation, f"y must have shape ({samples}, {outputs}), got {y.shape}")
            y = _cast(y.reshape(samples, outputs), self.dtype)
            if not np.isfinite(y).all():
                row = int(np.argmin(np.isfinite(y).all(axis=1)))
                fail(operation, f"y holds NaN, infinity or more than {self.dtype} holds (first in row {row})")
            if self.loss_name == "binary_cross_entropy" and ((y < 0) | (y > 1)).any():
                fail(operation, f"targets of binary_cross_entropy must be in [0, 1], got {y.min()} to {y.max()}")
        return _cast(y, self.dtype)

    def _weights(self, operation: str, weight: ArrayLike | None, samples: int) -> Array | None:
        if weight is None:
            return None
        array = real(operation, "sample_weight", weight)
        if array.shape != (samples,):
            fail(operation, f"sample_weight must have shape ({samples},), got {array.shape}")
        if not (np.isfinite(array).all() and (array >= 0).all() and array.any()):
            fail(operation, "sample_weight must be finite, none below zero and not all zero")
        # Only their ratios matter. Those very far from one come near it, by a power of two, which rounds nothing: then
        # no sum of them and no product overflows or vanishes.
        exponent = int(np.frexp(array.max())[1])
        if abs(exponent) > 30:
            with np.errstate(under="ignore"):
                array = np.ldexp(array, -exponent)
        return _cast(array, self.dtype)

    def score_name(self, operation: str, metric: str) -> str:
        """The native score behind a metric's name.

        Raises:
            InputError: the metric is unknown or does not fit the model's targets.
        """
        one_of(operation, "metric", metric, METRICS)
        if metric == "loss":
            return self.loss_name
        if metric == "error_rate":
            self._needs(operation, metric, labels=True)
            return metric if self.loss_name == "cross_entropy" else "binary_error_rate"
        self._needs(operation, metric, labels=False)
        return metric

    def _needs(self, operation: str, metric: str, labels: bool) -> None:
        """Fail if the targets are of the other kind."""
        if labels == ("cross_entropy" in self.loss_name):
            return
        if labels:
            fail(operation, f"{metric} needs labels; a model with loss {self.loss_name!r} has none")
        fail(operation, f"{metric} needs numeric targets; a model with loss {self.loss_name!r} has labels")

    def measure(self, operation: str, metric: Metric) -> Measure:
        """What a metric, as `evaluate` takes it, means for this model.

        Raises:
            InputError: the metric is unknown or does not fit the model's targets.
        """
        if callable(metric):
            called = getattr(metric, "__name__", type(metric).__name__)
            return Measure(called, function=metric, own=True, operation=operation)
        name, level = (metric[0], metric[1]) if isinstance(metric, tuple) and len(metric) == 2 else (metric, 0.5)
        one_of(operation, "metric", name, (*METRICS, *metrics.NAMES))
        assert isinstance(name, str)
        if isinstance(metric, tuple) and name != "quantile":
            fail(operation, f"only quantile takes a level, got {metric!r}")
        if name in METRICS:
            return Measure(name, self.score_name(operation, name))
        self._needs(operation, name, labels=name not in ("r2", "quantile"))
        if name in ("balanced_error", "f1_macro") and self.loss_name != "cross_entropy" and self.sizes[-1] > 1:
            fail(
                operation, f"{name} needs one label a sample; a model with loss {self.loss_name!r} has {self.sizes[-1]}"
            )
        if name == "balanced_error":
            return Measure(name, self.score_name(operation, "error_rate"), balanced=True)
        if not (at_least_zero(level) and 0 < level < 1):
            fail(operation, f"the level of quantile must be in (0, 1), got {level!r}")
        return metrics.named(name, float(level))

    def data(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        operation: str = "MLP.data",
        classes: Classes | None = None,
    ) -> Data:
        """Check samples and targets once, for many gradients and evaluations.

        Arrays that need no conversion are kept, not copied: leave them unchanged as long as the result is in use.

        Args:
            X: (B, inputs) numbers, B >= 1, without NaN: an array, a frame of pandas, polars or PyArrow, or a tensor
                of PyTorch in the memory of the CPU. A masked array is refused if an entry is masked.
            y: (B,) labels, or (B,) or (B, outputs) numbers, as the loss asks; from the same sources. Labels are
                0 to K - 1, or members of `classes`.
            sample_weight: (B,) weights >= 0, of which only the ratios matter, or None for equal ones.
            operation: the name that errors begin with.
            classes: the labels that y holds; default `MLP.classes`.

        Raises:
            InputError: shapes, labels or values do not fit.
        """
        inputs = self._inputs(operation, X)
        targets = self._targets(operation, y, len(inputs), self.classes if classes is None else classes)
        return Data(self, inputs, targets, self._weights(operation, sample_weight, len(inputs)))

    # --- What a network does -----------------------------------------------------------------------------------

    def forward(self, X: ArrayLike) -> Array:
        """Raw outputs, (B, outputs), for X of shape (B, inputs)."""
        inputs = self._inputs("MLP.forward", X)
        out = np.empty((len(inputs), self.sizes[-1]), self.dtype)
        self.network.forward(self._params[None], inputs, out[None])
        return out

    def predict_proba(self, X: ArrayLike) -> Array:
        """Class probabilities, (B, outputs): softmax or, for binary_cross_entropy, the sigmoid of each output.

        Columns follow the order of the labels, or of `classes`. One output of binary_cross_entropy gives the
        probability of label 1, or of ``classes[1]``. Small probabilities keep their relative precision.
        """
        z = self.forward(X)
        if self.loss_name == "cross_entropy":
            return cast(Array, softmax(z, axis=1))
        if self.loss_name == "binary_cross_entropy":
            return cast(Array, expit(z))
        fail("MLP.predict_proba", f"a model with loss {self.loss_name!r} has no probabilities; use predict")

    def predict(self, X: ArrayLike) -> Array:
        """Labels for cross_entropy, 0 or 1 for binary_cross_entropy, else the outputs.

        Labels are members of `classes` if the model has them, else int64. Returns shape (B,) for one output and
        (B, outputs) otherwise; cross_entropy always returns (B,).
        """
        z = self.forward(X)
        if self.loss_name == "cross_entropy":
            z = z.argmax(axis=1)
        elif self.loss_name == "binary_cross_entropy":
            z = (z > 0).astype(np.int64)
        z = z[:, 0] if z.ndim == 2 and z.shape[1] == 1 else z
        return z if self.classes is None else np.array(self.classes)[z]

    def loss(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Mean loss over the samples (weighted, if weights are given)."""
        return float(self.data(X, y, sample_weight, operation="MLP.loss").evaluate(self._params[None])[0])

    def gradient(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> tuple[float, Array]:
        """The mean loss and its gradient (n,), without dropout.

        Raises:
            InputError: X, y or the weights do not fit, or the activation is ``step``, which has none.
        """
        self.check_gradient("MLP.gradient")
        data = self.data(X, y, sample_weight, operation="MLP.gradient")
        out = aligned(self.network.n, self.dtype)
        return data.gradient(self._params, out), out

    def check_gradient(self, operation: str) -> None:
        """Fail if the network has no gradient."""
        if not ACTIVATIONS[self.activation].differentiable:
            fail(
                operation,
                f"activation {self.activation!r} has no gradient. Train it with a search (popgrad.search), "
                "or choose another activation.",
            )

    def members(self, operation: str, population: ArrayLike) -> Array:
        """A population (P, n), of whatever real type and layout; not copied where it is an array.

        Raises:
            InputError: it has another shape or no real numbers.
        """
        if isinstance(population, Perturbations):
            fail(operation, "population must be stored here: give perturbations.rows(0, len(perturbations))")
        members = real(operation, "population", population)
        if members.ndim != 2 or members.shape[1] != self.network.n or len(members) == 0:
            fail(operation, f"population must have shape (P, {self.network.n}), P >= 1, got {members.shape}")
        if members.dtype.kind == "b":
            fail(operation, "population must be real numbers, got dtype bool")
        return members

    def evaluate(
        self,
        population: ArrayLike | Perturbations,
        X: ArrayLike,
        y: ArrayLike,
        metric: Metric = "loss",
        precision: str | None = None,
        sample_weight: ArrayLike | None = None,
        *,
        rescore: bool | int = False,
        samples: ArrayLike | None = None,
        weights: str | None = None,
        memory_limit: int = MEMORY_LIMIT,
    ) -> NDArray[np.float64]:
        """Fitness of every row of a population, smaller is better.

        ============================  ==========================================================================
        metric                        what it is, over samples with weights
        ============================  ==========================================================================
        "loss"                        the model's loss
        "error_rate"                  share of wrong labels
        "balanced_error"              1 - the mean recall of the classes that occur
        "f1_macro"                    1 - the mean F1 of the classes that occur among labels or predictions
        "auc"                         1 - the area under the ROC curve, ties counted half; of several classes the
                                      mean of each against the rest, by its probability; of several outputs of
                                      binary_cross_entropy their mean
        "mse", "mae"                  mean squared, mean absolute error
        "r2"                          1 - R2, the mean over outputs; where the target is constant, 1 (0 if it is met)
        "quantile", ("quantile", q)   pinball loss for the level q in (0, 1), default 0.5
        ============================  ==========================================================================

        The first five but the loss need labels (balanced_error and f1_macro one a sample), the others numbers.
        All save the native ones (loss, error_rate, balanced_error, mse, mae) are computed from raw outputs, a part
        of the candidates at a time, and take about twice as long.

        A function of one's own is called as ``metric(outputs, y)``, or ``metric(outputs, y, sample_weight)`` if there
        are weights, for c candidates at a time: outputs (c, B, outputs) are raw, of the model's dtype, may hold NaN,
        and are overwritten after the call; y is (B,) int64 labels or (B, outputs) targets, read-only. It returns (c,)
        numbers, smaller is better, NaN for a candidate that is of no use. What it raises is passed on.

        Args:
            population: (P, n), one parameter vector a row, converted to the model's dtype; or `Perturbations` in it.
            X, y, sample_weight: as for `data`.
            metric: one of the table, or a function.
            precision: the model's dtype, which is also the default; or, of a float32 model, "bfloat16": weights, inputs
                and what hidden layers pass on are rounded to 8 bits of precision, to the nearest; sums, biases,
                activations and losses are float32. With AVX-512 BF16 it takes half the time of a wide network in
                float32, 0.6 of 64-32-10 and as much of 8-16-3; AMX is used where it is. Where the processor has neither
                (``popgrad info``), and for `Perturbations` with a rank, all is float32, with a warning.
            rescore: with "bfloat16", evaluate in float32 too whatever is so close to another candidate that the two may
                change ranks. True: of all candidates, of which most are that close in a population of hundreds, and it
                takes longer than float32 alone; a number k >= 1: of the k best, which takes little. How large an error
                can be is taken from those seen: at 32 candidates spread over the ranks, and at all that are evaluated
                again. One whose error is more than twice as large can escape: seldom of losses, now and then where a
                few samples decide ("auc", "f1_macro", networks of steps).
            samples: (b,) whole numbers in [0, B), the samples to use, the same for all candidates; one that is named
                twice counts twice. Default: all. `data` checks X and y once for many such calls of `Data.evaluate`.
            weights: "binary", "ternary" or "int8": evaluate the networks with these coarse weights (`quantized`).
            memory_limit: bytes, > 0, that raw outputs may take, and as many again for candidates that must be copied
                because they are coarse, of another type or layout, or evaluated again. One candidate at a time is
                always taken, and a copy of the samples.

        Returns:
            (P,) float64; a candidate whose value is not finite has infinity.

        Raises:
            InputError: shapes, labels, values or names do not fit, a function returned something else, or there is no
                memory.
        """
        measure = self.measure("MLP.evaluate", metric)
        precision = self.dtype.name if precision is None else precision
        precision = one_of("MLP.evaluate", "precision", _name_of(precision), PRECISIONS)
        if precision != self.dtype.name and (precision != "bfloat16" or self.dtype != np.float32):
            fail("MLP.evaluate", f"precision {precision!r} does not fit a model of dtype {self.dtype.name}")
        if isinstance(rescore, np.bool_):
            rescore = bool(rescore)
        if rescore is not False:
            if rescore is not True:
                rescore = positive_int("MLP.evaluate", "rescore", rescore)
            if precision != "bfloat16":
                fail("MLP.evaluate", f"rescore={rescore} needs precision='bfloat16', got {precision!r}")
        if weights is not None:
            one_of("MLP.evaluate", "weights", weights, quantize.KINDS)
        members: Array | Perturbations
        if isinstance(population, Perturbations):
            population.check_fits("MLP.evaluate", self.network.n, self.dtype, [v.shape for v in self.views().values()])
            members = population
        else:
            members = self.members("MLP.evaluate", population)
        data = self.data(X, y, sample_weight, operation="MLP.evaluate")
        rows = None if samples is None else _rows("MLP.evaluate", samples, len(data))
        positive_int("MLP.evaluate", "memory_limit", memory_limit)
        data.check("MLP.evaluate", measure, rows)
        bfloat16 = precision == "bfloat16"
        if bfloat16 and (why := self._why_not_bfloat16(members)):
            warnings.warn(f"[MLP.evaluate] precision='bfloat16': {why}", stacklevel=2)
            bfloat16 = False
        # Bytes of a candidate: as many copies as its rounding takes, and one as it is, of those chosen again.
        each = self._params.nbytes * (1 if weights is None else quantize.COPIES)
        limit, fewer = (max(1, memory_limit // size) for size in (each, each + members.dtype.itemsize * self.network.n))

        def ready(part: Array) -> Array:
            return _cast(part, self.dtype) if weights is None else self._quantized(part, weights)

        try:
            evaluate = data.evaluator(measure, rows, memory_limit, bfloat16)
            if weights is None and (isinstance(members, Perturbations) or _is_ready(members, self.dtype)):
                out = evaluate(members)
            else:
                out = np.empty(len(members))
                for first in range(0, len(members), limit):
                    out[first : first + limit] = evaluate(ready(rows_of(members, first, limit)))
            if not (rescore and bfloat16):
                return out
            exact = data.evaluator(measure, rows, memory_limit)

            def again(these: NDArray[np.int64]) -> NDArray[np.float64]:
                parts = (these[first : first + fewer] for first in range(0, len(these), fewer))
                return np.concatenate([exact(ready(_chosen(members, part))) for part in parts])

            return settle(out, again, None if rescore is True else rescore)
        except MemoryError as error:
            fail("MLP.evaluate", f"no memory for {len(members):,} candidates on {len(data):,} samples: {error}")

    def _why_not_bfloat16(self, population: object) -> str | None:
        """What keeps an evaluation that was asked for in bfloat16 in float32, or None."""
        if isinstance(population, Perturbations) and population.rank is not None:
            return "noise of low rank is evaluated in float32"
        if _core.bfloat16() is None:
            return f"the instruction set in use, {_core.isa()}, has no products of bfloat16: evaluated in float32"
        return None

    # --- Files -------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the weights as safetensors, named and shaped as a PyTorch ``Sequential`` has them.

        PyTorch reads the file with ``sequential.load_state_dict(safetensors.torch.load_file(path))``.
        """
        values = (self.activation, self.loss_name, self.dropout, self.dtype.name, self.seed, self.init)
        settings = {"sizes": self.sizes, **dict(zip(_SETTINGS, values, strict=True))}
        if self.classes is not None:
            settings["classes"] = list(self.classes)
        return checkpoint.save(path, self.views(), {"MLP": settings})

    @classmethod
    def load(cls, path: str | os.PathLike[str], **settings: Any) -> Self:
        """Read a model that `save` wrote, or the state of a PyTorch ``Sequential`` of linear layers.

        Args:
            path: a safetensors file.
            **settings: arguments of the constructor other than sizes; they replace those in the file. A file
                of PyTorch's holds none, so give the activation and the loss.

        Raises:
            InputError: the file cannot be read or does not hold such a network.
        """
        arrays, numbers = checkpoint.load(path)
        where = os.fspath(path)

        def order(name: str) -> tuple[int, bool]:
            number, _, kind = name.rpartition(".")
            if kind not in ("weight", "bias") or not number.rpartition(".")[2].isdecimal():
                fail("MLP.load", f"{where!r} holds {name!r}; expected names such as '0.weight' and '0.bias'")
            return int(number.rpartition(".")[2]), kind == "bias"

        names = sorted(arrays, key=order)
        weights, biases = [arrays[name] for name in names[0::2]], [arrays[name] for name in names[1::2]]
        fits = bool(weights) and all(
            weight.ndim == 2 and bias.shape == (len(weight),) for weight, bias in zip(weights, biases, strict=False)
        )
        if not fits or len(weights) != len(biases):
            fail("MLP.load", f"{where!r} does not hold a weight (out, in) and a bias (out,) for every layer")
        sizes = [weights[0].shape[1], *(len(weight) for weight in weights)]
        if any(weight.shape[1] != before for weight, before in zip(weights, sizes, strict=False)):
            fail("MLP.load", f"the layers of {where!r} do not follow one another: {[w.shape for w in weights]}")
        saved = numbers.get("MLP", {})
        if not isinstance(saved, dict) or not saved.keys() <= {"sizes", "classes", *_SETTINGS}:
            fail("MLP.load", f"{where!r} holds settings that this version does not know: {saved!r}")
        known = {"dtype": weights[0].dtype.name, **saved, **settings}
        known.pop("sizes", None)
        classes = known.pop("classes", None)
        if not isinstance(classes, (list, type(None))):
            fail("MLP.load", f"{where!r} holds classes that are no list: {classes!r}")
        for name in known:
            one_of("MLP.load", "setting", name, _SETTINGS)
        model = cls(sizes, **known)
        model.classes = classes
        for view, name in zip(model.views().values(), names, strict=True):
            view[:] = arrays[name]
        return model


def _name_of(dtype: object) -> object:
    """The name of a type of NumPy's; anything else as it is."""
    if isinstance(dtype, (type, np.dtype)):
        with contextlib.suppress(TypeError):
            return np.dtype(dtype).name
    return dtype


def _chosen(population: Array | Perturbations, numbers: NDArray[np.int64]) -> Array:
    """The members with these numbers, which increase."""
    if not isinstance(population, Perturbations):
        return population[numbers]
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return np.concatenate([population.rows(int(run[0]), int(run[-1]) + 1) for run in runs])


def default_init(activation: str) -> str:
    """The initialisation that suits an activation."""
    if activation in _RECTIFIERS:
        return "he_uniform"
    return "glorot_uniform" if activation in ("identity", "tanh", "sigmoid") else "lecun_uniform"


def _rows(operation: str, samples: ArrayLike, count: int) -> Array:
    """Numbers of samples, as the native core reads them."""
    rows = real(operation, "samples", samples)
    if rows.ndim != 1 or len(rows) == 0 or rows.dtype.kind not in "iu":
        fail(operation, f"samples must be whole numbers, shape (b,), b >= 1, got {rows.dtype} {rows.shape}")
    if rows.min() < 0 or rows.max() >= count:
        fail(operation, f"samples must be in [0, {count}), got {rows.min()} to {rows.max()}")
    return _cast(rows, np.dtype(np.int64))


def _is_ready(array: Array, dtype: np.dtype[Any]) -> bool:
    """Whether the native core can read an array as it is."""
    return array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned


def _cast(array: Array, dtype: np.dtype[Any]) -> Array:
    """An array that the native core can read; what is too large for its type becomes infinite."""
    with np.errstate(over="ignore"):
        return np.require(array, dtype, ["C_CONTIGUOUS", "ALIGNED"])
