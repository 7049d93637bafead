"""``popgrad fit``: trains one network and prints the data, the network, the optimizer and the results."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from popgrad.checks import fail
from popgrad.cli._common import (
    TABLE,
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
    percent,
    plain,
    quality,
    reading,
    sizes,
)

if TYPE_CHECKING:
    from popgrad.compare.entrants import Entrant
    from popgrad.data import ArrayFiles, Dataset, FileSplit, Split
    from popgrad.models import MLP, Model
    from popgrad.train import History

__all__: list[str] = []

Array = NDArray[Any]
_ROWS = 20  # at most, in the table of records


@app.command()
def fit(
    dataset: Annotated[
        str, typer.Argument(metavar="DATA", help="A name, a CSV or NPZ file, FILE:TARGET, X.npy:y.npy, or openml:ID.")
    ],
    optimizer: Annotated[str, typer.Option(help="A name from popgrad list.", rich_help_panel=TRAINING)] = "adam",
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Passes over the training samples. A search does the same amount of work.", rich_help_panel=TRAINING
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Limit of forwards: samples through the network. A gradient costs 3 each.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    lr: LearningRate = None,
    batch_size: BatchSize = None,
    settings: Setting = None,
    objective: Objective = None,
    select: Annotated[
        str,
        typer.Option(
            help="Criterion for the best record on the validation samples: metric or loss.", rich_help_panel=TRAINING
        ),
    ] = "metric",
    hidden: Hidden = None,
    activation: Activation = None,
    target: Target = None,
    task: Task = None,
    header: Header = None,
    sep: Separator = None,
    decimal: Decimal = ".",
    na: Na = None,
    drop: Drop = None,
    split: Annotated[
        str,
        typer.Option(
            help="How to divide the rows: random, time (in row order) or the name of a column of groups.",
            rich_help_panel=TABLE,
        ),
    ] = "random",
    seed: Annotated[int, typer.Option(help="Seed of the split, the initial weights and the optimizer.")] = 0,
    save: Annotated[
        Path | None,
        typer.Option(help="Output file for popgrad predict: model and preprocessing (safetensors)."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Folder for a checkpoint every minute. The same command continues a run that was stopped or killed."
        ),
    ] = None,
    log: Annotated[Path | None, typer.Option(help="File for a line of JSON after every record.")] = None,
    patience: Annotated[
        int | None,
        typer.Option(min=1, help="End after this many records without a better objective.", rich_help_panel=TRAINING),
    ] = None,
) -> None:
    """Train one network on data, and report its loss and metric on held-out rows."""
    import popgrad as pg
    from popgrad import data
    from popgrad.checks import one_of
    from popgrad.compare.entrants import chosen

    if "," in optimizer:
        fail("fit", f"expected one optimizer, got {optimizer!r}; popgrad compare takes several")
    entrant = next(iter(chosen(optimizer, learning_rate=lr, batch_size=batch_size, settings=settings or ()).values()))
    one_of("fit", "select", select, ("metric", "loss"))
    objective = objective or "loss"
    limit = None if budget is None else pg.Budget(forwards=count("--budget", budget))
    _check_writable(save)
    options = reading(header, sep, decimal, na, drop)
    table: Dataset | ArrayFiles
    parts: Split | FileSplit
    if (pair := data.pair_of(dataset)) is not None:
        if options or target is not None:
            fail("fit", f"{dataset} holds arrays: --target, --header, --sep, --decimal, --na and --drop are for tables")
        table = data.map_files(*pair, task=task)
        parts = data.split_files(table, seed, by=split)
        samples = _stream(table, parts, entrant, seed)
    else:
        table = data.load(dataset, target=target, task=task, **options)
        parts = data.split(table, seed=seed, by=split)
        samples = {"X": parts.X_train, "y": parts.y_train, "batch_size": entrant.batch_size}
    model = _model(table, parts, sizes(hidden or "32"), activation or "relu", seed)
    model.measure("fit", objective)
    _introduce(dataset, table, parts, model, entrant, split)
    watchers: list[pg.Callback] = [] if patience is None else [pg.EarlyStopping(patience)]
    if log is not None:
        watchers.append(pg.JSONLog(log))

    def train(callback: Callable[[Model, History], None]) -> History:
        return pg.fit(
            model,
            **samples,
            optimizer=entrant.method,
            epochs=epochs,
            budget=limit,
            validation=(parts.X_val, parts.y_val),
            objective=objective,
            select="metric" if select == "metric" and objective == "loss" else None,
            callbacks=[callback, *watchers],
            seed=seed,
            checkpoint=None if checkpoint is None else pg.Checkpoint(checkpoint),
            resume=checkpoint,
        )

    history, interrupted = _watched(train, model)
    out.print(_table_of(history, parts, table))
    _conclude(history, model, parts, table, objective)
    if save is not None:
        saved = pg.Pipeline(parts.preprocessing, model).save(save)
        command = f"popgrad predict {shlex.quote(str(saved))} NEW_TABLE.{'csv' if pair is None else 'npy'}"
        out.print(f"Model with its preprocessing: {saved}\nPredict: {command}", highlight=False, soft_wrap=True)
    if interrupted:
        raise typer.Exit(130)


def _check_writable(save: Path | None) -> None:
    if save is not None and save.is_dir():
        fail("fit", f"--save needs the name of a file, and {str(save)!r} is a folder")
    if save is not None and not (save.parent.is_dir() and os.access(save.parent, os.W_OK)):
        fail("fit", f"cannot write to the folder {str(save.parent)!r}")


def _stream(files: ArrayFiles, parts: FileSplit, entrant: Entrant, seed: int) -> dict[str, Any]:
    """The arguments of `popgrad.fit` for training rows that stay in a file."""
    from popgrad.train import BatchStream

    if entrant.batch_size is None:
        fail("fit", "files are read in batches, and this optimizer takes all samples per step: pass --batch-size")
    return {
        "X": BatchStream.from_arrays(
            files.X, parts.y, batch_size=entrant.batch_size, seed=seed, rows=parts.training, transform=parts.encode
        )
    }


def _model(table: Dataset | ArrayFiles, parts: Split | FileSplit, hidden: list[int], activation: str, seed: int) -> MLP:
    from popgrad.models import MLP

    classes = len(table.classes)
    loss = "cross_entropy" if classes else "mse"
    return MLP([len(parts.features), *hidden, classes or 1], activation, loss, seed=seed)


def _introduce(
    source: str, table: Dataset | ArrayFiles, parts: Split | FileSplit, model: MLP, entrant: Entrant, split: str
) -> None:
    """Print the data, the network and the optimizer before the training."""
    rows = parts.rows
    kind = f"{len(table.classes)} classes" if table.classes else "a quantity"
    inputs = f"{len(parts.features)} inputs from {table.columns} columns"
    how = {"random": "at random", "time": "in their order"}.get(split, f"by {split}")
    batch = f"batches of {entrant.batch_size}" if entrant.batch_size else "all samples per step"
    loss = "cross-entropy" if table.classes else "mean squared error of the standardized target"
    lines = [
        ("data", f"{source}: predicts {table.target!r} ({kind}), {inputs}"),
        ("rows", f"{rows[0]:,} for training, {rows[1]:,} for validation, {rows[2]:,} for testing, divided {how}"),
        ("network", f"{'-'.join(map(str, model.sizes))} {model.activation}, {len(model.params):,} parameters; {loss}"),
        ("optimizer", f"{entrant.method}, {batch}"),
        *(("note", note) for note in table.notes),
    ]
    grid = Table.grid(padding=(0, 2, 0, 0))
    for name, text in lines:
        grid.add_row(f"[b]{name}", text)
    out.print(grid, highlight=False)
    out.print()


def _watched(train: Callable[[Callable[[Model, History], None]], History], model: MLP) -> tuple[History, bool]:
    """Train. Ctrl-C ends the training and keeps the records."""
    seen: list[History] = []

    def keep(_: Model, history: History) -> None:
        seen[:] = [history]

    try:
        return train(keep), False
    except KeyboardInterrupt:
        if not seen:
            error.print("popgrad: interrupted before the first record")
            raise typer.Exit(130) from None
    history = seen[0]
    history.reason = "interrupted"
    model.params = history.best_params
    return history, True


def _table_of(history: History, parts: Split | FileSplit, table: Dataset | ArrayFiles) -> Table:
    """Return a table of up to `_ROWS` records, including the best and the last."""
    metric = "validation error rate" if table.classes else f"validation RMSE ({table.target})"
    shown = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
    for title in ("forwards", "seconds", "loss", "validation loss", metric):
        shown.add_column(title, justify="right")
    shown.add_column("")
    last = len(history.forwards) - 1
    for i in sorted({*range(0, last, max(1, -(-last // _ROWS))), history.best, last}):
        value = history.validation_metric[i]
        cells = [f"{history.forwards[i]:,}", f"{history.seconds[i]:.2f}"]
        cells += [f"{history.loss[i]:.4g}", f"{history.validation_loss[i]:.4g}"]
        cells.append(percent(value) if table.classes else plain(np.sqrt(value) * parts.target_scale))
        shown.add_row(*cells, "best" if i == history.best else "")
    return shown


def _conclude(
    history: History, model: MLP, parts: Split | FileSplit, table: Dataset | ArrayFiles, objective: str
) -> None:
    """Print why the training ended, and the test results of the best parameters."""
    out.print()
    ended = f"{history.reason[0].upper()}{history.reason[1:]}."
    if history.improving:
        ended += " The network was still improving: more --epochs or a larger --budget may help."
    out.print(ended, highlight=False, style="bold red" if history.diverged else "")
    name = f"Test, with the best parameters ({history.forwards[history.best]:,} forwards): "
    out.print(f"{name}{_test(model, parts, table, objective)}", highlight=False)


def _test(model: MLP, parts: Split | FileSplit, table: Dataset | ArrayFiles, objective: str) -> str:
    X, y = parts.X_test, parts.y_test
    text = quality(model.predict(X), y, None if table.classes else table.target, parts.target_scale)
    if objective not in ("loss", "error_rate", "mse"):
        text += f", {objective} {model.evaluate(model.params[None], X, y, objective)[0]:.4g}"
    return text
