"""From the finished runs of a study to one ranked table per data set."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table
from rich.text import Text

__all__ = ["COLUMNS", "DatasetSummary", "Row", "cells", "headline", "read_results", "summarize", "table"]

KINDS = {"gradient": "gradient method", "search": "search"}
METRICS = {"error_rate": "test error", "mse": "test MSE"}


@dataclass(frozen=True)
class Row:
    """One entrant on one data set.

    A failed run, or one whose result is not finite, counts in a median as worse than any other: an entrant
    must not gain by the loss of its bad seeds. A median that is not finite is None, and so is the rank then.
    """

    entrant: str
    label: str
    kind: str
    rank: int | None
    n_ok: int
    n_failed: int
    n_missing: int
    test_metric: float | None
    test_metric_min: float | None
    test_metric_max: float | None
    test_loss: float | None
    time_to_90: float | None
    n_reached: int
    seconds: float | None
    forwards: float | None


@dataclass(frozen=True)
class DatasetSummary:
    """The rows of one data set, best first, and how many of the expected runs they rest on."""

    dataset: str
    metric: str
    rows: tuple[Row, ...]
    finished: int
    expected: int

    @property
    def metric_name(self) -> str:
        """What the ranking is by: "test error" or "test MSE"."""
        return METRICS.get(self.metric, f"test {self.metric}")

    def format_metric(self, value: float | None) -> str:
        """A test metric without its unit: an error rate as a percentage, anything else as it is."""
        if value is None:
            return "–"
        return f"{100 * value:.1f}" if self.metric == "error_rate" else _short(value)

    @property
    def unit(self) -> str:
        """What follows a formatted metric: " %" or nothing."""
        return " %" if self.metric == "error_rate" else ""


def number(value: Any) -> float:
    """`value` as a float; infinity where it is missing or not finite, since smaller is better everywhere."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        return math.inf
    return float(value)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Every finished run in ``folder/results.jsonl``, in the order written.

    A line that does not parse is what a killed process left behind: it is skipped. Of several lines with
    the same data set, entrant and seed the first counts. No file means no finished run.
    """
    path = folder / "results.jsonl"
    if not path.exists():
        return []
    runs: dict[tuple[str, str, int], dict[str, Any]] = {}
    for line in path.read_bytes().splitlines():
        try:
            run = json.loads(line)
            if run["status"] in ("ok", "failed"):
                runs.setdefault((run["dataset"], run["entrant"], run["seed"]), run)
        except (ValueError, TypeError, KeyError):
            continue
    return list(runs.values())


def summarize(config: Mapping[str, Any], results: Iterable[Mapping[str, Any]]) -> list[DatasetSummary]:
    """Rank the entrants of every data set by median test metric, ties by median test loss.

    Entrants without a finite median come last, unranked: first those that ran, then those that failed, then
    those that have not run. Equal metric and loss share a rank.
    """
    expected = {
        (dataset, entrant, seed)
        for dataset in config["datasets"]
        for entrant in config["entrants"]
        for seed in range(config["seeds"])
    }
    known = [run for run in results if (run["dataset"], run["entrant"], run["seed"]) in expected]
    return [
        _summarize_one(config, name, [run for run in known if run["dataset"] == name]) for name in config["datasets"]
    ]


def _summarize_one(config: Mapping[str, Any], dataset: str, runs: Sequence[Mapping[str, Any]]) -> DatasetSummary:
    reached = _times_to_90(runs)

    def key(entrant: str) -> tuple[float, float, bool, bool]:
        mine = [run for run in runs if run["entrant"] == entrant]
        return (
            _median(mine, "test_metric"),
            _median(mine, "test_loss"),
            not any(run["status"] == "ok" for run in mine),
            not mine,
        )

    keys = {entrant: key(entrant) for entrant in config["entrants"]}
    ordered = sorted(keys, key=lambda entrant: keys[entrant])
    scores = [keys[entrant][:2] for entrant in ordered]
    rows = []
    for entrant, score in zip(ordered, scores, strict=True):
        mine = [run for run in runs if run["entrant"] == entrant]
        ok = [run for run in mine if run["status"] == "ok"]
        values = [value for run in ok if (value := number(run.get("test_metric"))) < math.inf]
        times = sorted(reached.get((entrant, run["seed"]), math.inf) for run in mine)
        rows.append(
            Row(
                entrant=entrant,
                label=config["entrants"][entrant]["label"],
                kind=config["entrants"][entrant]["kind"],
                rank=scores.index(score) + 1 if math.isfinite(score[0]) else None,
                n_ok=len(ok),
                n_failed=len(mine) - len(ok),
                n_missing=config["seeds"] - len(mine),
                test_metric=_finite(score[0]),
                test_metric_min=min(values, default=None),
                test_metric_max=max(values, default=None),
                test_loss=_finite(score[1]),
                # The lower median: the time by which at least half of the seeds were there.
                time_to_90=_finite(times[(len(times) - 1) // 2]) if times else None,
                n_reached=sum(time < math.inf for time in times),
                seconds=_finite(_median(ok, "seconds")),
                forwards=_finite(_median(ok, "forwards")),
            )
        )
    metric = config["datasets"][dataset]["metric"]
    return DatasetSummary(dataset, metric, tuple(rows), len(runs), len(rows) * config["seeds"])


def _median(runs: Sequence[Mapping[str, Any]], field: str) -> float:
    values = [number(run.get(field)) if run["status"] == "ok" else math.inf for run in runs]
    return median(values) if values else math.inf


def _times_to_90(runs: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], float]:
    """Seconds until each run of one data set came 90 % of the way, by (entrant, seed); absent if never.

    The way leads, per seed, from the validation metric of the untrained network to the best value that any
    entrant measured on that seed. Where nobody improved on the untrained network there is no way to go.
    """
    curves = {
        (run["entrant"], run["seed"]): [number(value) for value in run["curve"]["validation_metric"]]
        for run in runs
        if run["status"] == "ok" and run.get("curve")
    }
    best: dict[int, float] = {}
    for (_, seed), curve in curves.items():
        best[seed] = min([best.get(seed, math.inf), *curve])
    times = {}
    for run in runs:
        key = (run["entrant"], run["seed"])
        curve = curves.get(key, [])
        if not curve or not best[key[1]] < curve[0] < math.inf:
            continue
        goal = curve[0] - 0.9 * (curve[0] - best[key[1]])
        for value, seconds in zip(curve, run["curve"]["seconds"], strict=False):
            if value <= goal:
                times[key] = number(seconds)
                break
    return times


def headline(summary: DatasetSummary) -> str:
    """Who won, in one sentence, and the best of the other kind."""
    first = [row for row in summary.rows if row.rank == 1]
    if not first:
        return "No entrant has a finite result yet."

    def value(row: Row) -> str:
        return f"{summary.format_metric(row.test_metric)}{summary.unit}"

    seeds = first[0].n_ok + first[0].n_failed
    over = f"median of {seeds} seeds" if seeds > 1 else "one seed"
    text = f"{' and '.join(row.label for row in first)} came first with {value(first[0])} {summary.metric_name}"
    text += f" ({over})"
    other = next((row for row in summary.rows if row.rank and row.kind != first[0].kind), None)
    if other and all(row.kind == first[0].kind for row in first):
        text += f"; best {KINDS[other.kind]}: {other.label}, {value(other)}"
    return text + "."


COLUMNS = ("#", "optimizer", "kind", "median", "min–max", "test loss", "90 % after s", "seconds", "forwards")
"""Headings of what `cells` returns; "median" and "min–max" are of the metric that the table ranks by."""


HEADINGS = {"test loss": "test\nloss", "90 % after s": "90 %\nafter s"}
"""The headings that a terminal of 80 columns breaks."""


def cells(summary: DatasetSummary, row: Row) -> tuple[str, ...]:
    """One row of the ranked table as text, for the terminal and for the page alike."""
    ran = row.n_ok + row.n_failed
    notes = [f"{row.n_failed} of {ran} failed"] if row.n_failed else []
    if row.n_missing:
        notes.append(f"{ran} of {ran + row.n_missing} run" if ran else "not run yet")
    label = f"{row.label} ({', '.join(notes)})" if notes else row.label
    spread = f"{summary.format_metric(row.test_metric_min)}–{summary.format_metric(row.test_metric_max)}"
    time = "–" if row.time_to_90 is None else _seconds(row.time_to_90)
    if 0 < row.n_reached < ran:
        time += f" ({row.n_reached}/{ran})"
    return (
        "–" if row.rank is None else str(row.rank),
        label,
        row.kind,
        summary.format_metric(row.test_metric),
        "–" if row.test_metric_min is None else spread,
        "–" if row.test_loss is None else _short(row.test_loss),
        time,
        "–" if row.seconds is None else _seconds(row.seconds),
        "–" if row.forwards is None else _compact(row.forwards),
    )


def _short(value: float) -> str:
    """Three digits, without an exponent where a whole number is as short."""
    return f"{value:.0f}" if 100 <= value < 1e6 else f"{value:#.3g}"


def _seconds(value: float) -> str:
    # Two digits: a third would be noise.
    return f"{value:.0f}" if value >= 10 else f"{value:#.2g}"


def _compact(count: float) -> str:
    """A count in three digits: 950, 12.3k, 3M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return f"{count:.0f}"


def table(summary: DatasetSummary, config: Mapping[str, Any]) -> Table:
    """The ranked table of one data set for a terminal; 100 columns show it whole, 80 wrap the names."""
    shown = Table(
        title=Text(f"{summary.dataset}: {summary.metric_name}{summary.unit}, smaller is better"),
        caption=Text(
            f"Over {config['seeds']} seed{'s' * (config['seeds'] > 1)}. 90 % after: seconds until the validation "
            "metric came 90 % of the way from the untrained network to the best that any entrant reached; "
            "– where fewer than half of the seeds did."
        ),
        box=None,  # the widths of the columns leave no room for lines
        header_style="bold",
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for heading in COLUMNS:
        left = heading in ("optimizer", "kind")
        shown.add_column(
            HEADINGS.get(heading, heading),
            justify="left" if left else "right",
            no_wrap=heading != "optimizer",
        )
    for row in summary.rows:
        style = "dim" if row.rank is None else "cyan" if row.kind == "gradient" else "yellow"
        shown.add_row(
            *(
                Text(cell, style=style if heading in ("optimizer", "kind") else "")
                for heading, cell in zip(COLUMNS, cells(summary, row), strict=True)
            )
        )
    return shown
