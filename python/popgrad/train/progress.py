"""The progress bar of `popgrad.fit`."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

from popgrad.train.records import History
from popgrad.train.trainer import Trainer

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Bar", "shows"]

_FIRST = 0.5  # seconds before the bar appears; shorter runs show none
_LEAST = 0.1  # seconds between updates
_SHARE = 0.005  # of the wall time that updates may take


def shows(progress: bool | None) -> bool:
    """Whether a run shows its progress: as asked, or else if standard error is a terminal."""
    return sys.stderr.isatty() if progress is None else progress


@final
class Bar:
    """A progress bar on standard error, updated at pauses and records; a context that ends it.

    The bar appears after half a second. It is updated at most 10 times a second, and less often if its updates took
    more than half a percent of the time. Text that is printed meanwhile appears above it. If another bar is shown
    already, for example because a callback calls `popgrad.fit`, this one is silent.

    Args:
        trainer: the trainer; a resumed one is already at its step.
        always: whether to show the final state even of a short run.
    """

    _shown: ClassVar[Bar | None] = None

    def __init__(self, trainer: Trainer, always: bool = False) -> None:
        self._trainer, self._always = trainer, always
        self._began = time.monotonic()
        self._next = self._began + _FIRST
        self._first = _done(trainer)
        self._live: Progress | None = None
        self._task: TaskID
        self._silent = False

    def due(self, step: int, seconds: float) -> bool:
        """See `popgrad.train.pauses.Pauses`."""
        return not self._silent and time.monotonic() >= self._next

    def steps_left(self, step: int) -> int | None:
        """See `popgrad.train.pauses.Pauses`."""
        return None

    def on_pause(self, trainer: Trainer) -> None:
        """Update the bar."""
        began = time.monotonic()
        if self._live is None:
            self._start()
        if self._live is not None:
            self._live.update(self._task, **self._fields(), refresh=True)
        now = time.monotonic()
        self._next = now + max(_LEAST, (now - began) / _SHARE)

    def record(self) -> None:
        """Update the bar after a record, unless the last update was a moment ago."""
        if self.due(self._trainer.step, 0.0):
            self.on_pause(self._trainer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None or (self._always and kind is None):
            self.on_pause(self._trainer)
        if self._live is not None:
            self._live.stop()
            Bar._shown = None

    def _start(self) -> None:
        if Bar._shown is not None:
            self._silent = True
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        Bar._shown = self
        columns = (TextColumn("{task.fields[done]}"), BarColumn(bar_width=16), TextColumn("{task.fields[values]}"))
        left = TextColumn("{task.fields[speed]}")
        self._live = Progress(*columns, left, console=Console(stderr=True), auto_refresh=False)
        self._task = self._live.add_task("training", total=1.0, done="", values="", speed="")
        self._live.start()

    def _fields(self) -> dict[str, Any]:
        """What the bar shows now."""
        trainer, share = self._trainer, _done(self._trainer)
        used, gained = trainer.used, share - self._first
        left = ""
        if gained > 0 and share < 1:
            seconds = (time.monotonic() - self._began) / gained * (1 - share)
            left = f" {timedelta(seconds=round(seconds))} left"
        return {
            "completed": share,
            "done": _amount(trainer),
            "values": _values(trainer.history),
            "speed": f"{_short(_samples(trainer) / used.seconds if used.seconds else 0.0)} samples/s{left}",
        }


def _done(trainer: Trainer) -> float:
    """The share of the budget that is used, in [0, 1]."""
    used, budget = trainer.used, trainer.budget
    pairs = zip(used, (budget.forwards, budget.evaluations, budget.seconds), strict=True)
    return min(max(spent / limit for spent, limit in pairs if limit is not None), 1.0)


def _amount(trainer: Trainer) -> str:
    """How much is done: epochs if they limit the run, else forwards."""
    forwards, limit = trainer.used.forwards, trainer.budget.forwards
    if limit is None:
        return f"{_short(forwards)} forwards"
    if trainer.epochs is None:
        return f"{_short(forwards)}/{_short(limit)} forwards"
    return f"epoch {forwards / limit * trainer.epochs:.{0 if trainer.epochs >= 100 else 1}f}/{trainer.epochs}"


def _values(history: History) -> str:
    shown = [("loss", history.loss)]
    if history.metric_name != "loss":
        shown.append((history.metric_name, history.metric))
    shown.append(("val", history.validation_loss))
    if history.metric_name != "loss":
        shown.append((f"val {history.metric_name}", history.validation_metric))
    return " ".join(f"{name} {column[-1]:.4g}" for name, column in shown if column)


def _samples(trainer: Trainer) -> int:
    """Samples that the run went through: of the batches of a gradient method, of all candidates of a search."""
    batches = trainer.batches
    if trainer.method.kind == "search":
        return trainer.used.forwards
    each = -(-batches.samples // batches.size)
    return trainer.step // each * batches.samples + trainer.step % each * batches.size


def _short(value: float) -> str:
    """A number of at most four characters and a unit, such as "12.3k"."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"
