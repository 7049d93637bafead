"""From the finished runs of a study to one ranked table per data set."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from popgrad.checks import fail

__all__ = [
    *("COLUMNS", "CURVE", "DatasetSummary", "Row"),
    *("cells", "headline", "read_config", "read_results", "summarize", "table"),
]

KINDS = {"gradient": "gradient method", "search": "search"}
METRICS = {"error_rate": "test error", "mse": "test MSE of the standardised target"}
OBJECTIVES = {"error_rate": "error rate", "balanced_error": "balanced error", "f1_macro": "macro F1 (as 1 - F1)"}
SHORT_METRICS = {"mse": "test MSE (std.)"}
CURVE = ("forwards", "seconds", "loss", "validation_loss", "validation_metric")
"""The lists of a run's curve, all of one length."""


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
        """What the ranking is by: "test error" or "test MSE of the standardised target"."""
        return METRICS.get(self.metric, f"test {self.metric}")

    @property
    def short_metric_name(self) -> str:
        """The same where space is short: "test error" or "test MSE (std.)"."""
        return SHORT_METRICS.get(self.metric, self.metric_name)

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
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return math.inf
    try:
        return float(value) if math.isfinite(value) else math.inf
    except OverflowError:  # a whole number beyond all floats
        return math.inf


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# What the table and the page read: key to type.
_CONFIG = {
    **dict.fromkeys(("version", "name", "command", "objective", "activation", "dtype"), str),
    **{"seeds": int, "budget": int, "hidden": list, "datasets": dict, "entrants": dict, "machine": dict},
}
_DATASET = {
    **dict.fromkeys(("task", "metric"), str),
    **dict.fromkeys(("rows", "features", "train", "validation", "test"), int),
}
_ENTRANT = {"kind": str, "label": str, "settings": str, "batch_size": int | None}


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of the study in a folder, with every key that the table and the page need.

    Raises:
        InputError: there is none, it cannot be read, or something in it is missing or of a wrong type.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        fail("report", f"{str(folder)!r} holds no study: {error.strerror} (config.json)")
    except (ValueError, RecursionError) as error:
        fail("report", f"{str(path)!r} is not valid JSON: {error}")
    wrong = _wrong_in_config(config)
    if wrong:
        fail("report", f"{str(path)!r} was not written by this version of popgrad: {wrong}")
    return config  # type: ignore[no-any-return]  # _wrong_in_config saw to it


def _wrong_in_config(config: object) -> str | None:
    """What is wrong, in words, or None."""
    if not isinstance(config, dict):
        return "it is no JSON object"
    if config.get("format") != 1:
        return f"its format is {config.get('format')!r:.40}, expected 1"
    wrong = _wrong_key(config, _CONFIG)
    if not wrong:
        parts = (("datasets", _DATASET), ("entrants", _ENTRANT))
        found = (_wrong_key(one, types, f"{k}.{name}") for k, types in parts for name, one in config[k].items())
        wrong = next((words for words in found if words), None)
    if wrong:
        return wrong
    for name, entrant in config["entrants"].items():
        if entrant["kind"] not in KINDS:
            return f"entrants.{name}.kind is {entrant['kind']!r:.40}, expected {' or '.join(KINDS)}"
    return None


