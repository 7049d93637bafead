"""``popgrad compare`` and ``popgrad report``."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Column

from popgrad.checks import fail
from popgrad.cli._common import (
    TRAINING,
    Activation,
    BatchSize,
    Decimal,
    Drop,
    Header,
    Hidden,
    LearningRate,
    Na,
    Objective,
    Separator,
    Setting,
    Target,
    Task,
    app,
    count,
    error,
    out,
    reading,
    sizes,
)
from popgrad.compare.progress import Progress, duration

__all__: list[str] = []


@app.command()
def compare(
    datasets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATA",
            help="Names of data sets, CSV or NPZ files, FILE:TARGET, or openml:ID. Default: digits.",
        ),
    ] = None,
    optimizers: Annotated[
        str | None,
        typer.Option(help="Names separated by commas (see popgrad list). Default: all.", rich_help_panel=TRAINING),
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Runs of each optimizer on each data set. Default: 3.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Forwards (samples through the network) that each run may use. Default: 3e6.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    lr: LearningRate = None,
    batch_size: BatchSize = None,
    settings: Setting = None,
    objective: Objective = None,
    hidden: Hidden = None,
    activation: Activation = None,
    target: Target = None,
    task: Task = None,
    header: Header = None,
    sep: Separator = None,
    decimal: Decimal = ".",
    na: Na = None,
    drop: Drop = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the study and its folder. Default: derived from the data and the settings."),
    ] = None,
    root: Annotated[Path, typer.Option(help="Folder that holds all studies.")] = Path("runs"),
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of worker processes. Default: the number of threads of popgrad.")
    ] = None,
) -> None:
    """Compare optimizers on data sets under one budget, rank them, and write a report.

    The same command continues a study that was stopped.

    To extend a study, give more seeds, optimizers or data sets. Finished runs are kept.

    With the --name of an existing study, omitted options default to the values of the study, except --lr, --batch-size
    and --set, which you must give again.
    """
    from popgrad.compare.entrants import chosen
    from popgrad.compare.study import Study, stored_arguments

    stored = stored_arguments(root, name) if name else {}
    given = {
        "sources": datasets or None,
        "seeds": seeds,
        "budget": None if budget is None else count("--budget", budget),
        "hidden": None if hidden is None else sizes(hidden),
        "activation": activation,
        "objective": objective,
    }
    arguments = {"sources": ["digits"]} | stored | {key: value for key, value in given.items() if value is not None}
    names = ",".join(stored["entrants"]) if stored and optimizers is None else optimizers
    arguments["entrants"] = chosen(names, learning_rate=lr, batch_size=batch_size, settings=settings or ())
    arguments["reading"] = reading(header, sep, decimal, na, drop)
    command = shlex.join(["popgrad", *sys.argv[1:]])
    study = Study(**arguments, target=target, task=task, name=name, root=root, command=command)
    folder = _run(study, workers)
    succeeded = _present(folder)
    _offer_report(folder)
    if not succeeded:
        fail("compare", f"not one run succeeded; {str(folder / 'results.jsonl')!r} says why")


def _run(study: Any, workers: int | None) -> Path:
    """Run a study and show its progress: a bar on a terminal, otherwise a line from time to time."""
    shown = _Bar() if out.is_terminal else _Lines(Console(stderr=True, soft_wrap=True, highlight=False).print)
    begun = False

    def watch(progress: Progress[Any]) -> None:
        nonlocal begun
        if not begun:
            begun = True
            _announce(progress)
        shown.show(progress)

    try:
        with shown:
            folder: Path = study.run(watch, workers)
            return folder
    except KeyboardInterrupt:
        error.print("popgrad: interrupted; finished runs are kept, and the same command continues")
        raise typer.Exit(130) from None


def _announce(progress: Progress[Any]) -> None:
    """Print how many runs are already finished."""
    from popgrad.compare.summary import plural

    if not progress.waiting:
        found = "1 run is" if progress.total == 1 else f"{progress.total:,} runs are"
        out.print(f"Nothing to run: {'the' if progress.total == 1 else 'all'} {found} there already.", highlight=False)
    elif progress.done:
        found = f"{progress.done:,} of {plural(progress.total, 'run')}"
        out.print(f"Continuing: {found} {'is' if progress.done == 1 else 'are'} there already.", highlight=False)


def _left(progress: Progress[Any]) -> str:
    seconds = progress.remaining()
    return "" if seconds is None else f"about {duration(seconds)} left"


def _running(progress: Progress[Any]) -> str:
    jobs = list(progress.running)
    several = len({job.dataset for job in (*progress.waiting, *jobs)}) > 1
    return ", ".join(f"{job.name} on {job.dataset}" if several else job.name for job in jobs)


class _Bar:
    """A progress bar on the terminal, which disappears at the end."""

    def __init__(self) -> None:
        self._bar = Bar(
            TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=out,
            transient=True,
            expand=True,
        )
        self._task = self._bar.add_task("", total=None, left="")

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, progress: Progress[Any]) -> None:
        self._bar.update(
            self._task,
            completed=progress.done,
            total=progress.total,
            description=_running(progress),
            left=_left(progress),
        )


class _Lines:
    """Prints a line every 10 seconds, and after every tenth of the runs if at least a second has passed."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._last = clock()
        self._tenth: int | None = None

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, progress: Progress[Any]) -> None:
        tenth, since = 10 * progress.done // max(progress.total, 1), self._clock() - self._last
        if self._tenth is None:
            self._tenth = tenth
        if not progress.running or since < (1 if tenth > self._tenth else 10):
            return
        self._last, self._tenth = self._clock(), tenth
        parts = [
            f"{progress.done:,} of {progress.total:,} runs done",
            f"{duration(progress.elapsed)} elapsed",
            _left(progress),
            f"running: {_running(progress)}",
        ]
        self._write(f"popgrad: {'; '.join(filter(None, parts))}")


def _present(folder: Path) -> bool:
    """Print the ranked tables and the command that runs missing runs; return whether any run succeeded."""
    from popgrad.compare.files import read_config, read_results
    from popgrad.compare.summary import summarize
    from popgrad.compare.table import table

    config, results = read_config(folder), read_results(folder)
    summaries = summarize(config, results)
    for summary in summaries:
        out.print()
        out.print(table(summary, config, out.width))
    expected = sum(summary.expected for summary in summaries)
    missing = expected - sum(summary.finished for summary in summaries)
    if missing:
        command = ["popgrad", "compare", "--name", folder.name]
        command += [] if folder.parent == Path("runs") else ["--root", str(folder.parent)]
        text = f"\nRuns that this study lacks: {missing:,} of {expected:,}. To run them: {shlex.join(command)}"
        out.print(text, highlight=False, soft_wrap=True, markup=False)
    return any(run["status"] == "ok" for run in results)


def _offer_report(folder: Path) -> None:
    """Write the report, or print how to get it."""
    if find_spec("plotly") and find_spec("jinja2"):
        from popgrad.compare.report import write_report

        text = f"Report: {write_report(folder)}"
    else:
        text = f"For the report: pip install plotly jinja2, then: popgrad report {shlex.quote(str(folder))}"
    out.print(f"\n{text}", highlight=False, soft_wrap=True, markup=False)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a study, such as runs/NAME.")],
) -> None:
    """Rewrite the report of a study from its stored results, and print the table."""
    from popgrad.compare.files import read_config
    from popgrad.compare.report import write_report

    read_config(folder)  # fail first if the folder holds no study, then for a missing package
    page = write_report(folder)
    _present(folder)
    out.print(f"\nReport: {page}", highlight=False, soft_wrap=True, markup=False)
