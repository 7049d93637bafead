"""What every command shares: the application, the console, and arguments that several commands take."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer
from rich.console import Console

from popgrad.checks import fail

__all__ = ["Activation", "Hidden", "Objective", "Target", "Task", "app", "count", "out", "sizes"]

app = typer.Typer(
    help="Train neural networks with any optimizer, and compare them honestly.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")  # a terminal without a sign gets a "?", not an error after the work
out = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 100)


def count(what: str, text: str) -> int:
    """A whole number, also written as 3e6 or 3_000_000."""
    try:
        value = float(text)
        if value != int(value) or value < 1:
            raise ValueError
    except (ValueError, OverflowError):
        fail(what, f"expected a whole number >= 1, such as 3e6, got {text!r}")
    return int(value)


def sizes(text: str) -> list[int]:
    return [count("--hidden", size) for size in text.split(",")] if text.strip() not in ("", "0") else []


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
