"""``popgrad compare`` and ``popgrad report``."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from popgrad.checks import fail
from popgrad.cli._common import Activation, Hidden, Objective, Target, Task, app, count, out, sizes

__all__: list[str] = []


@app.command()
def compare(
    datasets: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DATA]...", help="Names, CSV or NPZ files, or openml:ID. Default: digits."),
    ] = None,
    optimizers: Annotated[
        str | None, typer.Option(help="Names separated by commas (popgrad list). Default: all.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each optimizer on each data set.")] = 3,
    budget: Annotated[str, typer.Option(help="Forwards that each run may use.")] = "3e6",
    hidden: Hidden = "32",
    activation: Activation = "relu",
    objective: Objective = "loss",
    target: Target = None,
    task: Task = None,
    name: Annotated[str | None, typer.Option(help="Folder of the study. Default: made from the settings.")] = None,
    root: Annotated[Path, typer.Option(help="Folder of all studies.")] = Path("runs"),
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one per thread allowed.")] = None,
) -> None:
    """Race optimizers on data under one budget, rank them, and write a report.

    A study that was stopped goes on when the same command is given again.
    """
    from popgrad.compare.entrants import chosen
    from popgrad.compare.study import Study

    study = Study(
        sources=datasets or ["digits"],
        entrants=chosen(optimizers),
        seeds=seeds,
        budget=count("--budget", budget),
        hidden=sizes(hidden),
        activation=activation,
        objective=objective,
        target=target,
        task=task,
        name=name,
        root=root,
        command=" ".join(["popgrad", *sys.argv[1:]]),
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out, disable=not out.is_terminal, transient=True) as progress:
        bar = progress.add_task("comparing", total=None)

        def show(result: dict[str, Any] | None, done: int, total: int) -> None:
            text = "comparing" if result is None else f"{result['entrant']} on {result['dataset']}"
            progress.update(bar, completed=done, total=total, description=f"{text:<32}")

        try:
            folder = study.run(show, workers)
        except KeyboardInterrupt:
            Console(stderr=True).print("popgrad: interrupted; the same command goes on where it stopped")
            raise typer.Exit(130) from None
    succeeded = _present(folder)
    if find_spec("plotly") and find_spec("jinja2"):
        from popgrad.compare.report import write_report

        out.print(f"\nReport: {write_report(folder)}", highlight=False, soft_wrap=True)
    else:
        out.print(f'\nFor the report: pip install "popgrad[report]", then: popgrad report {folder}', soft_wrap=True)
    if not succeeded:
        fail("compare", f"not one run succeeded; {str(folder / 'results.jsonl')!r} says why")


def _present(folder: Path) -> bool:
    """Show the ranked tables; whether any run succeeded."""
    from popgrad.compare.summary import read_config, read_results, summarize, table

    config, results = read_config(folder), read_results(folder)
    for summary in summarize(config, results):
        out.print()
        out.print(table(summary, config, out.width))
    return any(run["status"] == "ok" for run in results)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="Folder of a study, such as runs/NAME.")]) -> None:
    """Build a study's table and report again from its results."""
    from popgrad.compare.report import write_report
    from popgrad.compare.summary import read_config

    read_config(folder)  # a folder that holds no study is said before a missing extra
    page = write_report(folder)
    _present(folder)
    out.print(f"\nReport: {page}", highlight=False, soft_wrap=True)
