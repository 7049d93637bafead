"""The multilayer perceptron: one flat parameter vector, and what a network makes of it."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, softmax

from popgrad import _core, arrays, checkpoint, labels
from popgrad.arrays import real
from popgrad.backends import Stream, aligned, move
from popgrad.checks import fail, fraction, one_of, positive_int, whole_seed
from popgrad.labels import Classes
from popgrad.layout import Layout
from popgrad.metrics import Measure, Metric, Score
from popgrad.models import quantize
from popgrad.models.base import Model
from popgrad.models.evaluation import Evaluation
from popgrad.models.files import read_network
from popgrad.models.measures import measure_of
from popgrad.models.objective import MEMORY_LIMIT, SCORES, NetworkObjective
from popgrad.models.validation import (
    Targets,
    cast_to,
    checked_inputs,
    checked_population,
    checked_rows,
    checked_targets,
    checked_weights,
)
from popgrad.objective import Batch, Objective
from popgrad.perturbations import Perturbations

__all__ = ["MLP"]

Array = NDArray[Any]

ACTIVATIONS = _core.activations()
LOSSES = tuple(name for name, score in SCORES.items() if score.differentiable)

_DTYPES = ("float32", "float64")
PRECISIONS = (*_DTYPES, "bfloat16")
_SETTINGS = ("activation", "loss", "dropout", "dtype", "seed", "init")  # of a model, beside its sizes
_WIDEST = 1 << 24  # units of a layer; the native core takes no more

# The variance that keeps a signal's size from layer to layer, times fan: He et al. 2015 for units that are
# half the time at rest; Glorot & Bengio 2010 (mean of both fans) for what is linear around zero; LeCun et al. 1998
# for the rest.
_RECTIFIERS = ("relu", "leaky_relu", "elu", "gelu", "silu", "softplus")
INITS = tuple(f"{who}_{how}" for who in ("he", "glorot", "lecun") for how in ("normal", "uniform"))


class MLP(Model):
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
        self.loss_score = Score("loss", self.loss_name)
        self._classes: Classes | None = None
        self.network = _core.Network(self.sizes, activation)
        self.layout = self._make_layout()
        try:
            self._params = aligned(self.layout.size, self.dtype)
        except MemoryError:
            fail(self, f"no memory for the {self.layout.size:,} parameters of sizes {self.sizes}")
        self.initialize(self.seed)

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
        self._params = aligned(self.layout.size, self.dtype)  # a copy's memory is aligned too
        self._params[:] = state["_params"]

    # --- Parameters --------------------------------------------------------------------------------------------

    def _make_layout(self) -> Layout:
        """The tensors by their names in a PyTorch ``Sequential``."""
        # Linear, activation and, where there is any, Dropout count as one module each.
        stride = 3 if self.dropout > 0 else 2
        shapes: dict[str, tuple[int, ...]] = {}
        for layer, (inputs, outputs) in enumerate(zip(self.sizes[:-1], self.sizes[1:], strict=True)):
            shapes[f"{stride * layer}.weight"] = (outputs, inputs)
            shapes[f"{stride * layer}.bias"] = (outputs,)
        return Layout(shapes)

    @property
    def params(self) -> Array:
        """All parameters, (n,), writable, 64-byte aligned: weight (out, in) row by row, bias, next layer."""
        return self._params

    @params.setter
    def params(self, values: ArrayLike) -> None:
        array = real("MLP.params", "params", values)
        if array.shape != self._params.shape:
            fail("MLP.params", f"params must have shape {self._params.shape}, got {array.shape}")
        self._params[:] = cast_to(array, self.dtype)

    @property
    def has_gradient(self) -> bool:
        """Whether the activation has one."""
        return ACTIVATIONS[self.activation].differentiable

    @property
    def metric_name(self) -> str:
        """The metric that people read: "error_rate" where there are labels, else "mse"."""
        return "error_rate" if "cross_entropy" in self.loss_name else "mse"

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
        return self.layout.views(params)

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
        if array.ndim not in (1, 2) or array.shape[-1] != self.layout.size:
            fail("MLP.quantized", f"params must have shape ({self.layout.size},) or (P, the same), got {array.shape}")
        try:
            members = np.atleast_2d(array)
            return quantize.quantized(members, weights, self.layout, self.dtype).reshape(array.shape)
        except MemoryError:
            fail("MLP.quantized", f"no memory for another population of shape {array.shape}; give it in parts")

    def initialize(self, seed: int) -> None:
        """Draw new weights; the same seed, in [0, 2^64), gives the same ones on every machine."""
        seed = whole_seed("MLP.initialize", seed)
        scheme, shape = self.init.split("_")
        width = np.zeros_like(self._params)
        for tensor in self.layout:
            if tensor.is_matrix:
                outputs, inputs = tensor.shape
                variance = {"he": 2 / inputs, "glorot": 2 / (inputs + outputs), "lecun": 1 / inputs}[scheme]
                tensor.of(width)[:] = math.sqrt(variance if shape == "normal" else 3 * variance)
        out, stream = self._params[None], Stream.INITIALIZE
        if shape == "normal":
            zero = np.zeros_like(width)
            move("SpreadGaussian", out, [zero, width], seed=seed, generation=0, stream=stream, width=1.0)
        else:
            move("Uniform", out, [-width, width], seed=seed, generation=0, stream=stream)

    # --- Data --------------------------------------------------------------------------------------------------

    def measure(self, operation: str, metric: Metric) -> Measure:
        """What a metric, as `evaluate` takes it, means for this model.

        Raises:
            InputError: the metric is unknown or does not fit the model's targets.
        """
        return measure_of(operation, metric, self.loss_name, self.sizes[-1])

    def objective(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        metric: Metric = "loss",
        operation: str = "MLP.objective",
    ) -> NetworkObjective:
        """Check samples and targets once, for many gradients and evaluations.

        Arrays that need no conversion are kept, not copied: leave them unchanged as long as the result is in use.

        Args:
            X: (B, inputs) numbers, B >= 1, without NaN: an array, a frame of pandas, polars or PyArrow, or a tensor
                of PyTorch in the memory of the CPU. A masked array is refused if an entry is masked.
            y: (B,) labels, or (B,) or (B, outputs) numbers, as the loss asks; from the same sources. Labels are
                0 to K - 1, or members of `classes`. Without `classes`, other labels are numbered in sorted order.
            sample_weight: (B,) weights >= 0, of which only the ratios matter, or None for equal ones.
            metric: what `Objective.values` returns, as for `evaluate`. Gradients are always those of the loss.
            operation: the name that errors begin with.

        Raises:
            InputError: shapes, labels, values or the metric do not fit.
        """
        measure = self.measure(operation, metric)
        y, classes = arrays.read(operation, "y", y), self.classes
        if classes is None and self.takes_classes:
            classes = labels.find(operation, y, max(2, self.sizes[-1]))
        return self.checked_objective(operation, X, y, sample_weight, measure, classes)

    def checked_objective(
        self,
        operation: str,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        measure: Measure,
        classes: Classes | None,
    ) -> NetworkObjective:
        """As `objective`, with a measure and the classes of the labels."""
        inputs = checked_inputs(operation, X, self.sizes[0], self.dtype)
        asked = Targets(self.loss_name, SCORES[self.loss_name].labels, self.sizes[-1], self.takes_classes, classes)
        targets = checked_targets(operation, y, len(inputs), asked, self.dtype)
        weight = checked_weights(operation, sample_weight, len(inputs), self.dtype)
        return NetworkObjective(self, inputs, targets, weight, measure, classes)

    def begin_training(self, objective: Objective) -> None:
        """Take over the classes that the objective has found."""
        assert isinstance(objective, NetworkObjective)
        self.classes = objective.classes

    # --- What a network does -----------------------------------------------------------------------------------

    def forward(self, X: ArrayLike) -> Array:
        """Raw outputs, (B, outputs), for X of shape (B, inputs)."""
        inputs = checked_inputs("MLP.forward", X, self.sizes[0], self.dtype)
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
        objective = self.checked_objective("MLP.loss", X, y, sample_weight, self.loss_score, self.classes)
        return float(objective.values(self._params[None])[0])

    def gradient(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> tuple[float, Array]:
        """The mean loss and its gradient (n,), without dropout.

        Raises:
            InputError: X, y or the weights do not fit, or the activation is ``step``, which has none.
        """
        objective = self.checked_objective("MLP.gradient", X, y, sample_weight, self.loss_score, self.classes)
        if (reason := objective.lacks("gradient")) is not None:
            fail("MLP.gradient", reason)
        out = aligned(self.layout.size, self.dtype)
        return objective.gradient(self._params, Batch(), out), out

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
        if isinstance(rescore, np.bool_):
            rescore = bool(rescore)
        precision = self._checked_precision(precision, rescore)
        if weights is not None:
            one_of("MLP.evaluate", "weights", weights, quantize.KINDS)
        members: Array | Perturbations
        if isinstance(population, Perturbations):
            population.check_fits("MLP.evaluate", self.layout, self.dtype)
            members = population
        else:
            members = checked_population("MLP.evaluate", population, self.layout.size)
        objective = self.checked_objective("MLP.evaluate", X, y, sample_weight, measure, self.classes)
        rows = None if samples is None else checked_rows("MLP.evaluate", samples, objective.samples)
        positive_int("MLP.evaluate", "memory_limit", memory_limit)
        objective.check("MLP.evaluate", rows)
        bfloat16 = precision == "bfloat16"
        return Evaluation(objective, rows, bfloat16, rescore, weights, memory_limit).fitness(members)

    def _checked_precision(self, precision: str | None, rescore: bool | int) -> str:
        precision = self.dtype.name if precision is None else precision
        precision = one_of("MLP.evaluate", "precision", _name_of(precision), PRECISIONS)
        if precision != self.dtype.name and (precision != "bfloat16" or self.dtype != np.float32):
            fail("MLP.evaluate", f"precision {precision!r} does not fit a model of dtype {self.dtype.name}")
        if not isinstance(rescore, bool):
            positive_int("MLP.evaluate", "rescore", rescore)
        if rescore is not False and precision != "bfloat16":
            fail("MLP.evaluate", f"rescore={rescore} needs precision='bfloat16', got {precision!r}")
        return precision

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
        stored = read_network(path, settings, _SETTINGS)
        model = cls(stored.sizes, **stored.settings)
        model.classes = stored.classes
        for view, tensor in zip(model.views().values(), stored.tensors, strict=True):
            view[:] = tensor
        return model


def _name_of(dtype: object) -> object:
    """The name of a type of NumPy's; anything else as it is."""
    if isinstance(dtype, (type, np.dtype)):
        with contextlib.suppress(TypeError):
            return np.dtype(dtype).name
    return dtype


def default_init(activation: str) -> str:
    """The initialization that suits an activation."""
    if activation in _RECTIFIERS:
        return "he_uniform"
    return "glorot_uniform" if activation in ("identity", "tanh", "sigmoid") else "lecun_uniform"
