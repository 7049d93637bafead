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

from popgrad import _core, checkpoint
from popgrad.backends import Stream, aligned, move
from popgrad.checks import fail, fraction, one_of, positive_int, whole_seed
from popgrad.perturbations import Perturbations

__all__ = ["MLP", "Data"]

Array = NDArray[Any]

ACTIVATIONS = _core.activations()  # name: has a gradient
SCORES = _core.scores()  # name: (targets are labels, has a gradient)
LOSSES = tuple(name for name, (_, differentiable) in SCORES.items() if differentiable)
METRICS = ("loss", "error_rate", "mse", "mae")

_DTYPES = ("float32", "float64")
_SETTINGS = ("activation", "loss", "dropout", "dtype", "seed", "init")  # of a model, beside its sizes
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
        activation: of the hidden layers; the outputs are raw (logits for the two cross-entropies).
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
        self.activation = one_of(self, "activation", activation, ACTIVATIONS)
        self.loss_name = one_of(self, "loss", loss, LOSSES)
        with contextlib.suppress(TypeError):  # no type of NumPy's: the next line says so
            dtype = np.dtype(dtype).name
        self.dtype = np.dtype(one_of(self, "dtype", dtype, _DTYPES))
        self.dropout = dropout
        fraction(self, "dropout")
        self.dropout = float(dropout)
        self.seed = whole_seed(self, seed)
        self.init = one_of(self, "init", init or default_init(activation), INITS)
        if self.loss_name == "cross_entropy" and self.sizes[-1] < 2:
            fail(self, "cross_entropy needs at least two outputs; for one use loss='binary_cross_entropy'")
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
        array = _real("MLP.params", "params", values)
        if array.shape != self._params.shape:
            fail("MLP.params", f"params must have shape {self._params.shape}, got {array.shape}")
        self._params[:] = _cast(array, self.dtype)

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
        out, stream = self._params[None], Stream.INITIALISE
        if shape == "normal":
            zero = np.zeros_like(width)
            move("SpreadGaussian", out, [zero, width], seed=seed, generation=0, stream=stream, width=1.0)
        else:
            move("Uniform", out, [-width, width], seed=seed, generation=0, stream=stream)

    # --- Data --------------------------------------------------------------------------------------------------

    def _inputs(self, operation: str, X: ArrayLike) -> Array:
        array = _real(operation, "X", X)
        if array.ndim != 2:
            fail(operation, f"X must have shape (samples, {self.sizes[0]}), got {array.shape}")
        if array.shape[1] != self.sizes[0]:
            fail(operation, f"X must have {self.sizes[0]} columns, got {array.shape[1]}")
        if len(array) == 0:
            fail(operation, "X has no rows; at least one sample is needed")
        typed = _cast(array, self.dtype)
        if not np.isfinite(typed).all():
            row = int(np.argmin(np.isfinite(typed).all(axis=1)))
            what = f"NaN, infinity or more than {self.dtype} holds"
            fail(operation, f"X holds {what} (first in row {row}); impute or drop those rows first")
        return typed

    def _targets(self, operation: str, y: ArrayLike, samples: int, labels: bool) -> Array:
        outputs = self.sizes[-1]
        y = _real(operation, "y", y, "; encode labels as 0, 1, 2, ..." if labels else "")
        if len(y.shape) == 0 or len(y) != samples:
            fail(operation, f"y must have one entry per row of X, {samples}, got shape {y.shape}")
        if labels:
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
        array = _real(operation, "sample_weight", weight)
        if array.shape != (samples,):
            fail(operation, f"sample_weight must have shape ({samples},), got {array.shape}")
        typed = _cast(array, self.dtype)
        if not (np.isfinite(typed).all() and (typed >= 0).all() and typed.any()):
            fail(operation, "sample_weight must be finite, none below zero and not all zero")
        return typed

    def score_name(self, operation: str, metric: str) -> str:
        """The native score behind a metric's name.

        Raises:
            InputError: the metric is unknown or does not fit the model's targets.
        """
        one_of(operation, "metric", metric, METRICS)
        if metric == "loss":
            return self.loss_name
        if metric == "error_rate":
            if self.loss_name in ("cross_entropy", "binary_cross_entropy"):
                return metric if self.loss_name == "cross_entropy" else "binary_error_rate"
            fail(operation, f"error_rate needs labels; a model with loss {self.loss_name!r} has none")
        if self.loss_name in ("mse", "mae", "huber"):
            return metric
        fail(operation, f"{metric} needs numeric targets; a model with loss {self.loss_name!r} has labels")

    def data(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None, *, operation: str = "MLP.data"
    ) -> Data:
        """Check samples and targets once, for many gradients and evaluations.

        Args:
            X: (B, inputs) numbers, B >= 1, without NaN.
            y: (B,) labels, or (B,) or (B, outputs) numbers, as the loss asks.
            sample_weight: (B,) weights >= 0, or None for equal ones.
            operation: the name that errors begin with.

        Raises:
            InputError: shapes, labels or values do not fit.
        """
        inputs = self._inputs(operation, X)
        targets = self._targets(operation, y, len(inputs), SCORES[self.loss_name][0])
        return Data(self, inputs, targets, self._weights(operation, sample_weight, len(inputs)))

    # --- What a network does -----------------------------------------------------------------------------------

    def forward(self, X: ArrayLike) -> Array:
        """Raw outputs, (B, outputs), for X of shape (B, inputs)."""
        inputs = self._inputs("MLP.forward", X)
        out = np.empty((len(inputs), self.sizes[-1]), self.dtype)
        self.network.forward(self._params, inputs, out)
        return out

    def predict_proba(self, X: ArrayLike) -> Array:
        """Class probabilities, (B, outputs): softmax or, for binary_cross_entropy, the sigmoid of each output."""
        z = self.forward(X)
        if self.loss_name == "cross_entropy":
            z = np.exp(z - z.max(axis=1, keepdims=True))
            return cast(Array, z / z.sum(axis=1, keepdims=True))
        if self.loss_name == "binary_cross_entropy":
            return cast(Array, 0.5 * (1 + np.tanh(0.5 * z)))
        fail("MLP.predict_proba", f"a model with loss {self.loss_name!r} has no probabilities; use predict")

    def predict(self, X: ArrayLike) -> Array:
        """Labels (B,) int64 for cross_entropy, 0 or 1 for binary_cross_entropy, else the outputs.

        One output gives (B,), several (B, outputs), save for cross_entropy.
        """
        z = self.forward(X)
        if self.loss_name == "cross_entropy":
            return cast(Array, z.argmax(axis=1))
        if self.loss_name == "binary_cross_entropy":
            z = (z > 0).astype(np.int64)
        return z[:, 0] if z.shape[1] == 1 else z

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
        if not ACTIVATIONS[self.activation]:
            fail(
                operation,
                f"activation {self.activation!r} has no gradient. Train it with a search (popgrad.search), "
                "or choose another activation.",
            )

    def evaluate(
        self,
        population: ArrayLike | Perturbations,
        X: ArrayLike,
        y: ArrayLike,
        metric: str = "loss",
        precision: str | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> NDArray[np.float64]:
        """Fitness of every row of a population, smaller is better.

        Args:
            population: (P, n), one parameter vector a row, converted to the model's dtype; or `Perturbations` in it.
            X, y, sample_weight: as for `data`.
            metric: "loss", "error_rate", "mse" or "mae".
            precision: the model's dtype, which is also the default.

        Returns:
            (P,) float64; a candidate whose value is not finite has infinity.

        Raises:
            InputError: shapes, labels, values or names do not fit.
        """
        score = self.score_name("MLP.evaluate", metric)
        if precision is not None and one_of("MLP.evaluate", "precision", precision, _DTYPES) != self.dtype:
            fail("MLP.evaluate", f"precision {precision!r} needs a model of that dtype, this one is {self.dtype}")
        if isinstance(population, Perturbations):
            population.check_fits("MLP.evaluate", self.network.n, self.dtype, [v.shape for v in self.views().values()])
            return self.data(X, y, sample_weight, operation="MLP.evaluate").evaluate(population, score)
        members = _real("MLP.evaluate", "population", population)
        if members.ndim != 2 or members.shape[1] != self.network.n or len(members) == 0:
            fail("MLP.evaluate", f"population must have shape (P, {self.network.n}), P >= 1, got {members.shape}")
        if members.dtype.kind == "b":
            fail("MLP.evaluate", "population must be real numbers, got dtype bool")
        data = self.data(X, y, sample_weight, operation="MLP.evaluate")
        return data.evaluate(_cast(members, self.dtype), score)

    # --- Files -------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the weights as safetensors, named and shaped as a PyTorch ``Sequential`` has them.

        PyTorch reads the file with ``sequential.load_state_dict(safetensors.torch.load_file(path))``.
        """
        values = (self.activation, self.loss_name, self.dropout, self.dtype.name, self.seed, self.init)
        settings = {"sizes": self.sizes, **dict(zip(_SETTINGS, values, strict=True))}
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
        if not isinstance(saved, dict) or not saved.keys() <= {"sizes", *_SETTINGS}:
            fail("MLP.load", f"{where!r} holds settings that this version does not know: {saved!r}")
        known = {"dtype": weights[0].dtype.name, **saved, **settings}
        known.pop("sizes", None)
        for name in known:
            one_of("MLP.load", "setting", name, _SETTINGS)
        model = cls(sizes, **known)
        for view, name in zip(model.views().values(), names, strict=True):
            view[:] = arrays[name]
        return model


class Data:
    """Samples and targets that a model has checked; made by `MLP.data`.

    Args:
        model: whose network and loss are meant.
        X: (B, inputs). y: (B, 1) labels or (B, outputs) targets. weight: (B,) or None. All of the model's dtype.
    """

    def __init__(self, model: MLP, X: Array, y: Array, weight: Array | None) -> None:
        self.model, self.X, self.y, self.weight = model, X, y, weight
        self._packed: _core.Packed | None = None

    def __len__(self) -> int:
        return len(self.X)

    def rows(self, rows: Array) -> Data:
        """The samples with these numbers, copied."""
        weight = None if self.weight is None else self.weight[rows]
        return Data(self.model, self.X[rows], self.y[rows], weight)

    def evaluate(
        self, population: Array | Perturbations, score: str | None = None, rows: Array | None = None
    ) -> NDArray[np.float64]:
        """Fitness (P,) of a C-contiguous population of the model's dtype; infinity where it is not finite.

        Args:
            population: (P, n), or `Perturbations` that fit the model.
            score: a native score (`MLP.score_name`); default the loss.
            rows: (b,) int64, the samples to use; default all.
        """
        network = self.model.network
        if rows is not None:
            packed = network.pack(self.X, self.y, self.weight, rows)
        else:
            # Laid out for the kernels once: a search evaluates the same samples many times.
            packed = self._packed = self._packed or network.pack(self.X, self.y, self.weight)
        out = np.empty(len(population))
        score = score or self.model.loss_name
        if isinstance(population, Perturbations):
            network.evaluate_noise(score, population.noise, population.center, packed, out)
        else:
            network.evaluate(score, population, packed, out)
        out[~np.isfinite(out)] = np.inf
        return out

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
        model.network.forward(params, part.X, outputs)
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


def default_init(activation: str) -> str:
    """The initialisation that suits an activation."""
    if activation in _RECTIFIERS:
        return "he_uniform"
    return "glorot_uniform" if activation in ("identity", "tanh", "sigmoid") else "lecun_uniform"


def _real(operation: str, what: str, values: ArrayLike, hint: str = "") -> Array:
    """An array of real numbers or booleans, of whatever type, not copied where it is one."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:
        fail(operation, f"{what} must be an array of real numbers: {error}")
    if array.dtype.kind not in "fiub":
        fail(operation, f"{what} must be real numbers, got dtype {array.dtype}{hint}")
    return array


def _cast(array: Array, dtype: np.dtype[Any]) -> Array:
    """An array that the native core can read; what is too large for its type becomes infinite."""
    with np.errstate(over="ignore"):
        return np.require(array, dtype, ["C_CONTIGUOUS", "ALIGNED"])
