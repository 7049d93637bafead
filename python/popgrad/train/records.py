"""Records of a training run: losses and metrics over time, which record is best, and how the run went."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count, repeat
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from popgrad import arrays
from popgrad.budget import Used
from popgrad.checks import fail, positive_int
from popgrad.method import Method
from popgrad.objective import Objective, Report, Running
from popgrad.state import restored

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "History", "Last", "Marks", "Recorder", "improving"]

Array = NDArray[Any]
Select = Literal["loss", "metric"] | None

_EVEN_RECORDS, _GROWTH = 75, 1.25  # largest interval: 1/75 of the budget; until then each interval grows by 1.25
_SIGNIFICANT = 1.645  # standard deviations: the one-sided 5 % level
# The gain of the last quarter must reach _NOTABLE of the whole gain, or both _WORTHWHILE of the objective and _LEAST of
# the whole gain.
_NOTABLE = 0.01
_WORTHWHILE, _LEAST = 0.05, 0.001


@dataclass(frozen=True)
class Last:
    """The state of a method at the end of a run, from which `popgrad.fit` can continue.

    Attributes:
        method: the method, with its settings.
        state: the state of the method; its parameters are the last ones, not the best ones.
        step: steps or generations done so far.
    """

    method: Method
    state: Any
    step: int


@dataclass
class History:
    """The records of a training run; the first record is the untrained model.

    Attributes:
        metric_name: name of ``metric`` and ``validation_metric``, "error_rate" or "mse"; smaller is better.
        objective_name: name of ``objective``, "loss" by default; smaller is better.
        forwards: samples passed through the network so far, counted as in `popgrad.Budget`.
        evaluations: candidates evaluated so far; a gradient counts as one.
        seconds: wall time of the steps so far; the time for records is not included.
        loss, metric: values on the training samples: after the first record, by default the running means over the
            steps since the last record of a gradient method, each at the parameters before the step and with dropout;
            see ``record`` of `fit`.
        validation_loss, validation_metric: values on the validation samples; empty without validation.
        objective: values on the validation samples, or on the training samples without validation.
        best: index of the record with the smallest objective, or with the smallest loss or metric if ``select`` says
            so, on the same samples as the objective. The earliest record wins a tie.
        best_params: (n,) the parameters of the best record, which the model has after `fit`.
        nonfinite: number of losses or fitnesses that were NaN or infinite.
        reason: why the run ended.
        improving: whether the objective was still falling when the run ended, so that a larger budget is likely to
            help (see `improving`).
        diverged: whether training failed, so that a smaller learning rate is needed (see `Objective.diverged`).
            Always False for a search. Overfitting is not divergence.
        last: the state from which ``fit(..., resume=history)`` continues; None during the run.
        samples: number of training samples; one epoch is ``3 * samples`` forwards.
    """

    metric_name: str
    objective_name: str = "loss"
    forwards: list[int] = field(default_factory=list)
    evaluations: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    metric: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    validation_metric: list[float] = field(default_factory=list)
    objective: list[float] = field(default_factory=list)
    best: int = 0
    best_params: Array = field(default_factory=lambda: np.empty(0), repr=False)
    nonfinite: int = 0
    reason: str = ""
    improving: bool = False
    diverged: bool = False
    last: Last | None = field(default=None, repr=False)
    samples: int = 0

    def to_frame(self) -> pd.DataFrame:
        """The records as a pandas table: one row per record, one column per list of values, and the epochs."""
        from popgrad.train.plotting import frame

        return frame(self)

    def plot(self, x: Literal["epochs", "forwards", "evaluations", "seconds"] | None = None) -> Any:
        """Learning curves as a plotly figure: loss and metric, training and validation, with the best record marked.

        Args:
            x: what the horizontal axis shows; None for epochs.

        Raises:
            InputError: plotly is not installed, `x` is unknown, or there are no records.
        """
        from popgrad.train.plotting import figure

        return figure(self, x)


_TYPES = {"forwards": np.int64, "evaluations": np.int64}
COLUMNS = (
    "forwards",
    "evaluations",
    "seconds",
    "loss",
    "metric",
    "objective",
    "validation_loss",
    "validation_metric",
)


class Recorder:
    """Evaluates parameters on all training and validation samples, and keeps the best parameters.

    Args:
        train: objective on the training samples.
        held: objective on the validation samples, or None. If given, it selects the best record.
        select: criterion for the best record; None means the objective. The loss breaks ties between metrics.
    """

    def __init__(self, train: Objective, held: Objective | None, select: Select = None) -> None:
        self.train, self.held, self.select = train, held, select
        self.history = History(train.metric_name, train.name, samples=train.samples)
        self.params: Array = np.empty(0)  # of the last record
        self._before = 0, self.history.best_params

    def record(self, params: Array, used: Used, running: Running | None = None) -> None:
        """Add a record of `params` (n,), with the running figures of the training steps if they are all that it needs.

        Args:
            params: (n,).
            used: the resources used so far.
            running: figures of the steps since the last record; None to evaluate `params` on all training samples.
        """
        history = self.history
        seen = self._from(running) or self.train.report(params, value=self.held is None)
        history.forwards.append(used.forwards)
        history.evaluations.append(used.evaluations)
        history.seconds.append(used.seconds)
        history.loss.append(seen.loss)
        history.metric.append(seen.metric)
        if self.held is not None:
            seen = self.held.report(params)
            history.validation_loss.append(seen.loss)
            history.validation_metric.append(seen.metric)
        history.objective.append(seen.value)
        self._before = history.best, history.best_params
        last = len(history.loss) - 1
        if last == 0 or self._key(last) < self._key(history.best):
            history.best, history.best_params = last, params.copy()
        self.params = params

    def _from(self, running: Running | None) -> Report | None:
        """The report on the training samples that running figures give; None if they do not."""
        if running is None or not running.weight > 0 or math.isnan(running.metric) > math.isnan(running.loss):
            return None
        loss, metric = (x / running.weight if math.isfinite(x) else math.inf for x in (running.loss, running.metric))
        known = {self.train.metric_name: metric, "loss": loss}
        if self.held is None and self.train.name not in known:
            return None
        return Report(loss, metric, known.get(self.train.name, math.nan))

    def replace(self, params: Array) -> None:
        """Replace the last record by a record of other parameters (n,)."""
        history = self.history
        used = Used(history.forwards[-1], history.evaluations[-1], history.seconds[-1])
        history.best, history.best_params = self._before
        for name in COLUMNS:
            del getattr(history, name)[-1:]
        self.record(params, used)

    def tree(self) -> dict[str, Any]:
        """The records, the best parameters and the last parameters, as a tree for `popgrad.state.flatten`."""
        columns = {name: np.array(getattr(self.history, name), _TYPES.get(name)) for name in COLUMNS}
        return {**columns, "best": self.history.best, "best_params": self.history.best_params, "params": self.params}

    def load(self, operation: str, flat: Mapping[str, Any], n: int) -> None:
        """Restore the result of `tree` from an earlier run.

        Raises:
            InputError: an entry is missing or is not a numeric array; this recorder is unchanged.
        """
        lists = {name: arrays.real(operation, name, flat.get(name)).tolist() for name in COLUMNS}
        frame: dict[str, Any] = {"best": 0, "best_params": self.history.best_params, "params": self.params}
        frame |= {name: np.empty(n, flat[name].dtype) for name in ("best_params", "params") if name in flat}
        rest = restored(operation, frame, {name: value for name, value in flat.items() if name not in COLUMNS})
        for name, values in lists.items():
            setattr(self.history, name, values)
        self.history.best, self.history.best_params, self.params = rest["best"], rest["best_params"], rest["params"]

    def _key(self, record: int) -> tuple[float, ...]:
        """The sort key of a record; the record with the smallest key is best."""
        history = self.history
        if self.select is None:
            return (history.objective[record],)
        loss, metric = history.loss[record], history.metric[record]
        if self.held is not None:
            loss, metric = history.validation_loss[record], history.validation_metric[record]
        return (loss,) if self.select == "loss" else (metric, loss)


class Marks:
    """The schedule of records: a record follows the first step that reaches each total of forwards.

    Args:
        record_every: forwards between records, or increasing totals. None: first every epoch, then at intervals that
            grow by a quarter each time, up to 1/75 of the budget; at most about 100 records. If the budget limits the
            seconds, a record is also due at the first whole epoch after each 1/75 of that limit.
        epoch: forwards of one epoch.
        affordable: forwards that the budget allows; infinity if the budget does not limit them.
        seconds: the budget's limit in seconds, or None.

    Raises:
        InputError: `record_every` is neither a positive number nor a list of increasing positive numbers.
    """

    def __init__(
        self,
        record_every: int | Sequence[int] | NDArray[np.integer[Any]] | None,
        epoch: int,
        affordable: float,
        seconds: float | None,
    ) -> None:
        self._totals = _spread(epoch, affordable) if record_every is None else _totals(record_every)
        self._total = next(self._totals)
        self._epoch, self._whole = epoch, epoch
        self._pause = math.inf if record_every is not None or seconds is None else seconds / _EVEN_RECORDS
        self._late = self._pause

    def reached(self, forwards: int, seconds: float) -> bool:
        """Whether a record is due."""
        return forwards >= self._total or (seconds >= self._late and forwards >= self._whole)

    def next_total(self, forwards: int) -> float:
        """The next total of forwards, above `forwards`, at which a record may be due; may be infinite."""
        if self._pause == math.inf:
            return self._total
        return min(self._total, max(self._whole, (forwards // self._epoch + 1) * self._epoch))

    def advance(self, used: Used) -> None:
        """Set the next mark, after a record."""
        while self._total <= used.forwards:
            self._total = next(self._totals)
        self._whole = (used.forwards // self._epoch + 1) * self._epoch
        self._late = used.seconds + self._pause


def _spread(epoch: int, affordable: float) -> Iterator[float]:
    """The default totals of forwards, an infinite sequence."""
    gap = max(1, math.ceil(affordable / epoch / _EVEN_RECORDS)) if affordable < math.inf else None
    epochs = 1
    while True:
        yield epochs * epoch
        following = max(epochs + 1, math.ceil(epochs * _GROWTH))
        epochs = following if gap is None or following - epochs < gap else (epochs // gap + 1) * gap


def _totals(record_every: int | Sequence[int] | NDArray[np.integer[Any]]) -> Iterator[float]:
    """The user's totals of forwards, an infinite sequence."""
    if isinstance(record_every, (Sequence, np.ndarray)):
        totals = [positive_int("fit", "each of record_every", total) for total in record_every]
        if totals != sorted(totals):
            fail("fit", f"record_every must be increasing, got {record_every!r}")
        return chain(totals, repeat(math.inf))
    every = positive_int("fit", "record_every", record_every)
    return count(every, every)


