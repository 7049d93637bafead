"""Callbacks of `popgrad.fit`: the hooks that a callback may define, early stopping, and a log in JSON lines."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final, get_args

import numpy as np
from numpy.typing import NDArray

from popgrad.checkpoint import write_file
from popgrad.checks import at_least_zero, fail, one_of, positive_int
from popgrad.models import Model
from popgrad.objective import Batch
from popgrad.train.records import COLUMNS, History
from popgrad.train.trainer import Trainer

__all__ = ["Callback", "EarlyStopping", "JSONLog", "Record", "TrainingRun"]

Array = NDArray[Any]
Record = Callable[[Model, History], Any]  # a plain function as a callback
Monitor = Literal["objective", "loss", "metric", "validation_loss", "validation_metric"]


@dataclass
class TrainingRun:
    """What a callback sees of a run of `popgrad.fit`; the argument of every hook.

    Attributes:
        model: the model. It has the current parameters, except in `on_train_end`, where it has the best recorded ones.
            Where the parameters are an average, the model has the average.
        trainer: the trainer, with the method's state, the budget and the objective.
        batch: in the hooks of batches, generations and gradients, the samples of the step and its number; else None.
        gradient: (n,) in `on_grad_computed`, the gradient, which the hook may change in place; else None.
        loss: in `on_grad_computed`, the loss of the batch; else None.
    """

    model: Model
    trainer: Trainer
    batch: Batch | None = None
    gradient: Array | None = None
    loss: float | None = None

    @property
    def history(self) -> History:
        """The records so far."""
        return self.trainer.history

    @property
    def step(self) -> int:
        """Steps or generations done so far."""
        return self.trainer.step

    @property
    def epoch(self) -> int:
        """Whole passes of the steps over the training samples done so far."""
        batches = self.trainer.batches
        return self.trainer.step // math.ceil(batches.samples / batches.size)


class Callback:
    """Base class of callbacks: override the hooks that you need; the others cost nothing.

    A hook that returns True ends the run: after the current step, or before it for `on_train_begin`, `on_epoch_begin`,
    `on_batch_begin` and `on_generation_begin`. The last step is then recorded. Other results mean nothing, and neither
    does the result of `on_train_end`.

    A callback may change ``run.model.params`` in `on_record` and in the ``_end`` hooks of batches, generations and
    epochs, as described in `popgrad.fit`.

    An epoch is one pass of the steps over the training samples, so a search that uses all samples in each generation
    has one epoch per generation. At a step at which several hooks are due, `on_record` comes first, then
    `on_batch_end`, `on_generation_end`, `on_epoch_end` and `on_epoch_begin`.

    A checkpoint does not hold the attributes of a callback. A callback that derives its decisions from ``run.history``,
    as `EarlyStopping` does, makes the same ones in a resumed run.

    The hooks of batches, generations and gradients make every step go through Python. The others do not slow the steps.
    """

    def on_train_begin(self, run: TrainingRun) -> Any:
        """Called once before the first record; the history of a resumed run already has records."""

    def on_train_end(self, run: TrainingRun) -> Any:
        """Called once at the end, also if an exception such as KeyboardInterrupt ends the run."""

    def on_record(self, run: TrainingRun) -> Any:
        """Called after every record. The first record is the untrained model."""

    def on_epoch_begin(self, run: TrainingRun) -> Any:
        """Called before the first step of an epoch, and when a run resumes in the middle of one."""

    def on_epoch_end(self, run: TrainingRun) -> Any:
        """Called after the last step of an epoch."""

    def on_batch_begin(self, run: TrainingRun) -> Any:
        """Called before every step or generation."""

    def on_batch_end(self, run: TrainingRun) -> Any:
        """Called after every step or generation."""

    def on_grad_computed(self, run: TrainingRun) -> Any:
        """Called after every gradient on a batch, before the method uses it; some methods compute several per step."""

    def on_generation_begin(self, run: TrainingRun) -> Any:
        """Called before every generation of a search."""

    def on_generation_end(self, run: TrainingRun) -> Any:
        """Called after every generation of a search."""


@final
class EarlyStopping(Callback):
    """Ends a run when a value has not improved for several records.

    `popgrad.fit` records every epoch if there are at most 75, and then at growing intervals; `record_every` changes it.
    Whether to stop is a function of the history alone, so a resumed run stops at the same record.

    Args:
        patience: records in a row without improvement after which the run ends, >= 1.
        min_delta: smallest decrease that counts as an improvement, >= 0.
        restore_best: whether the model has the best recorded parameters after the run, as without this callback. If
            False, it has the last ones.
        monitor: the column of `History` to watch; smaller is better.

    Raises:
        InputError: an argument is invalid; or, at the start of the run, there are no validation samples to watch.
    """

    def __init__(
        self, patience: int = 10, min_delta: float = 0.0, restore_best: bool = True, monitor: Monitor = "objective"
    ) -> None:
        self.patience = positive_int(self, "patience", patience)
        if not at_least_zero(min_delta):
            fail(self, f"min_delta must be a finite number >= 0, got {min_delta!r}")
        self.min_delta, self.restore_best = float(min_delta), bool(restore_best)
        self.monitor = one_of(self, "monitor", monitor, get_args(Monitor))

    def on_train_begin(self, run: TrainingRun) -> bool:
        """Check the monitor, and stop a resumed run that had stopped before."""
        if self.monitor.startswith("validation") and not run.trainer.validates:
            fail(self, f"monitor={self.monitor!r} needs validation samples; pass validation= to popgrad.fit")
        return self.on_record(run)

    def on_record(self, run: TrainingRun) -> bool:
        """Stop if the last improvement was `patience` records ago."""
        best, waited = math.inf, 0
        for value in getattr(run.history, self.monitor):
            improved = value < best - self.min_delta
            best, waited = (value, 0) if improved else (best, waited + 1)
        if waited >= self.patience:
            run.trainer.stop(f"{self.monitor} has not improved in {waited} records")
        return waited >= self.patience

    def on_train_end(self, run: TrainingRun) -> None:
        """Give the model the last parameters, unless the best ones are wanted."""
        if not self.restore_best and len(run.trainer.params):
            run.model.params = run.trainer.params


@final
class JSONLog(Callback):
    """Appends a line of JSON to a file after every record; each line is on disk before training continues.

    The keys of a line are "record" (0, 1, ...) and the columns of `History`; a value that is not finite is null.
    Records are numbered from 0 in every run. A run that resumes from a checkpoint or a state continues its lines: lines
    that a killed run wrote after the checkpoint are replaced. If a line cannot be written, a warning says so and
    training continues.

    Args:
        path: the file; its folder must exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, (str, os.PathLike)):
            fail(self, f"path must be the name of a file, got {path!r}")
        self.path = Path(path)
        self._warned = False

    def on_train_begin(self, run: TrainingRun) -> None:
        """Drop an incomplete last line, and bring the lines of a resumed run up to its history.

        Raises:
            InputError: the file cannot be written.
        """
        try:
            content = self.path.read_bytes() if self.path.exists() else b""
        except OSError as error:
            fail(self, f"cannot read {str(self.path)!r}: {error.strerror}")
        lines = [line for line in content.splitlines(keepends=True) if _record_of(line) is not None]
        known = len(run.history.loss)
        if known:
            starts = [place for place, line in enumerate(lines) if _record_of(line) == 0]
            lines = lines[: starts[-1] if starts else 0] + [_line(run.history, record) for record in range(known)]
        if (again := b"".join(lines)) != content or not self.path.exists():
            write_file(self.path, again)

    def on_record(self, run: TrainingRun) -> None:
        """Append the last record."""
        try:
            with self.path.open("ab") as file:
                file.write(_line(run.history, len(run.history.loss) - 1))
        except OSError as error:
            if not self._warned:
                self._warned = True
                warnings.warn(f"[JSONLog] cannot write {str(self.path)!r}: {error.strerror}", stacklevel=2)


def _line(history: History, record: int) -> bytes:
    values = {name: column[record] for name in COLUMNS if (column := getattr(history, name))}
    finite = {name: value if np.isfinite(value) else None for name, value in values.items()}
    return (json.dumps({"record": record, **finite}) + "\n").encode()


def _record_of(line: bytes) -> int | None:
    """The number of the record in a line; None for a line that is incomplete or has none."""
    try:
        found = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return found.get("record") if isinstance(found, dict) else None
