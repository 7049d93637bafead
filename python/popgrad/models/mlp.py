"""The multilayer perceptron, with one flat parameter vector: predictions, losses, gradients and fitness."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popgrad import _core, arrays, checkpoint, labels
from popgrad.arrays import real
from popgrad.backends import aligned
from popgrad.checks import at_least_zero, fail, one_of, positive_int, whole_seed
from popgrad.labels import Classes
from popgrad.layout import Layout
from popgrad.losses import REGISTRY, Loss, loss_of
from popgrad.metrics import Measure, Metric, Score
from popgrad.models import quantize
from popgrad.models.base import Model
from popgrad.models.evaluation import Evaluation
from popgrad.models.files import read_network
from popgrad.models.initialization import INITS, default_init, draw_weights
from popgrad.models.mapped import in_parts
from popgrad.models.measures import measure_of
from popgrad.models.objective import MEMORY_LIMIT, NetworkObjective
from popgrad.models.validation import (
    DTYPES,
    Targets,
    cast_to,
    checked_dropout,
    checked_inputs,
    checked_population,
    checked_precision,
    checked_rows,
    checked_targets,
    checked_weights,
    name_of,
)
from popgrad.objective import Batch, Objective
from popgrad.perturbations import Perturbations

__all__ = ["MLP"]

Array = NDArray[Any]

ACTIVATIONS = _core.activations()
LOSSES = tuple(REGISTRY)

_SETTINGS = (
    "activation",
    "loss",
    "dropout",
    "dtype",
    "seed",
    "init",
    "input_noise",
)  # constructor arguments other than sizes
_WIDEST = 1 << 24  # the largest layer that the native core accepts, in units


class MLP(Model):
    """A multilayer perceptron whose parameters are one flat vector.

    Args:
        sizes: number of inputs, of units in each hidden layer, and of outputs; at least two numbers.
        activation: activation of the hidden layers. The outputs are raw (logits for losses of classes). In
            float32, "sin" is accurate up to arguments of 1e4 and meaningless from 1e7 on.
        loss: one of `popgrad.losses`, such as ``pg.losses.CrossEntropy(label_smoothing=0.1)``, or its name for the
            default settings: "cross_entropy" and "focal" (labels (B,) in [0, outputs)), "binary_cross_entropy" and
            "binary_focal" (targets in [0, 1]), "mse", "mae", "huber", "quantile", or "poisson" (counts). As in PyTorch,
            a loss is the mean over samples; except for labels, it is also the mean over outputs.
        dropout: probability with which a training gradient drops a hidden unit, in [0, 1) (Srivastava et al. 2014); or
            a list with one probability per hidden layer.
        dtype: "float32" or "float64".
        seed: seed of the initial weights, and of dropout, input noise and mixup, in [0, 2^64).
        init: one of he_normal, he_uniform, glorot_normal, glorot_uniform, lecun_normal, lecun_uniform.
            Default: he_uniform for rectifiers (relu, leaky_relu, elu, gelu, silu, softplus), glorot_uniform for
            identity, tanh and sigmoid, lecun_uniform for sin and step. Biases start at zero.
        input_noise: standard deviation, >= 0, of the normal noise that a training gradient adds to the inputs (Bishop
            1995). Like dropout masks, the noise is a function of the seed, the step and the place in the batch.

    Raises:
        InputError: an argument is out of range or a name is unknown.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str = "relu",
        loss: str | Loss = "cross_entropy",
        dropout: float | Sequence[float] = 0.0,
        dtype: str = "float32",
        seed: int = 0,
        init: str | None = None,
        input_noise: float = 0.0,
    ) -> None:
        if not hasattr(sizes, "__len__") or len(sizes) < 2:
            fail(self, f"sizes must be at least two numbers, such as [64, 32, 10], got {sizes!r}")
        self.sizes = [positive_int(self, "each of sizes", size) for size in sizes]
        if max(self.sizes) > _WIDEST:
            fail(self, f"each of sizes must be at most {_WIDEST}, got {max(self.sizes)}")
        count = sum((inputs + 1) * outputs for inputs, outputs in zip(self.sizes[:-1], self.sizes[1:], strict=True))
        if count >= 1 << 59:  # the number of bytes in float64 must fit in 64 bits
            fail(self, f"sizes must give fewer than 2^59 parameters, got {count:,}")
        self.activation = one_of(self, "activation", activation, ACTIVATIONS)
        self.criterion = loss_of(self, loss)
        self.dtype = np.dtype(one_of(self, "dtype", name_of(dtype), DTYPES))
        self.dropout = checked_dropout(self, dropout, len(self.sizes) - 2)
        if not at_least_zero(input_noise):
            fail(self, f"input_noise must be a finite number >= 0, got {input_noise!r}")
        self.input_noise = float(input_noise)
        self.seed = whole_seed(self, seed)
        self.init = one_of(self, "init", init or default_init(activation), INITS)
        if self.criterion.targets == "labels" and self.sizes[-1] < 2:
            other = "binary_focal" if self.loss_name == "focal" else "binary_cross_entropy"
            fail(self, f"{self.loss_name} needs at least two outputs; for one output use loss={other!r}")
        self.loss_score = Score("loss", *self.criterion.score)
        self._classes: Classes | None = None
        self.network = self._make_network()
        self.layout = self._make_layout()
        try:
            self._params = aligned(self.layout.size, self.dtype)
        except MemoryError:
            fail(self, f"no memory for the {self.layout.size:,} parameters of sizes {self.sizes}")
        self.initialize(self.seed)

    def __repr__(self) -> str:
        noise = f", input_noise={self.input_noise}" * (self.input_noise > 0)
        return (
            f"MLP({self.sizes}, activation={self.activation!r}, loss={self.criterion.shown}, dropout={self.dropout}, "
            f"dtype={self.dtype.name!r}, seed={self.seed}, init={self.init!r}{noise})"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "network"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.network = self._make_network()
        self._params = aligned(self.layout.size, self.dtype)  # unpickled parameters are aligned too
        self._params[:] = state["_params"]

    # --- Parameters --------------------------------------------------------------------------------------------

    def _make_network(self) -> _core.Network:
        return _core.Network(self.sizes, self.activation, self.dropout_rates)

    @property
    def dropout_rates(self) -> list[float]:
        """The probability of dropout of each hidden layer."""
        return self.dropout if isinstance(self.dropout, list) else [self.dropout] * (len(self.sizes) - 2)

    @property
    def draws(self) -> bool:
        """Whether training gradients draw random numbers: dropout masks or input noise."""
        return self.input_noise > 0 or any(self.dropout_rates)

    def _make_layout(self) -> Layout:
        """The layout, with the tensor names of a PyTorch ``Sequential``."""
        # A Sequential numbers its modules: Linear, the activation and, if its rate is > 0, Dropout.
        shapes: dict[str, tuple[int, ...]] = {}
        number = 0
        for inputs, outputs, rate in zip(self.sizes[:-1], self.sizes[1:], [*self.dropout_rates, 0.0], strict=True):
            shapes[f"{number}.weight"] = (outputs, inputs)
            shapes[f"{number}.bias"] = (outputs,)
            number += 3 if rate > 0 else 2
        return Layout(shapes)

    @property
    def params(self) -> Array:
        """All parameters, (n,), writable, 64-byte aligned: for each layer, weight (out, in) in C order, then bias."""
        return self._params

    @params.setter
    def params(self, values: ArrayLike) -> None:
        array = real("MLP.params", "params", values)
        if array.shape != self._params.shape:
            fail("MLP.params", f"params must have shape {self._params.shape}, got {array.shape}")
        self._params[:] = cast_to(array, self.dtype)

    @property
    def has_gradient(self) -> bool:
        """Whether the activation has a gradient."""
        return ACTIVATIONS[self.activation].differentiable

    @property
    def loss_name(self) -> str:
        """The name of the loss, such as "cross_entropy"; `criterion` is the loss with its settings."""
        return self.criterion.name

    @property
    def metric_name(self) -> str:
        """The metric in records: `popgrad.losses.Loss.metric` of the loss."""
        return self.criterion.metric

    @property
    def takes_classes(self) -> bool:
        """Whether each target is one class label: a loss on labels, or a loss on binary targets with one output."""
        return self.criterion.targets == "labels" or (self.criterion.targets == "binary" and self.sizes[-1] == 1)

    @property
    def classes(self) -> Classes | None:
        """The original labels of the class indices 0 to K - 1, or None if the labels are the indices themselves.

        `pg.fit` sets the classes if y holds text, or K whole numbers other than 0 to K - 1. With classes set, targets
        are original labels, `predict` returns original labels, and `save` stores the classes. Set None before
        training on other labels. If the classes are text, numeric targets are still read as class indices.

        Raises:
            InputError: the classes are not K different strings or numbers, or the model's targets are not labels.
        """
        return self._classes

    @classes.setter
    def classes(self, classes: Sequence[Any] | None) -> None:
        if classes is not None and not self.takes_classes:
            fail("MLP.classes", f"a model with loss {self.loss_name!r} and {self.sizes[-1]} outputs has no classes")
        count = max(2, self.sizes[-1])
        self._classes = None if classes is None else labels.checked("MLP.classes", classes, count)

    def views(self, params: Array | None = None) -> dict[str, Array]:
        """Weights and biases as views into the parameters, named as in a PyTorch ``Sequential``.

        Args:
            params: parameter vector (n,) to view; the model's parameters by default.

        Raises:
            InputError: `params` has the wrong shape or is not contiguous.
        """
        params = self._params if params is None else params
        if params.shape != self._params.shape or not params.flags.c_contiguous:
            fail("MLP.views", f"params must be a contiguous array {self._params.shape}, got shape {params.shape}")
        return self.layout.views(params)

    def quantized(self, params: ArrayLike, weights: str) -> Array:
        """Quantize the weight matrices of parameters; biases stay unchanged.

        ``model.params = model.quantized(model.params, "binary")`` makes the model predict with quantized weights. Each
        weight matrix w becomes:

        - "binary": sign(w) * mean(abs(w)), with sign(0) = 1 (XNOR-Net, arXiv:1603.05279, one scale per matrix).
        - "ternary": 0 where abs(w) <= 0.7 * mean(abs(w)), otherwise sign(w) times the mean of abs(w) over the nonzero
          entries (arXiv:1605.04711).
        - "int8": the nearest integer multiple in [-127, 127] of max(abs(w)) / 127; ties round to even.

        Args:
            params: (n,), or a population (P, n); not changed.
            weights: "binary", "ternary" or "int8".

        Returns:
            A copy with the same shape, in the model's dtype. If a matrix holds NaN or infinity, none of its quantized
            values is finite.

        Raises:
            InputError: `params` has the wrong shape or type, or the name is unknown.
        """
        one_of("MLP.quantized", "weights", weights, quantize.KINDS)
        array = real("MLP.quantized", "params", params)
        if array.ndim not in (1, 2) or array.shape[-1] != self.layout.size:
            fail("MLP.quantized", f"params must have shape ({self.layout.size},) or (P, the same), got {array.shape}")
        try:
            members = np.atleast_2d(array)
            return quantize.quantized(members, weights, self.layout, self.dtype).reshape(array.shape)
        except MemoryError:
            fail("MLP.quantized", f"no memory for a copy of a population of shape {array.shape}; pass it in chunks")

    def initialize(self, seed: int) -> None:
        """Draw new weights; the same seed, in [0, 2^64), gives the same weights on every machine."""
        draw_weights(self._params, self.layout, self.init, whole_seed("MLP.initialize", seed))

    def reseed(self, seed: int) -> None:
        """Set `seed`, and draw the initial weights of ``MLP(..., seed=seed)``."""
        self.initialize(seed)
        self.seed = whole_seed("MLP.reseed", seed)

    # --- Data --------------------------------------------------------------------------------------------------

    def measure(self, operation: str, metric: Metric) -> Measure:
        """The measure that computes a metric of `evaluate` for this model.

        Raises:
            InputError: the metric is unknown or does not fit the model's targets.
        """
        return measure_of(operation, metric, self.criterion, self.sizes[-1])

    def objective(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        metric: Metric = "loss",
        operation: str = "MLP.objective",
    ) -> Objective:
        """Check samples and targets once, for many gradients and evaluations.

        Arrays that need no conversion are not copied. Do not change them while the objective is in use. If X is in a
        mapped file (a C-contiguous `numpy.memmap` of the model's dtype) or fills a quarter of the memory, the
        objective copies 32 MiB of it at a time.

        Args:
            X: (B, inputs) numbers, B >= 1, without NaN: an array, a pandas, polars or PyArrow table, or a PyTorch
                tensor on the CPU. A masked array must not have masked entries.
            y: (B,) labels, or (B,) or (B, outputs) numbers, depending on the loss; the same types as X. Labels are
                0 to K - 1, or members of `classes`. Without `classes`, other labels are numbered in sorted order.
            sample_weight: (B,) weights >= 0, or None for equal weights. Only the ratios of the weights matter.
            metric: metric that `Objective.values` returns, as for `evaluate`. Gradients are always of the loss.
            operation: prefix of error messages.

        Raises:
            InputError: shapes, labels, values or the metric do not fit.
        """
        measure = self.measure(operation, metric)
        y, classes = arrays.read(operation, "y", y), self.classes
        if classes is None and self.takes_classes:
            classes = labels.find(operation, y, max(2, self.sizes[-1]))
        return in_parts(self.checked_objective(operation, X, y, sample_weight, measure, classes))

    def checked_objective(
        self,
        operation: str,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        measure: Measure,
        classes: Classes | None,
    ) -> NetworkObjective:
        """Like `objective`, for a measure and known classes."""
        inputs = checked_inputs(operation, X, self.sizes[0], self.dtype)
        asked = Targets(self.criterion, self.sizes[-1], self.takes_classes, classes)
        targets = checked_targets(operation, y, len(inputs), asked, self.dtype)
        weight = checked_weights(operation, sample_weight, len(inputs), self.dtype)
        return NetworkObjective(self, inputs, targets, weight, measure, classes)

    def begin_training(self, objective: Objective) -> None:
        """Set `classes` to the classes that the objective found in y."""
        self.classes = cast(Any, objective).classes

    # --- Predictions, losses and gradients ---------------------------------------------------------------------

    def forward(self, X: ArrayLike) -> Array:
        """Raw outputs, (B, outputs), for X of shape (B, inputs)."""
        inputs = checked_inputs("MLP.forward", X, self.sizes[0], self.dtype)
        out = np.empty((len(inputs), self.sizes[-1]), self.dtype)
        self.network.forward(self._params[None], inputs, out[None])
        return out

    def predict_proba(self, X: ArrayLike) -> Array:
        """Class probabilities, (B, outputs): the softmax for labels, sigmoids for binary targets.

        The columns are in the order of the labels, or of `classes`. With one output and binary targets, the
        column is the probability of label 1, or of ``classes[1]``. Small probabilities keep their relative precision.
        """
        z = self.forward(X)
        if not self.criterion.has_classes:
            fail(
                "MLP.predict_proba", f"a model with loss {self.loss_name!r} does not predict probabilities; use predict"
            )
        return self.criterion.probabilities(z)

    def predict(self, X: ArrayLike) -> Array:
        """Labels for losses on labels, 0 or 1 for binary targets, means (exp) for poisson, otherwise the outputs.

        Labels are members of `classes` if the model has classes, otherwise int64. Returns shape (B,) for one output
        and (B, outputs) otherwise; a loss on labels always returns (B,).
        """
        z = self.criterion.predictions(self.forward(X))
        z = z[:, 0] if z.ndim == 2 and z.shape[1] == 1 else z
        return z if self.classes is None else np.array(self.classes)[z]

    def loss(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Mean loss over the samples (weighted, if weights are given)."""
        objective = self.checked_objective("MLP.loss", X, y, sample_weight, self.loss_score, self.classes)
        return float(objective.values(self._params[None])[0])

    def gradient(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> tuple[float, Array]:
        """The mean loss and its gradient (n,), without dropout and input noise; zero for frozen tensors.

        Raises:
            InputError: X, y or the weights do not fit, or the activation is ``step``, which has no gradient.
        """
        objective = self.checked_objective("MLP.gradient", X, y, sample_weight, self.loss_score, self.classes)
        if (reason := objective.lacks("gradient")) is not None:
            fail("MLP.gradient", reason)
        out = aligned(self.layout.size, self.dtype)
        loss = objective.gradient(self._params, Batch(), out)
        self.layout.clear_frozen(out)
        return loss, out

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
        """Fitness of each candidate of a population; smaller is better.

        ============================  ==========================================================================
        metric                        definition (all metrics use the sample weights)
        ============================  ==========================================================================
        "loss"                        the model's loss
        "error_rate"                  share of wrong labels; the mean over outputs for binary targets
        "balanced_error"              1 - mean recall over the classes that occur in y
        "f1_macro"                    1 - mean F1 over the classes that occur in y or among the predictions
        "auc"                         1 - area under the ROC curve; ties count half. Several classes: the mean of
                                      one-vs-rest areas of the class probabilities. Several outputs of
                                      binary_cross_entropy: the mean over outputs
        "mse", "mae"                  mean squared error, mean absolute error
        "r2"                          1 - R2, averaged over outputs; for a constant target 1, or 0 if all
                                      predictions equal the target
        "poisson_deviance"            mean Poisson deviance of counts, for the loss poisson alone
        "quantile", ("quantile", q)   pinball loss at level q in (0, 1), default 0.5
        ============================  ==========================================================================

        error_rate, balanced_error, f1_macro and auc need labels; balanced_error and f1_macro need one label per
        sample. mse, mae, r2 and quantile need numeric targets, which the raw outputs predict. The native core computes
        loss, error_rate, balanced_error, mse, mae and poisson_deviance. The other metrics are computed from raw
        outputs, in chunks of candidates, and take about twice as long.

        A user-defined metric is called as ``metric(outputs, y)``, or ``metric(outputs, y, sample_weight)`` if there
        are weights, with c candidates at a time. The raw outputs (c, B, outputs) have the model's dtype, may hold
        NaN, and are overwritten after the call. y is (B,) int64 labels or (B, outputs) targets, read-only. The metric
        returns (c,) numbers; smaller is better, and NaN marks an unusable candidate. Exceptions propagate.

        Args:
            population: (P, n), one parameter vector per row, converted to the model's dtype; or `Perturbations` of
                that dtype.
            X, y, sample_weight: as for `objective`.
            metric: a name from the table, ("quantile", q), or a function.
            precision: "bfloat16" (for a float32 model), or the model's dtype, which is the default. "bfloat16" rounds
                weights, inputs and hidden values to the nearest number with 8 bits of precision; sums, biases,
                activations and losses stay float32. With AVX-512 BF16, "bfloat16" takes half of the float32 time for
                wide networks, 0.6 of it for 64-32-10, and all of it for 8-16-3. AMX is used when available. Without
                either (see ``popgrad info``), and for `Perturbations` with a rank, the evaluation is in float32, with
                a warning.
            rescore: with "bfloat16", evaluate candidates again in float32 if rounding may have changed their ranks.
                True covers all ranks; with hundreds of candidates, that takes longer than float32 alone. A number
                k >= 1 covers the k best ranks and takes little time. The rounding error is estimated from 32
                candidates spread over the ranks, and from all candidates evaluated again. A wrong rank remains if an
                error is more than twice the estimate. That is rare for losses, and more frequent where a few samples
                decide the value ("auc", "f1_macro", networks with the activation "step").
            samples: (b,) whole numbers in [0, B), the rows of X to use for all candidates; a repeated row counts
                repeatedly. Default: all rows. For many calls on the same data, use `objective`: it checks X and y
                once, and its `Objective.values` evaluates a population.
            weights: "binary", "ternary" or "int8": quantize the weights before evaluation, see `quantized`.
            memory_limit: limit in bytes, > 0, for raw outputs. The same limit applies to copies of candidates, which
                are needed for quantization, for another type or layout, and for `rescore`. The memory for one
                candidate and for a copy of the samples is used regardless of the limit.

        Returns:
            (P,) float64; infinity for a candidate whose value is not finite.

        Raises:
            InputError: shapes, labels, values or names do not fit, a user-defined metric returned anything other than
                (c,) numbers, or memory runs out.
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
        precision = checked_precision("MLP.evaluate", self.dtype.name if precision is None else precision, self.dtype)
        if not isinstance(rescore, bool):
            positive_int("MLP.evaluate", "rescore", rescore)
        if rescore is not False and precision != "bfloat16":
            fail("MLP.evaluate", f"rescore={rescore} needs precision='bfloat16', got {precision!r}")
        return precision

    # --- Files -------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the parameters as safetensors, with the names and shapes of a PyTorch ``Sequential``.

        PyTorch reads the file with ``sequential.load_state_dict(safetensors.torch.load_file(path))``.
        """
        return checkpoint.save(path, *self.contents())

    def contents(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """The contents of the file that `save` writes: (tensors by name, JSON values)."""
        loss, kind = self.criterion.to_json(), self.dtype.name
        values = (self.activation, loss, self.dropout, kind, self.seed, self.init, self.input_noise)
        settings: dict[str, Any] = {"sizes": self.sizes, **dict(zip(_SETTINGS, values, strict=True))}
        if self.classes is not None:
            settings["classes"] = list(self.classes)
        if self.layout.frozen:
            settings["frozen"] = list(self.layout.frozen)
        return self.views(), {"MLP": settings}

    @classmethod
    def load(cls, path: str | os.PathLike[str], **settings: Any) -> Self:
        """Read a model that `save` wrote, or the state of a PyTorch ``Sequential`` of linear layers.

        Args:
            path: a safetensors file.
            **settings: constructor arguments other than sizes; they override the settings in the file. A file that
                PyTorch wrote has no settings, so pass the activation and the loss.

        Raises:
            InputError: the file cannot be read or does not hold a multilayer perceptron.
        """
        stored = read_network(path, settings, _SETTINGS)
        model = cls(stored.sizes, **stored.settings)
        model.classes = stored.classes
        if stored.frozen:
            model.freeze(*stored.frozen)
        for view, tensor in zip(model.views().values(), stored.tensors, strict=True):
            view[:] = tensor
        return model
