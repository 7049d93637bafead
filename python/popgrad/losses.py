"""Losses with their settings, such as ``CrossEntropy(label_smoothing=0.1)``; `popgrad.MLP` accepts them as ``loss``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax, xlogy

from popgrad.checks import Settings, fail, number, one_of
from popgrad.settings import check_settings, hyper

__all__ = [
    "REGISTRY",
    "BinaryCrossEntropy",
    "BinaryFocal",
    "CrossEntropy",
    "Focal",
    "Huber",
    "Loss",
    "MeanAbsolute",
    "MeanSquared",
    "Poisson",
    "Quantile",
    "loss_of",
]

Array = NDArray[Any]
Targets = Literal["labels", "binary", "numbers", "counts"]


@dataclass(frozen=True)
class Loss(metaclass=Settings):
    """A loss, which the native core computes by its name; it has at most one setting.

    A loss is the mean over samples and, except for labels, over outputs.

    Attributes:
        name: name of the loss, which `popgrad.MLP` accepts instead of an instance with the default setting.
        targets: "labels" (B,) in [0, outputs), with a softmax over the outputs; "binary" (B, outputs) in [0, 1], with a
            sigmoid per output; "numbers" (B, outputs); or "counts" (B, outputs), numbers >= 0 whose mean is the
            exponential of the output.
        metric: the metric in records of training.
    """

    name: ClassVar[str]
    targets: ClassVar[Targets]
    metric: ClassVar[str]

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def score(self) -> tuple[str, float]:
        """The name and the setting of the native score."""
        return self.name, float(next((getattr(self, field.name) for field in fields(self)), 0.0))

    @property
    def has_classes(self) -> bool:
        """Whether the outputs are logits of classes."""
        return self.targets in ("labels", "binary")

    @property
    def unsmoothed(self) -> Loss | None:
        """The negative log-likelihood of targets that are sampled from the model, or None if there is none."""
        return None

    def sampled(self, z: Array, random: np.random.Generator) -> Array:
        """Targets (B, 1) or (B, outputs), sampled from the distribution whose parameters are the raw outputs z."""
        fail(self, "targets cannot be sampled for this loss, which is not a negative log-likelihood")

    def probabilities(self, z: Array) -> Array:
        """Class probabilities of raw outputs z (B, outputs)."""
        return np.asarray(softmax(z, axis=1) if self.targets == "labels" else expit(z))

    def predictions(self, z: Array) -> Array:
        """Labels (B,), binary labels, means of counts, or numbers (B, outputs), from raw outputs z (B, outputs)."""
        if self.targets == "labels":
            return np.asarray(z.argmax(axis=1))
        if self.targets == "binary":
            return (z > 0).astype(np.int64)
        return z

    def constant(self, mean: Array, least: float) -> Array:
        """The raw outputs (outputs,) that predict the mean targets (outputs,); numbers below `least` count as `least`.

        For a loss on labels, the mean target is the share of each class.
        """
        if not self.has_classes:
            return mean
        odds = np.log(np.maximum(1 - mean, least)) if self.targets == "binary" else 0.0
        return np.asarray(np.log(np.maximum(mean, least)) - odds)

    def least(self, y: Array) -> Array:
        """The smallest possible loss of each target."""
        return np.zeros(y.shape)

    def to_json(self) -> str | dict[str, Any]:
        """The name, or the name and the settings if they are not the defaults; `loss_of` reads it."""
        if self == type(self)():
            return self.name
        return {"name": self.name, **{field.name: number(getattr(self, field.name)) for field in fields(self)}}

    @property
    def shown(self) -> str:
        """The loss as an argument in the repr of a model."""
        return repr(self.name if self == type(self)() else self)


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Softmax and negative log-likelihood of the label.

    With label smoothing s, the targets are 1 - s + s / K for the label and s / K for the other K - 1 outputs
    (Szegedy et al. 2016, arXiv:1512.00567, section 7). As in PyTorch, the loss is the smoothed one in training,
    validation and evaluation alike.

    Args:
        label_smoothing: share s of the target to spread over all outputs, in [0, 1).
    """

    name = "cross_entropy"
    targets = "labels"
    metric = "error_rate"

    label_smoothing: float = hyper(0.0, at_least=0, below=1)

    @property
    def unsmoothed(self) -> Loss:
        """See `Loss.unsmoothed`."""
        return CrossEntropy()

    def sampled(self, z: Array, random: np.random.Generator) -> Array:
        """See `Loss.sampled`; Gumbel's method."""
        return np.asarray((z + random.gumbel(size=z.shape)).argmax(axis=1)[:, None])


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """Sigmoid and negative log-likelihood of targets in [0, 1]; several outputs are several labels per sample.

    With label smoothing s, a target y becomes (1 - s) y + s / 2, in training, validation and evaluation alike.

    Args:
        label_smoothing: s, in [0, 1).
    """

    name = "binary_cross_entropy"
    targets = "binary"
    metric = "error_rate"

    label_smoothing: float = hyper(0.0, at_least=0, below=1)

    @property
    def unsmoothed(self) -> Loss:
        """See `Loss.unsmoothed`."""
        return BinaryCrossEntropy()

    def sampled(self, z: Array, random: np.random.Generator) -> Array:
        """See `Loss.sampled`."""
        return np.asarray(random.logistic(size=z.shape) < z)


