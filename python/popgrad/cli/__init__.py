"""The command line: ``popgrad compare``, ``fit``, ``report``, ``list``, ``info`` and ``bench``."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.text import Text

from popgrad.checks import InputError
from popgrad.cli import bench, compare, fit, show  # each adds its commands to `app`
from popgrad.cli._common import app

__all__ = ["app", "bench", "compare", "fit", "main", "show"]


def main() -> None:
    """Run the command line; bad input ends with a message and exit code 2."""
    try:
        app()
    except (InputError, OSError) as error:
        message = Text(f"popgrad: {error}", style="bold red")
        Console(stderr=True).print(message, soft_wrap=not sys.stderr.isatty())
        sys.exit(2)
