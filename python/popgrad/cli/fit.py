"""``popgrad fit``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from popgrad.checks import fail
from popgrad.cli._common import Activation, Hidden, Objective, Target, Task, app, count, out, sizes

__all__: list[str] = []


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
    limit = None if budget is None else pg.Budget(forwards=count("--budget", budget))
    if save is not None and save.is_dir():
        fail("fit", f"--save needs the name of a file, and {str(save)!r} is a folder")
    if save is not None and not (save.parent.is_dir() and os.access(save.parent, os.W_OK)):
        fail("fit", f"cannot write to the folder {str(save.parent)!r}")
    table = data.load(dataset, target=target, task=task)
    split = data.split(table, seed=seed)
    classes = len(table.classes)
    loss = "cross_entropy" if classes else "mse"
    model = pg.MLP([split.X_train.shape[1], *sizes(hidden), classes or 1], activation, loss, seed=seed)
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
