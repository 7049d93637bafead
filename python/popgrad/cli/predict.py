"""``popgrad predict``: predictions for the rows of a new table, as CSV."""

from __future__ import annotations

import csv
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from popgrad.checks import fail
from popgrad.cli._common import TABLE, Header, Na, Separator, app, error, quality

if TYPE_CHECKING:
    from popgrad.data import Prepared
    from popgrad.pipeline import Pipeline

__all__: list[str] = []


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A file that popgrad fit --save wrote.")],
    table: Annotated[str, typer.Argument(metavar="DATA", help="A CSV, TSV, DATA or NPZ file, or a bundled name.")],
    save: Annotated[Path | None, typer.Option("--out", help="Output file (CSV). Default: the standard output.")] = None,
    proba: Annotated[bool, typer.Option("--proba", help="Add the probability of each class.")] = False,
    header: Header = None,
    sep: Separator = None,
    decimal: Annotated[
        str | None, typer.Option(help="Decimal point. Default: as in training.", rich_help_panel=TABLE)
    ] = None,
    na: Na = None,
) -> None:
    """Predict the target for each row of a table, with a model that popgrad fit saved.

    The output is CSV: the number of each row, from 0, and the prediction.
    Columns are found by name; further ones are ignored. Notes, and the error
    if the table has the target, go to the standard error.
    """
    from popgrad.checkpoint import write_file
    from popgrad.pipeline import load_pipeline

    if save is not None and (save.is_dir() or not os.access(save.absolute().parent, os.W_OK)):
        fail("predict", f"cannot write the file {str(save)!r}")
    pipeline = load_pipeline(model)
    if proba and pipeline.classes is None:
        fail("predict", f"--proba needs a model of classes; this one predicts the quantity {pipeline.target!r}")
    found = pipeline.prepare(table, header=header, sep=sep, decimal=decimal, na=tuple(na or ()))
    for note in found.notes:
        _say(f"note: {note}")
    predicted = pipeline.model.predict(found.X)
    text = _as_csv(pipeline, found.X, predicted, proba)
    if save is not None:
        write_file(save, text.encode())
        _say(f"{len(predicted):,} predictions of {pipeline.target!r}: {save}")
    if found.y is not None:
        _say(_error(pipeline, found, predicted))
    if save is None:
        _print(text)


def _say(text: str) -> None:
    error.print(Text(text), soft_wrap=not sys.stderr.isatty(), highlight=False)


def _print(text: str) -> None:
    """Write to the standard output; a reader such as head may close the pipe early."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at exit


def _as_csv(pipeline: Pipeline, X: Any, predicted: Any, proba: bool) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns: list[Any] = [range(len(X)), pipeline.preprocessing.decode(predicted).tolist()]
    names = ["row", "prediction"]
    if proba:
        names += [f"probability_{label}" for label in pipeline.preprocessing.classes]
        columns += pipeline.probabilities(X).T.astype(str).tolist()  # the shortest text with all bits
    writer.writerow(names)
    writer.writerows(zip(*columns, strict=True))
    return text.getvalue()


def _error(pipeline: Pipeline, found: Prepared, predicted: Any) -> str:
    """The error of the predictions where the target is known."""
    assert found.y is not None
    if pipeline.classes is not None:
        known = found.y >= 0
        return f"Error of the predictions: {quality(predicted[known], found.y[known], None)}"
    known = found.y == found.y
    units = pipeline.preprocessing.decode(predicted)
    return f"Error of the predictions: {quality(units[known], found.y[known], pipeline.target)}"