def improving(history: History) -> bool:
    """Whether the objective was still falling when the run ended.

    Three conditions must hold, with the run measured in forwards. The smallest objective is in the last tenth of the
    run. The objective falls significantly in the last quarter (Mann-Kendall test, one-sided, 5 %). The gain of the
    last quarter is at least 1 % of the whole run's gain, or at least both 5 % of the objective and 0.1 % of the whole
    run's gain. With fewer than four records after the first one, the last record must be the best one.
    """
    values, forwards = np.array(history.objective), np.array(history.forwards, np.float64)
    last = len(values) - 1
    if last < 1 or not np.isfinite(values[[0, -1]]).all():
        return False
    best = int(values.argmin())
    if last < 4:
        return best == last
    first = min(int(np.searchsorted(forwards, 0.75 * forwards[-1])), last - 3)
    tail = values[first:]
    if forwards[best] < 0.9 * forwards[-1] or not np.isfinite(tail).all() or _trend(tail) > -_SIGNIFICANT:
        return False
    gain, all_gains = tail[0] - values[best], values[0] - values[best]
    return bool(gain >= _NOTABLE * all_gains or gain >= max(_WORTHWHILE * abs(tail[0]), _LEAST * all_gains))


def _trend(values: NDArray[np.float64]) -> float:
    """The Mann-Kendall statistic in standard deviations; negative if the values fall. Ties move it toward zero."""
    n = len(values)
    pairs = sum(float(np.sign(values[k + 1 :] - values[k]).sum()) for k in range(n))
    return float(pairs / math.sqrt(n * (n - 1) * (2 * n + 5) / 18))
