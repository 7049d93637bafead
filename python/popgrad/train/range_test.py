"""The learning-rate range test: train briefly while the learning rate grows, and look where the loss falls."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popgrad.checks import fail, number, positive_int, whole_seed
from popgrad.method import Method
from popgrad.models import Model
from popgrad.objective import Around, Batch, Objective
from popgrad.schedules import Exponential
from popgrad.train.batches import Batches
from popgrad.train.fit import divided

__all__ = ["RangeTest", "Suggestion", "lr_range_test"]

Array = NDArray[Any]
Floats = NDArray[np.float64]

_SMOOTHING = 0.9  # of the running mean of the losses; fastai's 0.98 lags by half of 100 steps
_EXPLODED = 4.0  # the test ends when the smoothed loss is this many times its smallest value


class Suggestion(NamedTuple):
    """Learning rates that a range test suggests.

    Attributes:
        steepest: where the smoothed loss falls fastest per factor of the learning rate.
        tenth: a tenth of the learning rate where the smoothed loss is smallest.
    """

    steepest: float
    tenth: float


@dataclass(frozen=True, eq=False)
class RangeTest:
    """The result of `lr_range_test`.

    Attributes:
        learning_rates: (k,) the learning rate of each step.
        losses: (k,) the loss of each minibatch before its step.
        smoothed: (k,) running mean of the losses.
        exploded: whether the test ended because the loss exploded, before the largest learning rate.
    """

    learning_rates: Floats
    losses: Floats
    smoothed: Floats
    exploded: bool

    @property
    def suggestion(self) -> Suggestion:
        """Learning rates to begin with.

        Raises:
            InputError: the loss never fell.
        """
        lowest = int(self.smoothed.argmin())
        if lowest == 0:
            fail("lr_range_test", f"the loss never fell: begin below a learning rate of {self.learning_rates[0]:g}")
        # Minibatches differ by more than the loss falls in a step, so the slope is that over a tenth of the test.
        reach = max(1, len(self.smoothed) // 20)
        places = np.arange(len(self.smoothed))
        before, after = np.maximum(places - reach, 0), np.minimum(places + reach, len(places) - 1)
        fall = self.smoothed[after] - self.smoothed[before]
        slopes = fall / np.maximum(np.log(self.learning_rates[after] / self.learning_rates[before]), 1e-300)
        begin = min(len(slopes) // 10, lowest)  # the mean of the first few losses is noise
        steepest = begin + int(slopes[begin : lowest + 1].argmin())
        return Suggestion(float(self.learning_rates[steepest]), float(self.learning_rates[lowest]) / 10)

    def plot(self) -> Any:
        """The losses over the learning rate, with the suggestions, as a plotly figure.

        Raises:
            InputError: plotly is not installed.
        """
        try:
            from plotly import graph_objects as go
        except ImportError:
            fail("RangeTest.plot", 'plotly is missing: pip install "popgrad[report]"')
        figure = go.Figure()
        figure.add_scatter(
            x=self.learning_rates, y=self.losses, name="loss of a minibatch", mode="markers", opacity=0.4
        )
        figure.add_scatter(x=self.learning_rates, y=self.smoothed, name="running mean", mode="lines")
        if self.smoothed.argmin() > 0:
            for name, rate in self.suggestion._asdict().items():
                figure.add_vline(x=rate, line_dash="dot", annotation_text=f"{name}: {rate:.2g}")
        figure.update_xaxes(title="learning rate", type="log")
        figure.update_yaxes(title="loss")
        figure.update_layout(template="plotly_white")
        return figure


def lr_range_test(
    model: Model,
    X: ArrayLike,
    y: ArrayLike,
    *,
    optimizer: Method,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    batch_size: int | None = 32,
    seed: int = 0,
    sample_weight: ArrayLike | None = None,
) -> RangeTest:
    """Train a copy of the parameters while the learning rate grows exponentially; the model does not change.

    The test ends after `steps` steps, or when the smoothed loss is 4 times its smallest value or not finite.

    Args:
        model: the model; its current parameters are the start.
        X, y, sample_weight: the training samples, as in `popgrad.fit`.
        optimizer: an optimizer of `popgrad.optim`, or a wrapper around one; its learning rate is replaced.
        low, high: the first and the last learning rate, 0 < low < high.
        steps: number of steps, a whole number >= 2.
        batch_size: samples per step; None for all.
        seed: seed of the shuffling.

    Returns:
        The losses, with suggested learning rates and a plot.

    Raises:
        InputError: an argument is invalid, the optimizer has no learning rate, or the first loss is not finite.

    Reference: Smith, WACV 2017, arXiv:1506.01186; exponential growth and a running mean as in fastai.
    """
    where = "lr_range_test"
    if not isinstance(model, Model):
        fail(where, f"model must be a popgrad.Model, such as popgrad.MLP, got {type(model).__name__}")
    if not 0 < number(low) < number(high) < math.inf:
        fail(where, f"low and high must be finite numbers with 0 < low < high, got {low!r} and {high!r}")
    steps, seed = positive_int(where, "steps", steps, 2), whole_seed(where, seed)
    size = None if batch_size is None else positive_int(where, "batch_size", batch_size)
    schedule = Exponential(low, high / low, every=steps - 1)
    method = _with_rate(optimizer, schedule, high)
    if method is None:
        fail(where, f"optimizer must be an optimizer of popgrad.optim with a learning rate, got {optimizer!r}")
    watched = _Watched(divided(model, X, y, sample_weight, None, seed)[0])
    method.check(where, watched)
    samples, state = watched.samples, method.prepare(watched, model.params, seed)
    batches = Batches(samples, min(size or samples, samples), seed)
    for step in range(1, steps + 1):
        method.advance(watched, batches.at(step), state)
        if method.finished(state) is not None or watched.exploded:
            break
    losses, smoothed = np.array(watched.losses), np.array(watched.smoothed)
    if not math.isfinite(losses[0]):
        fail(where, watched.inner.why_not_finite(model.params))
    exploded = len(losses) < steps or watched.exploded or not math.isfinite(losses[-1])
    count = len(losses) - (not math.isfinite(losses[-1]))
    rates = np.asarray(schedule(np.arange(1, count + 1)))
    return RangeTest(rates, losses[:count], smoothed[:count], exploded)


def _with_rate(method: Any, schedule: Exponential, high: float) -> Any:
    """The method with this schedule of its learning rate, or of that of the method inside; None without one."""
    if not isinstance(method, Method) or not is_dataclass(method):
        return None
    names = [field.name for field in fields(method)]
    if "learning_rate" in names:
        changed: dict[str, Any] = {"learning_rate": schedule}
        if getattr(method, "max_learning_rate", high) is None:
            changed["max_learning_rate"] = high
        return replace(cast(Any, method), **changed)
    for name in names:
        if (inner := _with_rate(getattr(method, name), schedule, high)) is not None:
            return replace(cast(Any, method), **{name: inner})
    return None


class _Watched(Around):
    """An objective that keeps the loss of every step, and the running mean of these losses.

    Attributes:
        losses, smoothed: the losses, and their running mean, which is corrected for its start at zero.
    """

    def __init__(self, inner: Objective) -> None:
        super().__init__(inner)
        self.losses: list[float] = []
        self.smoothed: list[float] = []
        self._mean, self._lowest = 0.0, math.inf

    @property
    def exploded(self) -> bool:
        """Whether the running mean is far above its smallest value."""
        return 0 < _EXPLODED * self._lowest < self.smoothed[-1]

    def training_gradient(self, w: Array, batch: Batch, out: Array) -> float:
        """See `Objective.training_gradient`."""
        loss = self.inner.training_gradient(w, batch, out)
        self.losses.append(loss)
        self._mean = _SMOOTHING * self._mean + (1 - _SMOOTHING) * loss
        self.smoothed.append(self._mean / (1 - _SMOOTHING ** len(self.losses)))
        self._lowest = min(self._lowest, self.smoothed[-1])
        return loss
