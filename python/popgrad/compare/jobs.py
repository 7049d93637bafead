"""Runs the jobs of a study in worker processes."""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from popgrad import _core, data
from popgrad.backends import set_num_threads
from popgrad.budget import Budget
from popgrad.checks import InputError, fail
from popgrad.compare.entrants import Entrant
from popgrad.compare.progress import Progress
from popgrad.models import MLP
from popgrad.train import fit

__all__ = ["Job", "Source", "as_source", "digest", "load", "run_jobs"]

RECORDS = 40  # points of a curve with linear spacing, and as many with logarithmic spacing
TICK = 0.5  # seconds between two reports of progress while no run ends

# A table, or an OpenML ID, followed by a colon and the name of the target column.
_WITH_TARGET = re.compile(r"((?:\.[ct]sv(?:\.gz)?)|^openml:\d+):(.+)$", re.IGNORECASE)


class Source(NamedTuple):
    """The arguments of `popgrad.data.load` for one data set; `reading` holds the options for tables, by name."""

    path: str
    target: str | None = None
    task: str | None = None
    reading: tuple[tuple[str, Any], ...] = ()

    @property
    def own_target(self) -> str | None:
        """The target column in the path, as in ``houses.csv:price``, or None."""
        found = None if os.path.exists(self.path) else _WITH_TARGET.search(self.path)
        return found[2] if found else None


def as_source(path: str, target: str | None, task: str | None, reading: Mapping[str, Any] | None = None) -> Source:
    """Return a source with the options that apply to it: none for bundled data and NPZ files, all for tables."""
    if path in data.NAMES or path.endswith(".npz"):
        return Source(path)
    if path.startswith("openml:"):
        return Source(path, None if Source(path).own_target else target, task)
    return Source(path, None if Source(path).own_target else target, task, tuple(sorted((reading or {}).items())))


@lru_cache(maxsize=16)
def load(source: Source) -> tuple[data.Dataset, str]:
    """Read a data set, and return it with a hash of its contents; a process keeps the last 16."""
    dataset = data.load(source.path, target=source.target, task=source.task, **dict(source.reading))
    return dataset, digest(dataset)


@lru_cache(maxsize=2)
def _split(source: Source, seed: int) -> data.Split:
    """Split a data set. Consecutive jobs of a worker often share a split."""
    return data.split(load(source)[0], seed=seed)


def digest(dataset: data.Dataset) -> str:
    """Return a hash of the contents of a data set."""
    value = hashlib.sha256(repr((dataset.classes, dataset.y.shape)).encode() + dataset.y.tobytes())
    for name in dataset.frame:
        column = dataset.frame[name].to_numpy()
        value.update(f"{name}:{column.dtype.kind}:".encode(errors="surrogatepass"))
        content = repr(column.tolist()).encode(errors="surrogatepass") if column.dtype.hasobject else column.tobytes()
        value.update(content)
    return value.hexdigest()[:16]


@dataclass(frozen=True, eq=False)  # compared by identity: a method need not be hashable
class Job:
    """One run of one entrant on one data set.

    Args:
        dataset, name, seed: identify the run; `name` is the name of the entrant.
        source: location of the data.
        digest: hash of the data, as `digest` returns it.
        entrant: the optimizer, with its settings.
        budget: limit of forwards.
        hidden, activation, objective: as in `Study`.
        cost: expected time in any unit, to compare with other jobs.
    """

    dataset: str
    name: str
    seed: int
    source: Source
    digest: str
    entrant: Entrant
    budget: int
    hidden: tuple[int, ...]
    activation: str
    objective: str
    cost: float = 1.0

    @property
    def key(self) -> tuple[str, str, int]:
        """Data set, entrant and seed."""
        return self.dataset, self.name, self.seed


# --- In the main process ---------------------------------------------------------------------------------------------


