"""A study: every entrant, on every data set, with every seed, under one budget; resumable at any instant."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import multiprocessing
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from popgrad import __version__, _core, data
from popgrad.backends import get_num_threads, set_num_threads
from popgrad.budget import GRADIENT_FORWARDS, Budget
from popgrad.checkpoint import write_file
from popgrad.checks import InputError, fail, one_of, positive_int
from popgrad.compare.entrants import Entrant
from popgrad.compare.summary import OBJECTIVES, read_config, read_results
from popgrad.fit import fit
from popgrad.model import ACTIVATIONS, MLP
from popgrad.search import Search
from popgrad.system import machine

__all__ = ["Study"]

RECORDS = 40  # points of a curve at equal distances, and as many at equal ratios
Job = tuple[str, str, int]  # data set, entrant, seed


@dataclass(frozen=True)
class Study:
    """What to compare. Making one loads every data set, so that bad input is found before any work.

    Args:
        sources: names or paths of data sets, as `popgrad.data.load` takes them.
        entrants: by name.
        seeds: runs of each entrant on each data set; run s uses seed s for split, weights and optimizer.
        budget: forwards that each run may use.
        hidden: sizes of the hidden layers; may be empty.
        objective: "loss"; or, for classification, "error_rate", "balanced_error" or "f1_macro": what searches
            minimise and the best record is picked by.
        activation: of the hidden layers.
        target: name of the target column, for the sources that are tables: CSV files and OpenML.
        task: "classification" or "regression", for the same sources; default: what the target looks like.
        name: folder under `root`; default: made of the data sets and a digest of the settings.
        root: folder of all studies.
        command: what a person typed, for the report.

    Raises:
        InputError: an argument does not fit or a data set cannot be read.
    """

    sources: Sequence[str]
    entrants: Mapping[str, Entrant]
    seeds: int = 3
    budget: int = 3_000_000
    hidden: Sequence[int] = (32,)
    objective: str = "loss"
    activation: str = "relu"
    target: str | None = None
    task: str | None = None
    name: str | None = None
    root: Path = Path("runs")
    command: str = ""
    datasets: dict[str, dict[str, Any]] = field(init=False)  # by name: what config.json says of it

    def __post_init__(self) -> None:
        positive_int("compare", "seeds", self.seeds)
        positive_int("compare", "budget", self.budget)
        for size in self.hidden:
            positive_int("compare", "each hidden size", size)
        one_of("compare", "objective", self.objective, ("loss", *OBJECTIVES))
        one_of("compare", "activation", self.activation, ACTIVATIONS)
        if not self.sources or not self.entrants:
            fail("compare", "give at least one data set and one optimizer")
        if not ACTIVATIONS[self.activation] and any(e.kind == "gradient" for e in self.entrants.values()):
            fail("compare", f"activation {self.activation!r} has no gradient; name only searches with --optimizers")
        if self.name is not None and not re.fullmatch(r"\w[\w.-]{0,99}", self.name):
            fail("compare", f"name must be letters, digits, '_', '.' or '-', got {self.name!r}")
        datasets = {}
        for source in self.sources:
            dataset = _load(source, *self._columns(source))
            if dataset.name in datasets:
                fail("compare", f"two data sets are called {dataset.name!r}")
            if self.objective != "loss" and dataset.task != "classification":
                fail("compare", f"objective {self.objective} needs classes, and {dataset.name!r} is a regression")
            datasets[dataset.name] = self._describe(source, dataset)
        if (self.target or self.task) and not any(any(self._columns(source)) for source in self.sources):
            fail("compare", "target and task are for tables: CSV files and openml:ID")
        object.__setattr__(self, "datasets", datasets)

    def _columns(self, source: str) -> tuple[str | None, str | None]:
        """Target and task, for a source that they are meant for."""
        table = source not in data.NAMES and not source.endswith(".npz")
        return (self.target, self.task) if table else (None, None)

    def _describe(self, source: str, dataset: data.Dataset) -> dict[str, Any]:
        split = data.split(dataset, seed=0)
        sizes = [split.X_train.shape[1], *self.hidden, max(len(dataset.classes), 1)]
        model = MLP(sizes, self.activation, "mse")  # whatever the loss: the sizes are what may not fit
        for name, entrant in self.entrants.items():
            cost = _first_step(entrant, model, len(split.X_train))
            if self.budget < cost:
                fail(
                    "compare",
                    f"the first step of {name!r} on {dataset.name!r} costs {cost} forwards, and the budget is "
                    f"{self.budget}; give --budget {10 * cost} or more, or name others with --optimizers",
                )
        return {
            "source": source,
            "digest": _digest(dataset),
            "task": dataset.task,
            "rows": len(dataset.y),
            "features": len(split.features),
            "classes": len(dataset.classes),
            "metric": "error_rate" if dataset.task == "classification" else "mse",
            "train": len(split.y_train),
            "validation": len(split.y_val),
            "test": len(split.y_test),
        }

    def config(self) -> dict[str, Any]:
        """All settings and the machine, as stored in ``config.json``."""
        settings = {
            "format": 1,
            "version": __version__,
            "objective": self.objective,
            "budget": self.budget,
            "seeds": self.seeds,
            "hidden": list(self.hidden),
            "activation": self.activation,
            "dtype": "float32",
            "target": self.target,
            "task": self.task,
            "libraries": {name: version(name) for name in ("numpy", "scikit-learn")},  # they draw the splits
            "datasets": self.datasets,
            "entrants": {
                name: {
                    "kind": entrant.kind,
                    "label": entrant.label,
                    "settings": repr(entrant.method),
                    "batch_size": entrant.batch_size,
                }
                for name, entrant in self.entrants.items()
            },
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
        name = self.name or "-".join([*list(self.datasets)[:3], digest])
        return {**settings, "name": name, "command": self.command, "machine": machine()}

    def run(self, report: Callable[[dict[str, Any] | None, int, int], None], workers: int | None = None) -> Path:
        """Run what is not done yet, on every core, and return the folder.

        Args:
            report: called as ``report(result, done, total)`` at the start (with None) and after every run.
            workers: processes; default as many as `popgrad.get_num_threads` says.

        Raises:
            InputError: the folder cannot be written, holds another study, or is in use; a process was killed, or
                the disk is full. What was finished before stays.
        """
        config = self.config()
        folder: Path = Path(self.root) / config["name"]
        with _open_results(folder, config) as results:
            done = {(run["dataset"], run["entrant"], run["seed"]) for run in read_results(folder)}
            jobs = [job for job in self._jobs() if job not in done]
            total = len(jobs) + len(done)
            report(None, len(done), total)
            count = len(done)
            if jobs:
                for result in _work(self, jobs, workers or get_num_threads()):
                    _append(results, json.dumps(result, allow_nan=False) + "\n")
                    count += 1
                    report(result, count, total)
        return folder

    def _jobs(self) -> list[Job]:
        """Every run, the longest first, so that no core waits for one at the end."""
        jobs = [(d, e, s) for s in range(self.seeds) for d in self.datasets for e in self.entrants]
        return sorted(jobs, key=lambda job: self.entrants[job[1]].batch_size != 1)


@contextmanager
def _open_results(folder: Path, config: dict[str, Any]) -> Iterator[BinaryIO]:
    """The folder's results, open for appending and locked, after its configuration was written or compared."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / "results.jsonl", "a+b")  # noqa: SIM115
    except OSError as error:
        fail("compare", f"cannot write to {str(folder)!r}: {error.strerror}")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go by the system, however this process ends
        except BlockingIOError:
            fail("compare", f"another popgrad compare is writing to {str(folder)!r}; wait for it or give a --name")
        except OSError as error:
            fail("compare", f"cannot lock a file in {str(folder)!r}: {error.strerror}; give a --root on a local disk")
        if (folder / "config.json").exists():
            old = read_config(folder)
            changed = [key for key in config if key not in ("command", "machine") and old.get(key) != config[key]]
            if changed:
                fail("compare", f"{str(folder)!r} holds a study with another {', '.join(changed)}; give another --name")
            here, there = _core.isa(), old["machine"].get("instruction set")
            if here != there:
                fail(
                    "compare",
                    f"{str(folder)!r} was begun with the instruction set {there}, here it is {here}: results would "
                    f"differ in their last digits. Give another --name, or set POPGRAD_ISA={there}",
                )
        elif read_results(folder):
            fail("compare", f"{str(folder)!r} holds results, but no config.json that says of what; give another --name")
        else:
            write_file(folder / "config.json", json.dumps(config, indent=1).encode())
        # A process that was killed may have left half a line: it stays, on a line of its own.
        end = file.seek(0, os.SEEK_END)
        if end > 0:
            file.seek(end - 1)
            if file.read(1) != b"\n":
                _append(file, "\n")
        yield file


