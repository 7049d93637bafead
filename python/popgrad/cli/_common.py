"""The application, the console, and options shared by several commands."""

from __future__ import annotations

import math
import os
import sys
from typing import Annotated, Any

import typer
from numpy.typing import NDArray
from rich.console import Console

from popgrad.checks import fail

__all__ = [
    "NETWORK",
    "TABLE",
    "TRAINING",
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
    "percent",
    "plain",
    "quality",
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
        stream.reconfigure(errors="replace")  # characters that the terminal lacks become "?", not errors
out = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 100)
error = Console(stderr=True)


def count(what: str, text: str) -> int:
    """Read a whole number, such as 3e6 or 3_000_000."""
    try:
        value = float(text)
        if value != int(value) or value < 1:
            raise ValueError
    except (ValueError, OverflowError):
        fail(what, f"expected a whole number >= 1, such as 3e6, got {text!r}")
    return int(value)


def sizes(text: str) -> list[int]:
    """Read the sizes of the hidden layers."""
    return [count("--hidden", size) for size in text.split(",")] if text.strip() not in ("", "0") else []


def reading(
    header: bool | None, sep: str | None, decimal: str, na: list[str] | None, drop: list[str] | None
) -> dict[str, Any]:
    """Return the given options of `data.load` for reading tables."""
    given = {"header": header, "sep": sep, "decimal": decimal, "na": tuple(na or ()), "drop": tuple(drop or ())}
    defaults = {"header": None, "sep": None, "decimal": ".", "na": (), "drop": ()}
    return {name: value for name, value in given.items() if value != defaults[name]}


def percent(share: float) -> str:
    """Format a share as a percentage."""
    return f"{100 * share:.1f} %" if math.isfinite(share) else "–"


def plain(value: float) -> str:
    """Format with four significant digits, without an exponent if that is readable."""
    if not 1e-4 <= abs(value) < 1e9:
        return f"{value:.4g}"
    decimals = max(0, 3 - math.floor(math.log10(abs(value))))
    return f"{float(f'{value:.4g}'):,.{decimals}f}"


def quality(predicted: NDArray[Any], y: NDArray[Any], target: str | None, scale: float = 1.0) -> str:
    """Describe the error of predictions (N,): the error rate, or the RMSE and R2 if `target` names a quantity.

    Args:
        predicted, y: class indices, or numbers that `scale` converts to the units of the target.
        target: name of a target that is a quantity, or None for classes.
        scale: units of the target per unit of y.
    """
    if target is None:
        wrong = int((predicted != y).sum())
        return f"error rate {percent(wrong / len(y))} ({wrong:,} of {len(y):,} rows)"
    mse, spread = float(((predicted - y) ** 2).mean()), float(y.var())
    text = f"RMSE {plain(math.sqrt(mse) * scale)} in units of {target!r}"
    return text + (f", R2 {1 - mse / spread:.3f}" if spread else "")


# Panels of the help of a command.
NETWORK, TRAINING, TABLE = "Network", "Optimizer and training", "Reading a table"

Hidden = Annotated[
    str | None,
    typer.Option(
        help="Sizes of the hidden layers, separated by commas; 0 for none. Default: 32.", rich_help_panel=NETWORK
    ),
]
Activation = Annotated[
    str | None, typer.Option(help="Activation of the hidden layers. Default: relu.", rich_help_panel=NETWORK)
]
Objective = Annotated[
    str | None,
    typer.Option(
        help="Objective of searches: loss, error_rate, balanced_error or f1_macro. Gradient methods always minimize "
        "the loss. Default: loss.",
        rich_help_panel=TRAINING,
    ),
]
LearningRate = Annotated[
    float | None,
    typer.Option("--lr", help="Learning rate. Default: the default of the optimizer.", rich_help_panel=TRAINING),
]
BatchSize = Annotated[
    str | None,
    typer.Option(help="Samples per step, or all. Default: shown by popgrad list.", rich_help_panel=TRAINING),
]
Setting = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="<setting>",
        help="Change one setting: NAME.SETTING=VALUE, such as adam.beta1=0.95. May be repeated.",
        rich_help_panel=TRAINING,
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        help="Column to predict. Default: target, label, class or y, else the last column.", rich_help_panel=TABLE
    ),
]
Task = Annotated[
    str | None,
    typer.Option(
        help="classification or regression. Default: decided by the values of the target.", rich_help_panel=TABLE
    ),
]
Header = Annotated[
    bool | None,
    typer.Option(
        "--header/--no-header",
        help="Whether the first row holds column names. Default: detected.",
        rich_help_panel=TABLE,
    ),
]
Separator = Annotated[
    str | None, typer.Option("--sep", help="Field separator. Default: detected.", rich_help_panel=TABLE)
]
Decimal = Annotated[str, typer.Option(help="Decimal separator.", rich_help_panel=TABLE)]
Na = Annotated[
    list[str] | None,
    typer.Option(
        metavar="<str>",
        help="Another text that marks a missing value, such as -999. May be repeated.",
        rich_help_panel=TABLE,
    ),
]
Drop = Annotated[
    list[str] | None,
    typer.Option(metavar="<str>", help="Column to leave out. May be repeated.", rich_help_panel=TABLE),
]
