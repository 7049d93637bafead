"""Draw docs/speed.svg: the speedup of popgrad over PyTorch, measured side by side in one process.

    pip install matplotlib torch
    python bench/speed_chart.py

Every bar is a ratio of medians of alternating runs. The runs are realistic: optimizer steps after a backward pass,
complete fits with records, and the fitness of complete populations.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

import popgrad as pg
import popgrad.torch
from popgrad.bench import bench_population

Run = Callable[[], float]


def network(sizes: list[int]) -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def ratio(ours: Run, theirs: Run, repeats: int) -> float:
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for run, found in zip((ours, theirs), times, strict=True):
            time.sleep(0.05)  # idle threads of the previous run still spin and would occupy a core
            found.append(run())
    return statistics.median(times[1]) / statistics.median(times[0])


def steps(sizes: list[int], batch: int, count: int) -> tuple[Run, Run]:
    """Seconds of the Adam steps in a PyTorch training loop, for popgrad and the fused Adam of PyTorch."""

    def contender(kind: Any, **options: Any) -> Run:
        model = network(sizes)
        optimizer = kind(model.parameters(), **options)
        X, y = torch.randn(batch, sizes[0]), torch.randint(sizes[-1], (batch,))

        def run() -> float:
            total = 0.0
            for _ in range(count):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(X), y).backward()
                began = time.perf_counter()
                optimizer.step()
                total += time.perf_counter() - began
            return total

        run()
        return run

    return contender(popgrad.torch.Adam), contender(torch.optim.Adam, fused=True)


def fits(sizes: list[int], samples: int, batch: int, epochs: int) -> tuple[Run, Run]:
    """Seconds of complete trainings with Adam, with a training loss after every epoch."""
    random = np.random.default_rng(0)
    X = random.standard_normal((samples, sizes[0]), np.float32)
    y = random.integers(sizes[-1], size=samples)

    def ours() -> float:
        model = pg.MLP(sizes)
        began = time.perf_counter()
        pg.fit(model, X, y, optimizer=pg.optim.Adam(), batch_size=batch, epochs=epochs)
        return time.perf_counter() - began

    def theirs() -> float:
        model = network(sizes)
        inputs, labels = torch.from_numpy(X), torch.from_numpy(y)
        optimizer = torch.optim.Adam(model.parameters(), fused=True)
        began = time.perf_counter()
        for _ in range(epochs):
            total = 0.0
            for rows in torch.randperm(samples).split(batch):
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(model(inputs[rows]), labels[rows])
                loss.backward()
                optimizer.step()
                total += loss.item()
        return time.perf_counter() - began

    return ours, theirs


def measured(repeats: int) -> list[tuple[str, str, float]]:
    """The group, label and ratio of each bar."""
    bars = []
    for sizes, batch, count in (([64, 32, 10], 32, 200), ([784, 256, 10], 128, 50)):
        label = f"{'-'.join(map(str, sizes))}"
        bars.append(("Adam's step in a PyTorch loop", label, ratio(*steps(sizes, batch, count), repeats)))
    for sizes, samples, batch, epochs in (([64, 32, 10], 1437, 32, 10), ([784, 128, 10], 10_000, 128, 2)):
        label = f"{'-'.join(map(str, sizes))}, batch {batch}"
        bars.append(("training with Adam (pg.fit)", label, ratio(*fits(sizes, samples, batch, epochs), repeats)))
    for row in bench_population(None, repeats):
        if "PyTorch" in row.seconds:
            label = f"{row.members:,} networks {'-'.join(map(str, row.sizes))}"
            bars.append(("fitness of a population", label, row.ratio("PyTorch")))
    return bars


def draw(bars: list[tuple[str, str, float]], path: str) -> None:
    colors = dict(zip(dict.fromkeys(group for group, _, _ in bars), ("#2563eb", "#0d9488", "#d97706"), strict=False))
    plt.rcParams |= {"font.family": "sans-serif", "font.size": 10, "svg.hashsalt": "popgrad"}
    figure, axes = plt.subplots(figsize=(7.6, 0.42 * len(bars) + 1.1), layout="constrained")
    for at, (group, _, value) in enumerate(bars):
        axes.barh(at, value - 1, left=1, color=colors[group], height=0.7)
        axes.annotate(
            f"{value:.1f}", (max(value, 1), at), xytext=(4, 0), textcoords="offset points", va="center", weight="bold"
        )
    axes.set_yticks(range(len(bars)), [f"{group}: {label}" for group, label, _ in bars])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(0.4, 1.6 * max(value for *_, value in bars))
    axes.set_xticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
    axes.minorticks_off()
    axes.axvline(1, color="#374151", linewidth=1)
    version = torch.__version__.partition("+")[0]
    figure.supxlabel(f"times as fast as PyTorch {version} on {pg.get_num_threads()} cores (log scale)", fontsize=10)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.savefig(path, facecolor="white", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--out", default="docs/speed.svg")
    options = parser.parse_args()
    torch.set_num_threads(pg.get_num_threads())
    torch.manual_seed(0)
    bars = measured(options.repeats)
    for group, label, value in bars:
        print(f"{group:32}{label:40}{value:6.1f}")
    draw(bars, options.out)


if __name__ == "__main__":
    main()