def _append(file: BinaryIO, line: str) -> None:
    """Write a whole line and see it on the disk, or say that it is not."""
    try:
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            file.close()  # what the buffer still holds cannot be written either
        fail(
            "compare",
            f"cannot write a result: {error.strerror}. What was finished before is kept; free some space and give "
            "the same command again",
        )


# --- In the worker processes ----------------------------------------------------------------------


@lru_cache(maxsize=16)
def _load(source: str, target: str | None, task: str | None) -> data.Dataset:
    return data.load(source, target=target, task=task)


def _digest(dataset: data.Dataset) -> str:
    """Tells data sets apart by what is in them."""
    digest = hashlib.sha256(dataset.y.tobytes())
    for column in dataset.frame:
        digest.update(f"{column}:{dataset.frame[column].tolist()}".encode())
    return digest.hexdigest()[:16]


def _first_step(entrant: Entrant, model: MLP, samples: int) -> int:
    """Forwards that the first step costs."""
    batch = min(entrant.batch_size or samples, samples)
    if isinstance(entrant.method, Search):
        return batch * len(entrant.method.start(model.params).ask())
    return GRADIENT_FORWARDS * batch


def _work(study: Study, jobs: Sequence[Job], workers: int) -> Iterator[dict[str, Any]]:
    """The results of the jobs, as they come."""
    # Spawned, not forked: this process has threads. One thread each: the cores are shared out already.
    before = dict(os.environ)
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    pool = ProcessPoolExecutor(
        min(workers, len(jobs)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_worker,
        initargs=(os.getpid(),),
    )
    try:
        waiting = list(reversed(jobs))
        running: set[Future[dict[str, Any]]] = set()
        while waiting or running:
            while waiting and len(running) < 2 * workers:
                dataset, entrant, seed = waiting.pop()
                described = study.datasets[dataset]
                arguments = {
                    "source": described["source"],
                    "columns": study._columns(described["source"]),
                    "digest": described["digest"],
                    "name": entrant,
                    "entrant": study.entrants[entrant],
                    "seed": seed,
                    "budget": study.budget,
                    "hidden": list(study.hidden),
                    "objective": study.objective,
                    "activation": study.activation,
                }
                running.add(pool.submit(_run, arguments))
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
    except (BrokenProcessPool, MemoryError) as error:
        why = "a process was killed" if isinstance(error, BrokenProcessPool) else "the memory did not suffice"
        fail(
            "compare",
            f"{why}, perhaps for want of memory. What was finished is kept: the same command goes on, and --workers 1 "
            "needs less memory",
        )
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        os.environ.clear()
        os.environ.update(before)


def _begin_worker(parent: int) -> None:
    set_num_threads(1)

    def watch() -> None:
        # A worker whose parent was killed would run on unseen.
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run(job: dict[str, Any]) -> dict[str, Any]:
    """One run, as the line of results.jsonl that it becomes."""
    dataset = _load(job["source"], *job["columns"])
    if _digest(dataset) != job["digest"]:
        fail("compare", f"{job['source']!r} was changed while it was being compared")
    result = {"dataset": dataset.name, "entrant": job["name"], "seed": job["seed"], "status": "ok", "error": None}
    result["isa"] = _core.isa()
    try:
        return result | _train(dataset, job)
    except InputError as error:
        return result | {"status": "failed", "error": str(error)}


def _train(dataset: data.Dataset, job: dict[str, Any]) -> dict[str, Any]:
    seed, entrant = job["seed"], job["entrant"]
    split = data.split(dataset, seed=seed)
    classes = len(dataset.classes)
    sizes = [split.X_train.shape[1], *job["hidden"], classes or 1]
    model = MLP(sizes, job["activation"], "cross_entropy" if classes else "mse", seed=seed)
    history = fit(
        model,
        split.X_train,
        split.y_train,
        optimizer=entrant.method,
        batch_size=entrant.batch_size,
        validation=(split.X_val, split.y_val),
        budget=Budget(forwards=job["budget"]),
        seed=seed,
        objective=job["objective"],
        record_every=_record_marks(job["budget"]),
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
    """Totals of forwards to record at: dense at the start, where gradients learn, and even to the end."""
    even = np.linspace(budget / RECORDS, budget, RECORDS)
    ratios = np.geomspace(max(budget / 3000, 1), budget, RECORDS)
    return sorted({int(total) for total in (*even, *ratios)})


def _number(value: float | np.float64) -> float | None:
    """A JSON number; null where it is not finite."""
    return float(f"{value:.9g}") if math.isfinite(value) else None
