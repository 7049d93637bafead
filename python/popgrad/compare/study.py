"""A study: every entrant on every data set with every seed, under one budget. It can be continued and extended."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from popgrad import __version__, data
from popgrad.backends import get_num_threads
from popgrad.checks import fail, one_of, positive_int
from popgrad.compare.entrants import ENTRANTS, Entrant
from popgrad.compare.files import append_result, open_study, read_config, read_results
from popgrad.compare.jobs import Job, Source, as_source, load, run_jobs
from popgrad.compare.progress import Progress
from popgrad.compare.summary import OBJECTIVES
from popgrad.models import MLP
from popgrad.models.mlp import ACTIVATIONS
from popgrad.objective import Priced
from popgrad.system import machine
from popgrad.train.batches import Batches

__all__ = ["Study", "stored_arguments"]

Watch = Callable[[Progress[Job]], None]

# Constant time of a step, expressed in samples. It only affects the order of jobs and the estimate of their time.
STEP_OVERHEAD = 16


def _ignore(_: Progress[Job]) -> None:
    pass


@dataclass(frozen=True)
class Study:
    """The settings of a comparison. Creating a study loads every data set, so that errors come before any work.

    `run` works on the folder ``root/name``. If the folder holds a study with the same settings, `run` adds the data
    sets, entrants and seeds of this one. It does not repeat finished runs, and it never removes anything: a stored
    study with more seeds keeps them.

    Args:
        sources: names or paths of data sets, as `popgrad.data.load` takes them.
        entrants: entrants by name.
        seeds: runs of each entrant on each data set. Run s uses seed s for the split, the weights and the optimizer.
        budget: limit of forwards for each run.
        hidden: sizes of the hidden layers; may be empty.
        objective: "loss", or for classification "error_rate", "balanced_error" or "f1_macro". Searches minimize it, and
            the best record of every run is chosen by it.
        activation: activation of the hidden layers.
        target: name of the target column, for tables (CSV files and OpenML) whose source does not name it.
        task: "classification" or "regression", for tables. Default: inferred from the target.
        reading: other options of `popgrad.data.load` for tables, by name.
        name: folder under `root`. Default: the names of the data sets, followed by a digest of the data and of all
            settings except `seeds` and the names of the entrants.
        root: folder of all studies.
        command: command line of the user, for the report.

    Raises:
        InputError: an argument is invalid, or a data set cannot be read.
    """

    sources: Sequence[str | Source]
    entrants: Mapping[str, Entrant]
    seeds: int = 3
    budget: int = 3_000_000
    hidden: Sequence[int] = (32,)
    objective: str = "loss"
    activation: str = "relu"
    target: str | None = None
    task: str | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None
    root: Path = Path("runs")
    command: str = ""
    datasets: dict[str, dict[str, Any]] = field(init=False)  # entries of config.json, by name

    def __post_init__(self) -> None:
        self._check_settings()
        sources = [
            s if isinstance(s, Source) else as_source(s, self.target, self.task, self.reading) for s in self.sources
        ]
        datasets: dict[str, dict[str, Any]] = {}
        for source in sources:
            dataset, contents = load(source)
            name = _name(source, dataset)
            if name in datasets:
                fail("compare", f"two data sets are called {name!r}")
            if self.objective != "loss" and dataset.task != "classification":
                fail("compare", f"objective {self.objective} needs classes, but {name!r} is a regression")
            datasets[name] = _describe(source, dataset, contents)
            self._check_budget(name, datasets[name])
        for word, value, used in (
            ("target", self.target, any(source.target for source in sources)),
            ("task", self.task, any(source.task for source in sources)),
            (", ".join(self.reading), self.reading or None, any(source.reading for source in sources)),
        ):
            if value is not None and not used:
                fail("compare", f"{word} is for tables (CSV files and openml:ID), and none of the data sets takes it")
        object.__setattr__(self, "datasets", datasets)

    def _check_settings(self) -> None:
        positive_int("compare", "seeds", self.seeds)
        positive_int("compare", "budget", self.budget)
        for size in self.hidden:
            positive_int("compare", "each hidden size", size)
        one_of("compare", "objective", self.objective, ("loss", *OBJECTIVES))
        one_of("compare", "activation", self.activation, ACTIVATIONS)
        if not self.sources or not self.entrants:
            fail("compare", "give at least one data set and one optimizer")
        by_gradient = any(entrant.kind == "gradient" for entrant in self.entrants.values())
        if by_gradient and not ACTIVATIONS[self.activation].differentiable:
            fail("compare", f"activation {self.activation!r} has no gradient; name only searches with --optimizers")
        if self.name is not None:
            _check_name(self.name)

    def _check_budget(self, dataset: str, described: Mapping[str, Any]) -> None:
        """Fail unless every entrant can take its first step."""
        # "mse" whatever the loss is: only the sizes can be wrong here.
        model, samples = MLP(_sizes(described, self.hidden), self.activation, "mse"), described["train"]
        priced = Priced(model.layout, samples)
        for name, entrant in self.entrants.items():
            batch = Batches(samples, min(entrant.batch_size or samples, samples), 0).at(1)
            cost = entrant.method.cost(priced, batch, entrant.method.prepare(priced, model.params, 0)).forwards
            if self.budget < cost:
                fail(
                    "compare",
                    f"the first step of {name!r} on {dataset!r} costs {cost} forwards, but the budget is "
                    f"{self.budget}; give --budget {10 * cost} or more, or leave {name!r} out with --optimizers",
                )

    def config(self) -> dict[str, Any]:
        """Return all settings and the machine, as a new study stores them in ``config.json``."""
        settings = {
            "format": 1,
            "version": __version__,
            "objective": self.objective,
            "budget": self.budget,
            "hidden": list(self.hidden),
            "activation": self.activation,
            "dtype": "float32",
            "libraries": {name: version(name) for name in ("numpy", "scikit-learn")},  # they draw the splits
        }
        return {
            **settings,
            "seeds": self.seeds,
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
            "name": self.name or self._default_name(settings),
            "command": self.command,
            "machine": machine(),
        }

    def _default_name(self, settings: Mapping[str, Any]) -> str:
        data = {name: [entry["digest"], entry["task"]] for name, entry in self.datasets.items()}
        changed = {name: repr(entrant) for name, entrant in self.entrants.items() if entrant != ENTRANTS.get(name)}
        identity = json.dumps([settings, data, changed], sort_keys=True).encode()
        return "-".join([*list(self.datasets)[:3], hashlib.sha256(identity).hexdigest()[:8]])

    def run(self, watch: Watch = _ignore, workers: int | None = None) -> Path:
        """Run the missing jobs in worker processes, and return the folder.

        Args:
            watch: called with the progress at the start, after every change, and at least twice per second.
            workers: number of processes. Default: `popgrad.get_num_threads`.

        Raises:
            InputError: the folder cannot be written, is in use, or holds another study; or a worker was killed or the
                disk is full. Finished runs are kept.
        """
        config = self.config()
        folder: Path = Path(self.root) / config["name"]
        with open_study(folder, config) as results:
            done = {(run["dataset"], run["entrant"], run["seed"]) for run in read_results(folder)}
            jobs = self._jobs()
            missing = [job for job in jobs if job.key not in done]
            progress = Progress(missing, len(jobs) - len(missing), workers or get_num_threads())
            watch(progress)
            if missing:
                for result in run_jobs(progress, lambda: watch(progress)):
                    append_result(results, json.dumps(result, allow_nan=False) + "\n")
                watch(progress)
        return folder

    def _jobs(self) -> list[Job]:
        """Return all jobs of the study, seed by seed."""
        return [
            self._job(dataset, entrant, seed)
            for seed in range(self.seeds)
            for dataset in self.datasets
            for entrant in self.entrants
        ]

    def _job(self, dataset: str, name: str, seed: int) -> Job:
        described, entrant = self.datasets[dataset], self.entrants[name]
        sizes = _sizes(described, self.hidden)
        weights = sum((inputs + 1) * outputs for inputs, outputs in pairwise(sizes))
        batch = min(entrant.batch_size or described["train"], described["train"])
        return Job(
            dataset=dataset,
            name=name,
            seed=seed,
            source=_stored_source(described),
            digest=described["digest"],
            entrant=entrant,
            budget=self.budget,
            hidden=tuple(self.hidden),
            activation=self.activation,
            objective=self.objective,
            cost=weights * (1 + STEP_OVERHEAD / batch),
        )


def stored_arguments(root: Path, name: str) -> dict[str, Any]:
    """Return the arguments for `Study` of the stored study ``root/name``, or {} if there is no such study.

    Of the entrants, only the names are returned.

    Raises:
        InputError: `name` is not a valid name, or the configuration is damaged.
    """
    _check_name(name)
    folder = Path(root) / name
    if not (folder / "config.json").exists():
        return {}
    config = read_config(folder)
    return {
        "sources": [_stored_source(described) for described in config["datasets"].values()],
        "entrants": list(config["entrants"]),
        **{key: config[key] for key in ("seeds", "budget", "hidden", "objective", "activation")},
    }


def _check_name(name: str) -> None:
    if not re.fullmatch(r"\w[\w.-]{0,99}", name):
        fail("compare", f"name must be letters, digits, '_', '.' or '-', got {name!r}")


def _name(source: Source, dataset: data.Dataset) -> str:
    """Return the name of a data set in the study, with the target appended if the source names one (FILE:target)."""
    if not source.own_target:
        return dataset.name
    end = "-" + re.sub(r"[^\w.-]+", "_", source.own_target)[:40]
    return dataset.name if dataset.name.endswith(end) else dataset.name + end


def _describe(source: Source, dataset: data.Dataset, contents: str) -> dict[str, Any]:
    """Return the entry of a data set in config.json."""
    split = data.split(dataset, seed=0)
    return {
        "source": source.path,
        "target_option": source.target,
        "task_option": source.task,
        "reading": dict(source.reading),
        "digest": contents,
        "target": dataset.target,
        "task": dataset.task,
        "rows": len(dataset.y),
        "columns": dataset.frame.shape[1],
        "features": len(split.features),
        "classes": len(dataset.classes),
        "metric": "error_rate" if dataset.task == "classification" else "mse",
        "train": len(split.y_train),
        "validation": len(split.y_val),
        "test": len(split.y_test),
        "notes": list(dataset.notes),
    }


def _stored_source(described: Mapping[str, Any]) -> Source:
    reading = {
        name: tuple(value) if isinstance(value, list) else value for name, value in described.get("reading", {}).items()
    }
    options = described.get("target_option"), described.get("task_option")
    return Source(described["source"], *options, tuple(sorted(reading.items())))


def _sizes(described: Mapping[str, Any], hidden: Sequence[int]) -> list[int]:
    """Return the layer sizes of the network for a data set."""
    return [described["features"], *hidden, max(described["classes"], 1)]