def run_jobs(progress: Progress[Job], watch: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """Run all jobs that wait, and yield their results as they come.

    Args:
        progress: holds the jobs and the number of workers; kept up to date.
        watch: called whenever a run has started, and at least every `TICK` seconds.

    Raises:
        InputError: a worker was killed, or memory ran out.
    """
    running: dict[Future[tuple[dict[str, Any], float]], Job] = {}
    with _pool(progress.workers) as pool:
        results: list[dict[str, Any]] = []
        while progress.waiting or running:
            while progress.waiting and len(running) < progress.workers:
                job = progress.start()
                with _interrupts_blocked():
                    running[pool.submit(_timed_run, job)] = job
            watch()
            yield from results  # stored while the workers are busy
            results = []
            finished, _ = wait(running, TICK, FIRST_COMPLETED)
            for future in finished:
                result, seconds = future.result()
                progress.finish(running.pop(future), seconds)
                results.append(result)
        yield from results


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Hold Ctrl-C back. A worker that starts meanwhile inherits this for good: the main process ends it on Ctrl-C."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Start worker processes that end when this process ends, even if it is killed."""
    # Spawned, not forked: this process has threads. Each worker uses one thread, since the workers share the cores.
    before, others = dict(os.environ), set(multiprocessing.active_children())
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_worker,
        initargs=(os.getpid(),),
    )
    try:
        yield pool
    except (BrokenProcessPool, MemoryError) as error:
        why = "a worker process was killed" if isinstance(error, BrokenProcessPool) else "memory ran out"
        fail(
            "compare",
            f"{why}, perhaps for lack of memory. Finished runs are kept: the same command continues the study, and "
            "--workers 1 needs less memory",
        )
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        os.environ.clear()
        os.environ.update(before)


# --- In the worker processes -----------------------------------------------------------------------------------------


def _begin_worker(parent: int) -> None:
    set_num_threads(1)

    def watch() -> None:
        # Without this, a worker would keep running after its parent was killed.
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _timed_run(job: Job) -> tuple[dict[str, Any], float]:
    """Return a result and its seconds, without the time to load and split the data."""
    _split(job.source, job.seed)
    began = time.perf_counter()
    return run(job), time.perf_counter() - began


def run(job: Job) -> dict[str, Any]:
    """Run one job, and return its line of results.jsonl.

    Raises:
        InputError: the data changed since the study began.
    """
    dataset, found = load(job.source)
    if found != job.digest:
        fail("compare", f"{job.source.path!r} was changed while the study used it")
    result = {"dataset": job.dataset, "entrant": job.name, "seed": job.seed, "status": "ok", "error": None}
    result["isa"] = _core.isa()
    try:
        return result | _train(dataset, job)
    except InputError as error:
        return result | {"status": "failed", "error": str(error)}


def _train(dataset: data.Dataset, job: Job) -> dict[str, Any]:
    split = _split(job.source, job.seed)
    classes = len(dataset.classes)
    sizes = [split.X_train.shape[1], *job.hidden, classes or 1]
    model = MLP(sizes, job.activation, "cross_entropy" if classes else "mse", seed=job.seed)
    history = fit(
        model,
        split.X_train,
        split.y_train,
        optimizer=job.entrant.method,
        batch_size=job.entrant.batch_size,
        validation=(split.X_val, split.y_val),
        budget=Budget(forwards=job.budget),
        seed=job.seed,
        objective=job.objective,
        record_every=_record_marks(job.budget),
        record="full",  # searches and gradient methods record the same loss
        progress=False,
    )
    best = model.params[None]
    held = (split.X_test, split.y_test)
    return {
        "test_metric": _number(model.evaluate(best, *held, history.metric_name)[0]),
        "test_loss": _number(model.evaluate(best, *held)[0]),
        "validation_metric": _number(history.validation_metric[history.best]),
        "validation_loss": _number(history.validation_loss[history.best]),
        "train_loss": _number(history.loss[history.best]),
        "forwards": history.forwards[-1],
        "evaluations": history.evaluations[-1],
        "seconds": round(history.seconds[-1], 6),
        "nonfinite": history.nonfinite,
        "diverged": history.diverged,
        "reason": history.reason,
        "curve": {
            "forwards": history.forwards,
            "seconds": [round(value, 6) for value in history.seconds],
            "loss": [_number(value) for value in history.loss],
            "validation_loss": [_number(value) for value in history.validation_loss],
            "validation_metric": [_number(value) for value in history.validation_metric],
        },
    }


def _record_marks(budget: int) -> list[int]:
    """Return the forwards to record at: dense at the start, where gradient methods learn, and even to the end."""
    even = np.linspace(budget / RECORDS, budget, RECORDS)
    ratios = np.geomspace(max(budget / 3000, 1), budget, RECORDS)
    return sorted({int(total) for total in (*even, *ratios)})


def _number(value: float | np.float64) -> float | None:
    """Return a number with 9 digits, or None if it is not finite, which JSON cannot represent."""
    return float(f"{value:.9g}") if math.isfinite(value) else None
