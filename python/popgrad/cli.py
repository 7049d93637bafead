"""The command line: ``popgrad compare``, ``fit``, ``report``, ``list``, ``info`` and ``bench``."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from popgrad.checks import InputError, fail

app = typer.Typer(
    help="Train neural networks with any optimizer, and compare them honestly.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
bench = typer.Typer(help="Measure this machine.", no_args_is_help=True)
app.add_typer(bench, name="bench")
for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")  # a terminal without a sign gets a "?", not an error after the work
out = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 100)


def main() -> None:
    """Run the command line; bad input ends with a message and exit code 2."""
    try:
        app()
    except (InputError, OSError) as error:
        message = Text(f"popgrad: {error}", style="bold red")
        Console(stderr=True).print(message, soft_wrap=not sys.stderr.isatty())
        sys.exit(2)


def _count(what: str, text: str) -> int:
    """A whole number, also written as 3e6 or 3_000_000."""
    try:
        value = float(text)
        if value != int(value) or value < 1:
            raise ValueError
    except (ValueError, OverflowError):
        fail(what, f"expected a whole number >= 1, such as 3e6, got {text!r}")
    return int(value)


def _sizes(text: str) -> list[int]:
    return [_count("--hidden", size) for size in text.split(",")] if text.strip() not in ("", "0") else []


Hidden = Annotated[str, typer.Option(help="Sizes of the hidden layers, separated by commas; 0 for none.")]
Target = Annotated[str | None, typer.Option(help="Name of the target column, for files.")]
Task = Annotated[str | None, typer.Option(help="classification or regression, for files. Default: by the target.")]
Activation = Annotated[str, typer.Option(help="Activation of the hidden layers.")]
Objective = Annotated[
    str,
    typer.Option(
        help="What searches minimise: loss, error_rate, balanced_error or f1_macro. Gradients follow the loss."
    ),
]


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
        budget=_count("--budget", budget),
        hidden=_sizes(hidden),
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


@app.command()
def fit(
    dataset: Annotated[str, typer.Argument(metavar="DATA", help="A name, a CSV or NPZ file, or openml:ID.")],
    optimizer: Annotated[str, typer.Option(help="One of popgrad list.")] = "adam",
    epochs: Annotated[
        int | None, typer.Option(help="Passes of gradients over the samples, or that much work. Default: 20.")
    ] = None,
    budget: Annotated[str | None, typer.Option(help="Forwards that the run may use.")] = None,
    hidden: Hidden = "32",
    activation: Activation = "relu",
    objective: Objective = "loss",
    target: Target = None,
    task: Task = None,
    seed: Annotated[int, typer.Option(help="Seed of split, weights and optimizer.")] = 0,
    save: Annotated[Path | None, typer.Option(help="Where to write the model (safetensors).")] = None,
) -> None:
    """Train one network on data, and show its loss and metric on held-out samples."""
    import popgrad as pg
    from popgrad import data
    from popgrad.checks import one_of
    from popgrad.compare.entrants import ENTRANTS

    entrant = ENTRANTS[one_of("fit", "optimizer", optimizer.lower(), ENTRANTS)]
    limit = None if budget is None else pg.Budget(forwards=_count("--budget", budget))
    if save is not None and save.is_dir():
        fail("fit", f"--save needs the name of a file, and {str(save)!r} is a folder")
    if save is not None and not (save.parent.is_dir() and os.access(save.parent, os.W_OK)):
        fail("fit", f"cannot write to the folder {str(save.parent)!r}")
    table = data.load(dataset, target=target, task=task)
    split = data.split(table, seed=seed)
    classes = len(table.classes)
    loss = "cross_entropy" if classes else "mse"
    model = pg.MLP([split.X_train.shape[1], *_sizes(hidden), classes or 1], activation, loss, seed=seed)
    shown = Table("forwards", "seconds", "loss", "validation loss", "validation metric", "", box=None)
    history = pg.fit(
        model,
        split.X_train,
        split.y_train,
        optimizer=entrant.method,
        batch_size=entrant.batch_size,
        epochs=epochs,
        budget=limit,
        validation=(split.X_val, split.y_val),
        objective=objective,
        seed=seed,
    )
    last = len(history.forwards) - 1
    for i in sorted({*range(0, last, max(1, last // 20)), history.best, last}):
        mark = "best" if i == history.best else ""
        values = [history.loss[i], history.validation_loss[i], history.validation_metric[i]]
        numbers = [f"{history.forwards[i]:,}", f"{history.seconds[i]:.2f}", *(f"{value:.4g}" for value in values)]
        shown.add_row(*numbers, mark)
    out.print(shown)
    metric = history.metric_name
    value = model.evaluate(model.params[None], split.X_test, split.y_test, metric)[0]
    out.print(f"{history.reason}; test {metric} of the best: {value:.4g}", highlight=False)
    if save is not None:
        out.print(f"model: {model.save(save)}", highlight=False, soft_wrap=True)


@app.command("list")
def list_() -> None:
    """The names that can be given: optimizers, searches, data sets, activations, losses."""
    from popgrad import data
    from popgrad.compare.entrants import ENTRANTS
    from popgrad.model import ACTIVATIONS, LOSSES

    for kind, title in (("gradient", "gradient methods"), ("search", "searches")):
        shown = Table(title=f"[b]{title}", title_justify="left", box=None, show_header=False, padding=(0, 2))
        for name, entrant in ENTRANTS.items():
            if entrant.kind == kind:
                batch = f"batch {entrant.batch_size}" if entrant.batch_size else "all samples"
                shown.add_row(name, batch, str(entrant.method))
        out.print(shown)
        out.print()
    out.print(f"[b]data sets[/b]    {', '.join(data.NAMES)}, a .csv or .npz file, openml:ID", highlight=False)
    out.print(f"[b]activations[/b]  {', '.join(ACTIVATIONS)}", highlight=False)
    out.print(f"[b]losses[/b]       {', '.join(LOSSES)}", highlight=False)


@app.command()
def info() -> None:
    """Version, instruction sets, threads, BLAS, CUDA and optional extras."""
    from popgrad.system import installation

    shown = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in installation().items():
        shown.add_row(f"[b]{name}", value)
    out.print(shown, highlight=False)


@bench.command("step")
def bench_step(
    n: Annotated[str, typer.Option("--n", help="Float32 parameters of a step.")] = "16_000_000",
    optimizers: Annotated[
        str | None, typer.Option(help="Names separated by commas (popgrad list). Default: all gradient methods.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timings of each, whose median counts.")] = 9,
) -> None:
    """Bandwidth of a step of every optimizer, and its share of what a loop with the same streams reaches."""
    from popgrad import _core
    from popgrad import bench as measuring

    count = _count("--n", n)
    names = None if optimizers is None else [name.strip().lower() for name in optimizers.split(",")]
    rows = measuring.bench_step(count, names, repeats)
    shown = Table("optimizer", box=None)
    for title in ("bytes/parameter", "ms", "GB/s", "share of the plain loop"):
        shown.add_column(title, justify="right")
    with out.status("measuring"):
        for row in rows:
            numbers = (row.bytes_per_parameter, 1e3 * row.seconds, 1e-9 * row.bandwidth)
            shown.add_row(row.name, *(f"{number:.4g}" for number in numbers), f"{row.share:.2f}")
    out.print(shown)
    out.print(f"{count:,} parameters, {_core.threads()} threads, {_core.isa()}; medians of {repeats}", highlight=False)


@bench.command("population")
def bench_population(
    networks: Annotated[int | None, typer.Option(min=1, help="Members of a population at most.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="How often each is timed; the median counts.")] = 7,
) -> None:
    """Fitness of whole populations: in bfloat16, and beside NumPy, PyTorch and JAX where they are installed."""
    from popgrad import _core
    from popgrad import bench as measuring
    from popgrad.backends import get_num_threads

    shown = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    names = ("NumPy", "PyTorch", "JAX", "stored")
    for column in ("networks", "P", "samples", "ms", "GF/s", "share", "MiB", *names, "bf16"):
        shown.add_column(column, justify="left" if column == "networks" else "right", no_wrap=True)
    for row in measuring.bench_population(networks, repeats):
        ratios = [f"{row.ratio(name):.1f}" if name in row.seconds else "-" for name in names]
        ratios.append(f"{1 / row.ratio('bfloat16'):.2f}" if "bfloat16" in row.seconds else "-")
        sizes = f"{'-'.join(map(str, row.sizes))} {row.activation}"
        milliseconds = f"{1e3 * row.seconds['popgrad']:.3g}"
        memory = "-" if row.memory is None else f"{row.memory / 2**20:.1f}"
        cells = (milliseconds, f"{row.rate / 1e9:.0f}", f"{row.share:.2f}", memory)
        shown.add_row(sizes, f"{row.members:,}", f"{row.samples:,}", *cells, *ratios)
    out.print(shown, highlight=False)
    text = (
        f"{get_num_threads()} threads, {_core.isa()}; medians of {repeats}. Share: of the rate of a product of 2,048 x "
        "2,048 float32 matrices. MiB: memory beside arguments and result. By name: times as long as popgrad. bf16: how "
        "many times as fast bfloat16 is."
    )
    out.print(text, highlight=False)
