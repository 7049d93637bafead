"""``popgrad bench``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from popgrad.cli._common import app, count, error, out

__all__: list[str] = []

bench = typer.Typer(help="Measure the speed of popgrad on this machine.", no_args_is_help=True)
app.add_typer(bench, name="bench")


@bench.command("step")
def bench_step(
    n: Annotated[str, typer.Option("--n", help="Number of float32 parameters.")] = "16_000_000",
    optimizers: Annotated[
        str | None, typer.Option(help="Names separated by commas. Default: all gradient methods.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timings of each step. The result is their median.")] = 9,
) -> None:
    """Measure the memory bandwidth of each optimizer step, relative to a plain loop.

    The plain loop reads and writes the same arrays with almost no arithmetic.
    """
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
    networks: Annotated[int | None, typer.Option(min=1, help="Largest population to measure.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timings of each method. The result is their median.")] = 7,
) -> None:
    """Time the fitness of populations, and compare with NumPy, PyTorch and JAX if they are installed.

    The measurement takes one to two minutes.
    """
    from popgrad import _core
    from popgrad import bench as measuring
    from popgrad.backends import get_num_threads

    shown = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    names = ("NumPy", "PyTorch", "JAX", "stored")
    for column in ("networks", "P", "samples", "ms", "GF/s", "share", "MiB", *names, "bf16"):
        shown.add_column(column, justify="left" if column == "networks" else "right", no_wrap=True)
    total, low_rank = len(measuring.POPULATIONS) + 1, False
    with out.status(f"measuring row 1 of {total}") as status:
        for done, row in enumerate(measuring.bench_population(networks, repeats), 1):
            status.update(f"measuring row {done + 1} of {total}")
            ratios = [f"{row.ratio(name):.1f}" if name in row.seconds else "-" for name in names]
            ratios.append(f"{1 / row.ratio('bfloat16'):.2f}" if "bfloat16" in row.seconds else "-")
            label = f"{'-'.join(map(str, row.sizes))} {row.activation}"
            memory = "-" if row.memory is None else f"{row.memory / 2**20:.1f}"
            equivalent = "*" * row.is_equivalent
            rates = (f"{row.rate / 1e9:.0f}{equivalent}", f"{row.share:.2f}{equivalent}")
            low_rank |= row.is_equivalent
            milliseconds = f"{1e3 * row.seconds['popgrad']:.3g}"
            shown.add_row(label, f"{row.members:,}", f"{row.samples:,}", milliseconds, *rates, memory, *ratios)
            if not out.is_terminal:
                error.print(f"{done} of {total}: {label}, {milliseconds} ms", highlight=False)
    out.print(shown, highlight=False)
    text = (
        f"{get_num_threads()} threads, {_core.isa()}; medians of {repeats}. Share: rate relative to the product of "
        "two 2,048 x 2,048 float32 matrices. MiB: memory in addition to arguments and result. NumPy, PyTorch, JAX, "
        "stored: time relative to popgrad. bf16: speedup by bfloat16."
    )
    if low_rank:
        text += (
            " * Equivalent rate: the operations that stored networks would need, divided by the time. Noise of rank 1 "
            "needs far fewer, so the processor does not run at this rate."
        )
    out.print(text, highlight=False)


@bench.command("train")
def bench_train(
    rows: Annotated[int | None, typer.Option(min=1, help="Number of networks to measure. Default: all.")] = None,
    peers: Annotated[bool, typer.Option(help="Whether to measure other libraries too.")] = True,
    many: Annotated[int, typer.Option(min=0, help="Networks to train at once; 0 to skip this part.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Timings of each method. The result is their median.")] = 5,
) -> None:
    """Time training steps of pg.fit with its records, and compare with JAX, PyTorch and scikit-learn if installed.

    The measurement takes about ten minutes.
    """
    from popgrad import _core
    from popgrad import bench as measuring
    from popgrad.backends import get_num_threads

    shown = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    names = ("JAX", "PyTorch", "scikit-learn")
    for column in ("network, batch", "fit us", "steps us", "GF/s", "share", *names):
        shown.add_column(column, justify="left" if "batch" in column else "right", no_wrap=True)
    for row in measuring.bench_train(repeats, rows, peers):
        label = f"{'-'.join(map(str, row.sizes))}, {row.batch_size:,}"
        times = [f"{row.microseconds[name]:.4g}" for name in ("fit", "steps")]
        ratios = [f"{row.ratio(name):.3f}" if name in row.microseconds else "-" for name in names]
        shown.add_row(label, *times, f"{row.rate / 1e9:.0f}", f"{row.share:.2f}", *ratios)
        error.print(f"{label}: {times[0]} us", highlight=False)
    out.print(shown, highlight=False)
    out.print(
        f"{get_num_threads()} threads, {_core.isa()}; medians of {repeats}; Adam. fit: microseconds per step of pg.fit "
        "with its records; steps: of its steps alone. Share: rate of the steps relative to the product of two 2,048 x "
        "2,048 float32 matrices. JAX, PyTorch, scikit-learn: time of fit relative to theirs.",
        highlight=False,
    )
    if many:
        result = measuring.bench_train_many(many, repeats=repeats)
        seconds = result.seconds
        text = ", ".join(f"{name} {value:.3g} s" for name, value in seconds.items())
        ratios = [f"{value / seconds['fit_many']:.2f} times ({name})" for name, value in seconds.items()][1:]
        out.print(f"\n{result.networks} networks 64-32-10, 10 epochs: {text}", highlight=False)
        out.print(f"Throughput of fit_many relative to: {', '.join(ratios)}", highlight=False)
