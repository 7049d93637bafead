"""The measures that metric names stand for, given a network's loss."""

from __future__ import annotations

from popgrad import metrics
from popgrad.checks import at_least_zero, fail, one_of
from popgrad.losses import Loss
from popgrad.metrics import Measure, Metric, Score, UserMetric

__all__ = ["METRICS", "measure_of", "score_of"]

METRICS = (
    "loss",
    "error_rate",
    "mse",
    "mae",
    "poisson_deviance",
)  # computed by the native core; the others are in `popgrad.metrics`


def measure_of(operation: str, metric: Metric, loss: Loss, outputs: int) -> Measure:
    """The measure that computes a metric of `popgrad.MLP.evaluate`.

    Args:
        operation: prefix of error messages.
        metric: a name, ("quantile", level), or a function.
        loss: the network's loss.
        outputs: number of outputs of the network.

    Raises:
        InputError: the metric is unknown or does not fit the targets of the loss.
    """
    if callable(metric):
        called = getattr(metric, "__name__", type(metric).__name__)
        return UserMetric(called, metric, operation)
    name, level = (metric[0], metric[1]) if isinstance(metric, tuple) and len(metric) == 2 else (metric, 0.5)
    one_of(operation, "metric", name, (*METRICS, *metrics.NAMES))
    assert isinstance(name, str)
    if isinstance(metric, tuple) and name != "quantile":
        fail(operation, f"only quantile accepts a level, got {metric!r}")
    if name == "loss":
        return Score(name, *loss.score)
    if name in METRICS:
        return Score(name, score_of(operation, name, loss))
    _check_targets(operation, name, loss, labels=name not in ("r2", "quantile"))
    if name in ("balanced_error", "f1_macro") and loss.targets != "labels" and outputs > 1:
        fail(operation, f"{name} needs one label per sample; a model with loss {loss.name!r} has {outputs}")
    if name == "balanced_error":
        return Score(name, score_of(operation, "error_rate", loss), balanced=True)
    if not (at_least_zero(level) and 0 < level < 1):
        fail(operation, f"the level of quantile must be in (0, 1), got {level!r}")
    return metrics.named(name, float(level))


def score_of(operation: str, name: str, loss: Loss) -> str:
    """The name of the native score that computes a metric.

    Raises:
        InputError: the metric does not fit the targets of the loss.
    """
    if name == "loss":
        return loss.name
    if name == "poisson_deviance":
        if loss.targets != "counts":
            fail(operation, f"{name} needs a model with loss 'poisson', got {loss.name!r}")
        return name
    _check_targets(operation, name, loss, labels=name == "error_rate")
    return "binary_error_rate" if name == "error_rate" and loss.targets == "binary" else name


def _check_targets(operation: str, metric: str, loss: Loss, labels: bool) -> None:
    """Fail unless the loss has the targets that the metric needs: labels or numbers."""
    if loss.targets == "counts":
        fail(
            operation,
            f"{metric} compares raw outputs with targets, but a model with loss {loss.name!r} predicts exp(outputs); "
            "use poisson_deviance or a function of raw outputs",
        )
    if labels == loss.has_classes:
        return
    if labels:
        fail(operation, f"{metric} needs labels; a model with loss {loss.name!r} has none")
    fail(operation, f"{metric} needs numeric targets; a model with loss {loss.name!r} has labels")
