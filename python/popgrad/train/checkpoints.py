"""Checkpoints of training: written at pauses, found again after a kill, refused if they are of another run."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import re
import signal
import threading
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from popgrad import checkpoint as files
from popgrad.checks import InputError, fail, number, positive_int
from popgrad.train.trainer import Trainer

__all__ = ["Checkpoint", "Saved", "Writer", "saved_run"]

Array = NDArray[Any]
_PREFIX = "step-"
_NAME = re.compile(_PREFIX + r"(\d+)\.safetensors")
_TERMINATED = 128 + signal.SIGTERM  # the exit code that shells report for SIGTERM
_locks: set[int] = set()  # open descriptors of locked folders


@dataclass(frozen=True)
class Checkpoint:
    """When and where `popgrad.fit` saves the whole run, so that ``resume=path`` continues it with the same bits.

    A checkpoint is one safetensors file with everything: parameters, state of the method, position in the data, history
    and budget used. Files are named by step, such as ``step-000001200.safetensors``. Another one is written at the end
    of the run and, if `fit` runs in the main thread, on SIGTERM; the process then ends with code 143. If a checkpoint
    cannot be written, for example because the disk is full, a warning says so and training continues.

    Args:
        path: the folder; created if it does not exist. It must not hold checkpoints of another run.
        every_seconds: wall time between checkpoints, > 0; None for no limit.
        every_steps: steps or generations between checkpoints, >= 1; None for no limit.
        keep: number of files to keep, the newest ones, >= 1; None for all.

    Raises:
        InputError: an argument is invalid.
    """

    path: str | os.PathLike[str]
    every_seconds: float | None = 60.0
    every_steps: int | None = None
    keep: int | None = 3

    def __post_init__(self) -> None:
        if not isinstance(self.path, (str, os.PathLike)) or not str(self.path):
            fail(self, f"path must be a folder, got {self.path!r}")
        if self.every_seconds is not None and not 0 < number(self.every_seconds) < math.inf:
            fail(self, f"every_seconds must be a finite number > 0 or None, got {self.every_seconds!r}")
        for name, value in (("every_steps", self.every_steps), ("keep", self.keep)):
            if value is not None:
                positive_int(self, name, value)

    @property
    def folder(self) -> Path:
        """The folder of the files."""
        return Path(self.path)


# --- Reading ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was read.

    Attributes:
        path: the file.
        step: steps that the run had done.
        fingerprint: what must agree with the run that continues it.
        start: (n,) initial parameters of the run.
        state: the state for `Trainer.load_state_dict`.
        damaged: newer files that could not be read.
    """

    path: Path
    step: int
    fingerprint: Mapping[str, Any]
    start: Array
    state: Mapping[str, Any]
    damaged: tuple[Path, ...] = ()


