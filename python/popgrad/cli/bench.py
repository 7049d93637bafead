"""``popgrad bench``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from popgrad.cli._common import app, count, out

__all__: list[str] = []

bench = typer.Typer(help="Measure this machine.", no_args_is_help=True)
app.add_typer(bench, name="bench")


@bench.command("step")
def bench_step(
    n: Annotated[str, typer.Option("--n", help="Float32 parameters of a step.")] = "16_000_000",
    optimizers: Annotated[
        str | None, typer.Option(help="Names separated by commas (popgrad list). Default: all gradient methods.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timings of each, whose median counts.")] = 9,
) -> None:
    """Bandwidth of a step of every optimizer, and its share of what a loop with the same streams reaches."""
    from popgrad import _core
    from popgrad import bench as measuring

    parameters = count("--n", n)
    names = None if optimizers is None else [name.strip().lower() for name in optimizers.split(",")]
    rows = measuring.bench_step(parameters, names, repeats)
    shown = Table("optimizer", box=None)
    for title in ("bytes/parameter", "ms", "GB/s", "share of the plain loop"):
        shown.add_column(title, justify="right")
    with out.status("measuring"):
        for row in rows:
            numbers = (row.bytes_per_parameter, 1e3 * row.seconds, 1e-9 * row.bandwidth)
            shown.add_row(row.name, *(f"{number:.4g}" for number in numbers), f"{row.share:.2f}")
    out.print(shown)
    out.print(
        f"{parameters:,} parameters, {_core.threads()} threads, {_core.isa()}; medians of {repeats}", highlight=False
    )


@bench.command("population")
def bench_population(
    networks: Annotated[int | None, typer.Option(min=1, help="Members of a population at most.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="How often each is timed; the median counts.")] = 7,
) -> None:
    """Fitness of whole populations: in bfloat16, and beside NumPy, PyTorch and JAX where they are installed."""
    from popgrad import _core
    from popgrad import bench as measuring
    from popgrad.backends import get_num_threads

    shown = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    names = ("NumPy", "PyTorch", "JAX", "stored")
    for column in ("networks", "P", "samples", "ms", "GF/s", "share", "MiB", *names, "bf16"):
        shown.add_column(column, justify="left" if column == "networks" else "right", no_wrap=True)
    for row in measuring.bench_population(networks, repeats):
        ratios = [f"{row.ratio(name):.1f}" if name in row.seconds else "-" for name in names]
        ratios.append(f"{1 / row.ratio('bfloat16'):.2f}" if "bfloat16" in row.seconds else "-")
        sizes = f"{'-'.join(map(str, row.sizes))} {row.activation}"
        milliseconds = f"{1e3 * row.seconds['popgrad']:.3g}"
        memory = "-" if row.memory is None else f"{row.memory / 2**20:.1f}"
        cells = (milliseconds, f"{row.rate / 1e9:.0f}", f"{row.share:.2f}", memory)
        shown.add_row(sizes, f"{row.members:,}", f"{row.samples:,}", *cells, *ratios)
    out.print(shown, highlight=False)
    text = (
        f"{get_num_threads()} threads, {_core.isa()}; medians of {repeats}. Share: of the rate of a product of 2,048 x "
        "2,048 float32 matrices. MiB: memory beside arguments and result. By name: times as long as popgrad. bf16: how "
        "many times as fast bfloat16 is."
    )
    out.print(text, highlight=False)