def _wrong_key(part: object, types: Mapping[str, Any], where: str = "") -> str | None:
    if not isinstance(part, dict):
        return f"{where} is no JSON object"
    for key, kind in types.items():
        path = f"{where}.{key}" if where else key
        if key not in part:
            return f"{path} is missing"
        if not isinstance(part[key], kind) or isinstance(part[key], bool):
            expected = kind.__name__ if isinstance(kind, type) else kind
            return f"{path} is {part[key]!r:.40}, expected {expected}"
    return None


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Every finished run in ``folder/results.jsonl``, in the order written.

    A line that is no complete run is what a killed process left behind: it is skipped. Of several lines with
    the same data set, entrant and seed the first counts. No file means no finished run.

    Raises:
        InputError: the file is there but cannot be read.
    """
    path = folder / "results.jsonl"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        fail("report", f"cannot read {str(path)!r}: {error.strerror}")
    runs: dict[tuple[str, str, int], dict[str, Any]] = {}
    for line in content.splitlines():
        try:
            run = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if _complete(run):
            runs.setdefault((run["dataset"], run["entrant"], run["seed"]), run)
    return list(runs.values())


def _complete(run: object) -> bool:
    """Whether it says which run it was and, if that went well, holds its curve. Numbers are looked at where used."""
    if not isinstance(run, dict):
        return False
    kinds = {"dataset": str, "entrant": str, "seed": int}
    if any(type(run.get(key)) is not kind for key, kind in kinds.items()):
        return False
    if run.get("status") != "ok":
        return run.get("status") == "failed"
    curve = run.get("curve")
    if not isinstance(curve, dict) or not all(isinstance(curve.get(key), list) for key in CURVE):
        return False
    return len({len(curve[key]) for key in CURVE}) == 1


def counted(config: Mapping[str, Any], results: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The runs that the study asked for: not those of other entrants, data sets or seeds."""
    seeds = range(config["seeds"])
    return [
        run
        for run in results
        if run["dataset"] in config["datasets"] and run["entrant"] in config["entrants"] and run["seed"] in seeds
    ]


def summarize(config: Mapping[str, Any], results: Iterable[Mapping[str, Any]]) -> list[DatasetSummary]:
    """Rank the entrants of every data set by median test metric, ties by median test loss.

    Entrants without a finite median come last, unranked: first those that ran, then those that failed, then
    those that have not run. Equal metric and loss share a rank.
    """
    known = counted(config, results)
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
        if run["status"] == "ok"
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


DROPPED = ("kind", "forwards", "seconds", "test loss", "min–max")
"""What a narrow terminal does without, in this order, so that every name stays whole."""


def table(summary: DatasetSummary, config: Mapping[str, Any], width: int | None = None) -> Table:
    """The ranked table of one data set for a terminal.

    Args:
        summary: of the data set.
        config: of its study.
        width: of the terminal, in characters; default 100. Columns are left out until the names fit; what is
            noted behind a name may wrap.
    """
    width = 100 if width is None else width
    caption = (
        f"Over {config['seeds']} seed{'s' * (config['seeds'] != 1)}. 90 % after: seconds until the validation "
        "metric came 90 % of the way from the untrained network to the best that any entrant reached; "
        "– where fewer than half of the seeds did."
    )
    if minimised := OBJECTIVES.get(config["objective"]):
        caption += f" Searches minimised the {minimised} on the training data; gradient methods trained on their loss."
    shown = Table(
        title=Text(f"{summary.dataset}: {summary.metric_name}{summary.unit}, smaller is better"),
        caption=Text(caption),
        box=None,  # the widths of the columns leave no room for lines
        header_style="bold",
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    rows = [(row, dict(zip(COLUMNS, cells(summary, row), strict=True))) for row in summary.rows]
    widths = {}
    for heading in COLUMNS:
        texts = HEADINGS.get(heading, heading).split("\n")
        texts += [row.label if heading == "optimizer" else texts_of[heading] for row, texts_of in rows]
        widths[heading] = max(map(cell_len, texts))
    columns = list(COLUMNS)
    for heading in DROPPED:
        if sum(widths[kept] + 1 for kept in columns) - 1 > width:
            columns.remove(heading)
    for heading in columns:
        name = heading == "optimizer"
        shown.add_column(
            HEADINGS.get(heading, heading),
            justify="left" if name or heading == "kind" else "right",
            no_wrap=not name,
            # Where even the last columns are too wide, they are cut off, and not the name.
            min_width=min(widths[heading], width - widths["#"] - 1) if name else None,
        )
    for row, texts_of in rows:
        style = "dim" if row.rank is None else "cyan" if row.kind == "gradient" else "yellow"
        shown.add_row(
            *(Text(texts_of[heading], style=style if heading in ("optimizer", "kind") else "") for heading in columns)
        )
    return shown
