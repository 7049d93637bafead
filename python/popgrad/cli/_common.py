"""What every command shares: the application, the console, and options that several commands take."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from popgrad.checks import fail

__all__ = [
    "Activation",
    "BatchSize",
    "Decimal",
    "Drop",
    "Header",
    "Hidden",
    "LearningRate",
    "Na",
    "Objective",
    "Separator",
    "Setting",
    "Target",
    "Task",
    "app",
    "count",
    "error",
    "out",
    "reading",
    "sizes",
]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")  # a terminal without a sign gets a "?", not an error after the work
out = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 100)
error = Console(stderr=True)


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
    """Sizes of the hidden layers."""
    return [count("--hidden", size) for size in text.split(",")] if text.strip() not in ("", "0") else []


def reading(
    header: bool | None, sep: str | None, decimal: str, na: list[str] | None, drop: list[str] | None
) -> dict[str, Any]:
    """The options of `data.load` that say how to read a table; only those that were given."""
    given = {"header": header, "sep": sep, "decimal": decimal, "na": tuple(na or ()), "drop": tuple(drop or ())}
    defaults = {"header": None, "sep": None, "decimal": ".", "na": (), "drop": ()}
    return {name: value for name, value in given.items() if value != defaults[name]}


Hidden = Annotated[str, typer.Option(help="Sizes of the hidden layers, separated by commas; 0 for none.")]
Target = Annotated[
    str | None, typer.Option(help="Column to predict. Default: target, label, class or y, else the last column.")
]
Task = Annotated[
    str | None, typer.Option(help="classification or regression. Default: decided by the values of the target.")
]
Activation = Annotated[str, typer.Option(help="Activation of the hidden layers.")]
Objective = Annotated[
    str,
    typer.Option(
        help="What searches minimize: loss, error_rate, balanced_error, f1_macro. Gradient methods use the loss."
    ),
]
LearningRate = Annotated[float | None, typer.Option("--lr", help="Learning rate. Default: the optimizer's own.")]
BatchSize = Annotated[str | None, typer.Option(help="Samples per step, or all. Default: see popgrad list.")]
Setting = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME.SETTING=VALUE", help="Change a setting, such as adam.beta1=0.95. May be repeated."
    ),
]
Header = Annotated[
    bool | None,
    typer.Option("--header/--no-header", help="The first row holds column names, or data. Default: found out."),
]
Separator = Annotated[str | None, typer.Option("--sep", help="Field separator of a table. Default: found out.")]
Decimal = Annotated[str, typer.Option(help="Decimal separator of a table.")]
Na = Annotated[
    list[str] | None, typer.Option(help="Another text that marks a missing value, such as -999. May be repeated.")
]
Drop = Annotated[list[str] | None, typer.Option(help="Column to leave out. May be repeated.")]