def saved_run(resume: str | os.PathLike[str], checkpoint: Checkpoint | None) -> Saved | None:
    """Read the checkpoint `resume`, or the newest complete one if `resume` is a folder.

    None if `resume` is the folder of `checkpoint` and holds no checkpoint yet. Damaged files are skipped, with one
    warning that names them.

    Raises:
        InputError: there is no checkpoint, or none is complete.
    """
    path = Path(resume)
    if path.is_file():
        return _read(path)
    found, damaged = sorted(_steps(path), reverse=True), []
    for _, candidate in found:
        try:
            saved = _read(candidate)
        except InputError as error:
            damaged.append((candidate, str(error)))
            continue
        if damaged:
            names = ", ".join(repr(str(skipped)) for skipped, _ in damaged)
            warnings.warn(
                f"[fit] skipped damaged checkpoints: {names}; resuming from {str(saved.path)!r}", stacklevel=3
            )
        return replace(saved, damaged=tuple(skipped for skipped, _ in damaged))
    if damaged:
        fail("fit", f"no checkpoint in {str(path)!r} is complete; the newest: {damaged[0][1]}")
    if checkpoint is None or checkpoint.folder.resolve() != path.resolve():
        fail("fit", f"resume must be a checkpoint or a folder with checkpoints, but {str(path)!r} holds none")
    return None


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of each checkpoint in a folder, which need not exist."""
    matches = [(_NAME.fullmatch(path.name), path) for path in folder.glob(f"{_PREFIX}*")]
    return [(int(match[1]), path) for match, path in matches if match is not None]


def _read(path: Path) -> Saved:
    arrays, numbers = files.load(path, checksum=True)
    try:
        start, step, fingerprint = arrays.pop("start"), int(numbers["step"]), numbers["fingerprint"]
        state = {name.removeprefix("state."): array for name, array in arrays.items()} | numbers["state"]
    except (KeyError, TypeError):
        fail("fit", f"{str(path)!r} is not a checkpoint of popgrad.fit")
    return Saved(path, step, fingerprint, start, state)


# --- Writing ------------------------------------------------------------------------------------------------------


@final
class Writer:
    """Writes checkpoints at the pauses of a trainer; a context in which SIGTERM writes a last one.

    Args:
        checkpoint: when and where.
        fingerprint: what must agree with a run that continues this one.
        start: (n,) initial parameters of the run.
        saved: the checkpoint from which this run resumes, or None.

    Raises:
        InputError: the folder cannot be used, or holds checkpoints of another run.
    """

    def __init__(
        self, checkpoint: Checkpoint, fingerprint: Mapping[str, Any], start: Array, saved: Saved | None
    ) -> None:
        self._settings, self._folder = checkpoint, checkpoint.folder
        self._fingerprint, self._start = fingerprint, start
        self._step = -1  # of the last checkpoint
        self._terminated = self._warned = False
        self._previous: Any = None  # handler of SIGTERM
        self._lock = _locked(self._folder)
        try:
            self._damaged = () if saved is None else saved.damaged
            self._files = self._own_files(saved)
        except InputError:
            _unlock(self._lock)
            raise
        files.remove_temporaries(self._folder, _PREFIX)
        self._restart_clock()

    def _own_files(self, saved: Saved | None) -> list[Path]:
        """The files of this run, the oldest first."""
        own = saved is not None and saved.path.parent.resolve() == self._folder.resolve()
        found = [(step, path) for step, path in sorted(_steps(self._folder)) if path not in self._damaged]
        if not found:
            return []
        if saved is None or not own:
            hint = f"pass resume={str(self._folder)!r} to continue that run, or use another folder"
            fail("fit", f"the folder {str(self._folder)!r} holds checkpoints of an earlier run; {hint}")
        if found[-1][1].name != saved.path.name:
            later = f"{str(found[-1][1])!r} is later than {saved.path.name!r}"
            fail("fit", f"{later}, from which the run resumes; write the checkpoints to another folder")
        self._step = saved.step
        return [path for _, path in found]

    # --- As pauses --------------------------------------------------------------------------------------------------

    def due(self, step: int, seconds: float) -> bool:
        """See `popgrad.train.pauses.Pauses`."""
        if self._terminated:
            return True
        if step in (self._step, 0):
            return False
        every = self._settings.every_steps
        return (every is not None and step % every == 0) or time.monotonic() >= self._next

    def steps_left(self, step: int) -> int | None:
        """See `popgrad.train.pauses.Pauses`."""
        every = self._settings.every_steps
        return None if every is None else every - step % every

    def on_pause(self, trainer: Trainer) -> None:
        """Write a checkpoint. After SIGTERM, exit."""
        self.write(trainer)
        if self._terminated:
            raise SystemExit(_TERMINATED)

    def write(self, trainer: Trainer) -> None:
        """Write a checkpoint of this step, unless it was the last one. A failure is a warning."""
        if trainer.step != self._step:
            self._step = trainer.step
            path = self._folder / f"{_PREFIX}{trainer.step:09d}.safetensors"
            try:
                files.save(path, *self._content(trainer), checksum=True)
            except InputError as error:
                self._warn(f"[fit] a checkpoint is missing, and training continues: {error}")
            else:
                self._clean_up(path)
        self._restart_clock()

    def _content(self, trainer: Trainer) -> tuple[dict[str, Array], dict[str, Any]]:
        """The arrays and the JSON values of a checkpoint."""
        arrays, numbers = {"start": self._start}, {}
        for name, value in trainer.state_dict().items():
            if isinstance(value, np.ndarray):
                arrays[f"state.{name}"] = value
            else:
                numbers[name] = value.item() if isinstance(value, np.generic) else value
        return arrays, {"step": trainer.step, "fingerprint": self._fingerprint, "state": numbers}

    def _clean_up(self, newest: Path) -> None:
        """Remove what the newest file, which is complete now, makes superfluous."""
        self._files = [path for path in self._files if path != newest] + [newest]
        count = len(self._files) if self._settings.keep is None else self._settings.keep
        old, self._files = self._files[:-count], self._files[-count:]
        for path in (*old, *(path for path in self._damaged if path != newest)):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        self._damaged = ()

    def _restart_clock(self) -> None:
        seconds = self._settings.every_seconds
        self._next = math.inf if seconds is None else time.monotonic() + seconds

    def _warn(self, message: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(message, stacklevel=2)

    # --- As a context -----------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGTERM) not in (None, signal.SIG_IGN):  # None: not set from Python
            self._previous = signal.signal(signal.SIGTERM, self._on_sigterm)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
        _unlock(self._lock)
        if kind is None and self._terminated:  # after the last step
            raise SystemExit(_TERMINATED)

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        self._terminated = True


def _locked(folder: Path) -> int:
    """Create a folder, and lock it against other runs until its descriptor is closed or the process ends.

    Raises:
        InputError: the folder cannot be created, or another run writes to it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        fail("fit", f"cannot write checkpoints to {str(folder)!r}: {error.strerror}")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        fail("fit", f"another run is writing checkpoints to {str(folder)!r}")
    except OSError:
        pass  # network file systems without locks
    _locks.add(descriptor)
    return descriptor


def _unlock(descriptor: int) -> None:
    _locks.discard(descriptor)
    os.close(descriptor)


def _forget_locks() -> None:
    """Close the descriptors in a forked child, which may outlive a killed run and must not keep its folder locked."""
    for descriptor in tuple(_locks):
        _unlock(descriptor)


os.register_at_fork(after_in_child=_forget_locks)
