"""The progress bar of `popgrad.fit`."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Self, cast, final

from popgrad.train.records import History
from popgrad.train.trainer import Trainer

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Bar", "samples", "shows"]

_FIRST = 0.5  # seconds before the bar appears; shorter runs show none
_LEAST = 0.1  # seconds between updates
_SHARE = 0.005  # of the wall time that updates may take
_TEXT = 90  # columns of the longest usual text beside the bar


def shows(progress: bool | None) -> bool:
    """Whether a run shows its progress: as asked, or else if standard error is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty() if progress is None else progress


@final
class Bar:
    """A progress bar on standard error, updated at pauses and records; a context that ends it.

    The bar appears after half a second. It is updated at most 10 times a second, and less often if its updates took
    more than half a percent of the time. Text that is printed meanwhile appears above it. A run inside
    another one with a bar, such as a call of `popgrad.fit` in a callback, is silent.

    Args:
        trainer: the trainer; a resumed one is already at its step.
        always: whether to show the final state even of a short run.
    """

    _shown: ClassVar[Bar | None] = None

    def __init__(self, trainer: Trainer, always: bool = False) -> None:
        self._trainer, self._always = trainer, always
        self._began = time.monotonic()
        self._next = trainer.used.seconds + _FIRST  # seconds of the steps, which are cheap to compare
        self._first = _done(trainer)
        self._live: Progress | None = None
        self._task: TaskID
        self._silent = False

    def due(self, step: int, seconds: float) -> bool:
        """See `popgrad.train.pauses.Pauses`."""
        return seconds >= self._next and not self._silent

    def steps_left(self, step: int) -> int | None:
        """See `popgrad.train.pauses.Pauses`."""
        return None

    def on_pause(self, trainer: Trainer) -> None:
        """Update the bar."""
        live = self._live or self._start()
        began = time.monotonic()
        share, text = self._state()
        live.update(self._task, completed=share, text=text, refresh=True)
        self._next = trainer.used.seconds + max(_LEAST, (time.monotonic() - began) / _SHARE)

    def record(self) -> None:
        """Update the bar after a record, unless the last update was a moment ago."""
        if self.due(self._trainer.step, self._trainer.used.seconds):
            self.on_pause(self._trainer)

    def __enter__(self) -> Self:
        self._silent = Bar._shown is not None
        Bar._shown = self if Bar._shown is None else Bar._shown
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._silent and (self._live is not None or (self._always and kind is None)):
            self.on_pause(self._trainer)
        if self._live is not None:
            self._live.stop()
        if Bar._shown is self:
            Bar._shown = None

    def _start(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        console = Console(stderr=True)
        space = min(console.width - _TEXT, 20)
        bar = [BarColumn(bar_width=space)] if space >= 5 else []
        self._live = Progress(*bar, TextColumn("{task.fields[text]}"), console=console, auto_refresh=False)
        share, text = self._state()
        self._task = self._live.add_task("training", total=1.0, completed=cast(int, share), text=text)
        self._live.start()
        return self._live

    def _state(self) -> tuple[float, str]:
        """The share that is done, and the text beside the bar."""
        trainer, share = self._trainer, _done(self._trainer)
        seconds, gained = trainer.used.seconds, share - self._first
        parts = [_amount(trainer), _values(trainer.history)]
        if seconds > 0:
            parts.append(f"{_short(samples(trainer) / seconds)} samples/s")
        if gained > 0 and share < 1:
            parts.append(f"{_clock((time.monotonic() - self._began) / gained * (1 - share))} left")
        return share, "  ".join(parts)


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
    """Loss and metric, on the training samples and then on the validation samples."""
    metric = history.metric_name != "loss"
    text = f"loss {history.loss[-1]:.3g}" + (f" {history.metric_name} {history.metric[-1]:.3g}" if metric else "")
    if not history.validation_loss:
        return text
    held = f"  val {history.validation_loss[-1]:.3g}"
    return text + held + (f" {history.validation_metric[-1]:.3g}" if metric else "")


def samples(trainer: Trainer) -> int:
    """Samples that the run went through: of the batches of a gradient method, of all candidates of a search."""
    batches = trainer.batches
    if trainer.method.kind == "search":
        return trainer.used.forwards
    each = -(-batches.samples // batches.size)
    return trainer.step // each * batches.samples + trainer.step % each * batches.size


def _clock(seconds: float) -> str:
    """A duration such as "0:09" or "1:02:03"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def _short(value: float) -> str:
    """A number of at most four characters and a unit, such as "12.3k"."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"