@dataclass(frozen=True)
class Focal(Loss):
    """Focal loss of labels: -(1 - p)^gamma log p, where p is the probability of the label.

    Easy samples count less (Lin et al. 2017, arXiv:1708.02002, equation 4). For the weights alpha of classes, see
    ``class_weight`` of `popgrad.fit`.

    Args:
        gamma: exponent, >= 0; 0 is `CrossEntropy`.
    """

    name = "focal"
    targets = "labels"
    metric = "error_rate"

    gamma: float = hyper(2.0, at_least=0)


@dataclass(frozen=True)
class BinaryFocal(Loss):
    """Focal loss of targets in [0, 1]: -y (1 - p)^gamma log p - (1 - y) p^gamma log(1 - p), with p the sigmoid.

    Lin et al. 2017, arXiv:1708.02002, equation 4, for y = 0 or 1.

    Args:
        gamma: exponent, >= 0; 0 is `BinaryCrossEntropy`.
    """

    name = "binary_focal"
    targets = "binary"
    metric = "error_rate"

    gamma: float = hyper(2.0, at_least=0)


@dataclass(frozen=True)
class MeanSquared(Loss):
    """Mean squared error."""

    name = "mse"
    targets = "numbers"
    metric = "mse"

    @property
    def unsmoothed(self) -> Loss:
        """See `Loss.unsmoothed`."""
        return self

    def sampled(self, z: Array, random: np.random.Generator) -> Array:
        """See `Loss.sampled`; the mean over K outputs is the likelihood of the variance K / 2."""
        return np.asarray(z + random.normal(0, np.sqrt(z.shape[1] / 2), z.shape))


@dataclass(frozen=True)
class MeanAbsolute(Loss):
    """Mean absolute error."""

    name = "mae"
    targets = "numbers"
    metric = "mse"


@dataclass(frozen=True)
class Huber(Loss):
    """Huber's loss of an error d: d^2 / 2 up to delta, then delta (abs(d) - delta / 2) (Huber 1964).

    Args:
        delta: where the loss becomes linear, > 0.
    """

    name = "huber"
    targets = "numbers"
    metric = "mse"

    delta: float = hyper(1.0, above=0)


@dataclass(frozen=True)
class Quantile(Loss):
    """Quantile or pinball loss: max(tau (y - z), (tau - 1) (y - z)) (Koenker & Bassett 1978).

    The outputs predict the quantile tau of the targets. Records show the loss as metric.

    Args:
        tau: quantile, in (0, 1).
    """

    name = "quantile"
    targets = "numbers"
    metric = "loss"

    tau: float = hyper(0.5, above=0, below=1)


@dataclass(frozen=True)
class Poisson(Loss):
    """Poisson negative log-likelihood with a log link: exp(z) - y z, without the term log(y!).

    The targets are counts or other numbers >= 0, such as rates. `popgrad.MLP.predict` returns their means, exp(z).
    Records show the mean Poisson deviance, "poisson_deviance", which is 0 for exact predictions.
    """

    name = "poisson"
    targets = "counts"
    metric = "poisson_deviance"

    @property
    def unsmoothed(self) -> Loss:
        """See `Loss.unsmoothed`."""
        return self

    def sampled(self, z: Array, random: np.random.Generator) -> Array:
        """See `Loss.sampled`; means above 1e9 are sampled as 1e9."""
        with np.errstate(over="ignore"):
            return np.asarray(random.poisson(np.minimum(np.exp(z.astype(np.float64)), 1e9)))

    def predictions(self, z: Array) -> Array:
        """See `Loss.predictions`."""
        with np.errstate(over="ignore"):
            return np.asarray(np.exp(z))

    def constant(self, mean: Array, least: float) -> Array:
        """See `Loss.constant`."""
        return np.asarray(np.log(np.maximum(mean, least)))

    def least(self, y: Array) -> Array:
        """See `Loss.least`; the loss is negative for large counts."""
        return np.asarray(y - xlogy(y, y))


# All losses by their names.
REGISTRY: dict[str, type[Loss]] = {
    kind.name: kind
    for kind in (
        CrossEntropy,
        BinaryCrossEntropy,
        Focal,
        BinaryFocal,
        MeanSquared,
        MeanAbsolute,
        Huber,
        Quantile,
        Poisson,
    )
}


def loss_of(operation: object, loss: object) -> Loss:
    """The loss for an argument: a `Loss`, a name, or the result of `Loss.to_json`.

    Raises:
        InputError: the loss is unknown or a setting is out of range.
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, type) and issubclass(loss, Loss):
        fail(operation, f"loss must be a name or an instance, such as {loss.__name__}(), got the class {loss.__name__}")
    given = dict(loss) if isinstance(loss, Mapping) else {"name": loss}
    kind = REGISTRY[one_of(operation, "loss", given.pop("name", None), REGISTRY)]
    if not given.keys() <= {field.name for field in fields(kind)}:
        fail(operation, f"unknown settings of the loss {kind.name!r}: {', '.join(given)}")
    return kind(**given)
