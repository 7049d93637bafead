"""``popgrad list`` and ``popgrad info``: names for the other commands, and facts about the installation."""

from __future__ import annotations

from rich.table import Table

from popgrad.cli._common import app, out

__all__: list[str] = []


@app.command("list")
def list_() -> None:
    """Show the names of optimizers (with their settings), data sets, objectives, metrics, activations and losses."""
    from popgrad import data, metrics
    from popgrad.compare.entrants import ENTRANTS
    from popgrad.compare.summary import OBJECTIVES
    from popgrad.models.measures import METRICS
    from popgrad.models.mlp import ACTIVATIONS, LOSSES

    for kind, title in (("gradient", "Gradient methods"), ("search", "Searches")):
        shown = Table(title=f"[b]{title}", title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
        shown.add_column("name", no_wrap=True)
        shown.add_column("batch", justify="right")
        shown.add_column("settings (change one with --set NAME.SETTING=VALUE)", overflow="fold")
        for name, entrant in ENTRANTS.items():
            if entrant.kind == kind:
                shown.add_row(name, str(entrant.batch_size or "all"), str(entrant.method))
        out.print(shown, highlight=False)
        out.print()
    names = Table.grid(padding=(0, 2, 0, 0))
    for title, known in (
        ("data sets", [*data.NAMES, "a .csv, .tsv or .npz file", "FILE:TARGET", "openml:ID"]),
        ("objectives", ["loss", *OBJECTIVES]),
        ("metrics", [*METRICS, *metrics.NAMES]),
        ("activations", list(ACTIVATIONS)),
        ("losses", list(LOSSES)),
    ):
        names.add_row(f"[b]{title}", ", ".join(known))
    out.print(names, highlight=False)


@app.command()
def info() -> None:
    """Show the version, instruction sets, threads, BLAS, CUDA and optional extras of this installation."""
    from popgrad.system import installation

    shown = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in installation().items():
        shown.add_row(f"[b]{name}", value)
    out.print(shown, highlight=False)
