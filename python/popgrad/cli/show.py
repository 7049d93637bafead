"""``popgrad list`` and ``popgrad info``: what there is, and what this machine has."""

from __future__ import annotations

from rich.table import Table

from popgrad.cli._common import app, out

__all__: list[str] = []


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
