"""The command line: ``popgrad compare``, ``fit``, ``predict``, ``report``, ``list``, ``info`` and ``bench``."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer
from rich.text import Text

from popgrad.checks import InputError
from popgrad.cli import bench, compare, fit, predict, show  # each adds its commands to `app`
from popgrad.cli._common import app, error, out

__all__ = ["app", "bench", "compare", "fit", "main", "predict", "show"]


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"popgrad {version('popgrad')}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train neural networks with any optimizer, and compare the optimizers honestly."""


def main() -> None:
    """Run the command line; bad input ends with a message and exit code 2."""
    try:
        app()
    except (InputError, OSError) as reason:
        error.print(Text(f"popgrad: {reason}", style="bold red"), soft_wrap=not sys.stderr.isatty())
        sys.exit(2)
