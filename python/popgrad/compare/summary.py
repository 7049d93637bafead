"""From the finished runs of a study to one ranking per data set, and to sentences about it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from popgrad.compare.evidence import Evidence, weigh

__all__ = [
    *("OBJECTIVES", "UNTUNED", "DatasetSummary", "Row"),
    *("counted", "evidence_text", "headline", "number", "plural", "short", "summarize"),
]

METRICS = {"error_rate": "test error", "mse": "test MSE of the standardized target"}
SHORT_METRICS = {"mse": "test MSE (std.)"}
OBJECTIVES = {"error_rate": "error rate", "balanced_error": "balanced error", "f1_macro": "macro F1 (as 1 - F1)"}
KINDS = {"gradient": "gradient method", "search": "search"}
TIE = 1e-6  # medians that differ by less, relatively, are equal: results are stored with 9 digits
NAMED = 5  # entrants that a sentence lists before it says how many more there are
UNTUNED = "Settings are untuned defaults unless the command sets them; tuned optimizers may rank differently."


@dataclass(frozen=True)
class Row:
    """One entrant on one data set.

    A run that failed, diverged or has no finite result counts in a median as worse than any other: an entrant must not
    gain by losing its bad seeds. A median that is not finite is None, and so is the rank.
    """

    entrant: str
    label: str
    kind: str
    rank: int | None
    n_ok: int
    n_failed: int
    n_diverged: int
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
    """The rows of one data set, best first; how many of the expected runs are finished; and what they show."""

    dataset: str
    metric: str
    rows: tuple[Row, ...]
    finished: int
    expected: int
    evidence: Evidence | None

    @property
    def metric_name(self) -> str:
        """The metric of the ranking: "test error" or "test MSE of the standardized target"."""
        return METRICS.get(self.metric, f"test {self.metric}")

    @property
    def short_metric_name(self) -> str:
        """The same where space is short: "test error" or "test MSE (std.)"."""
        return SHORT_METRICS.get(self.metric, self.metric_name)

    def format_metric(self, value: float | None) -> str:
        """Format a test metric without its unit: an error rate as a percentage, any other metric as it is."""
        if value is None:
            return "–"
        return f"{100 * value:.1f}" if self.metric == "error_rate" else short(value)

    @property
    def unit(self) -> str:
        """The unit of a formatted metric: "%" or nothing."""
        return "%" if self.metric == "error_rate" else ""


def number(value: Any) -> float:
    """`value` as a float; infinity where it is missing or not finite, since smaller is better everywhere."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return math.inf
    try:
        return float(value) if math.isfinite(value) else math.inf
    except OverflowError:  # an integer beyond all floats
        return math.inf


def short(value: float) -> str:
    """Three significant digits, with an exponent only below 0.0001 and from a million on."""
    if 99.95 <= abs(value) < 999_999.5:
        return f"{value:.0f}"
    text = f"{value:#.3g}"
    return text[:-1] if text.endswith(".") else text


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# --- The ranking -----------------------------------------------------------------------------------------------------


def counted(config: Mapping[str, Any], results: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The runs that belong to the study: not those of unknown entrants, data sets or seeds."""
    seeds = range(config["seeds"])
    return [
        run
        for run in results
        if run["dataset"] in config["datasets"] and run["entrant"] in config["entrants"] and run["seed"] in seeds
    ]


def summarize(config: Mapping[str, Any], results: Iterable[Mapping[str, Any]]) -> list[DatasetSummary]:
    """Rank the entrants of every data set by their median test metric.

    Entrants with the same median share a rank; they are listed in order of their median test loss. Entrants without a
    finite median come last and have no rank: first those that diverged or are not finite, then those that failed, then
    those that have not run.
    """
    known = counted(config, results)
    return [
        _summarize_one(config, name, [run for run in known if run["dataset"] == name]) for name in config["datasets"]
    ]


def _summarize_one(config: Mapping[str, Any], dataset: str, runs: Sequence[Mapping[str, Any]]) -> DatasetSummary:
    by_entrant = {entrant: [run for run in runs if run["entrant"] == entrant] for entrant in config["entrants"]}

    def key(entrant: str) -> tuple[float, float, bool, bool]:
        mine = by_entrant[entrant]
        return (
            _median(mine, "test_metric"),
            _median(mine, "test_loss"),
            not any(run["status"] == "ok" for run in mine),
            not mine,
        )

    keys = {entrant: key(entrant) for entrant in config["entrants"]}
    ranks = _ranks({entrant: keys[entrant][0] for entrant in keys})
    # By rank, not by metric: entrants whose metrics differ only by rounding are ordered by their loss.
    ordered = sorted(keys, key=lambda entrant: (ranks.get(entrant, len(keys) + 1), *keys[entrant][1:]))
    reached = _times_to_90(runs)
    rows = tuple(_row(config, entrant, by_entrant[entrant], ranks.get(entrant), reached) for entrant in ordered)
    values = {e: {run["seed"]: _value(run, "test_metric") for run in by_entrant[e]} for e in ordered}
    metric = config["datasets"][dataset]["metric"]
    evidence = weigh(values) if ranks else None
    return DatasetSummary(dataset, metric, rows, len(runs), len(rows) * config["seeds"], evidence)


def _ranks(medians: Mapping[str, float]) -> dict[str, int]:
    """1 plus the number of better entrants, by entrant; equal medians share a rank, infinite ones have none."""
    ranks: dict[str, int] = {}
    ordered = sorted((entrant for entrant in medians if math.isfinite(medians[entrant])), key=medians.__getitem__)
    for place, entrant in enumerate(ordered):
        before = ordered[place - 1]
        tied = place > 0 and math.isclose(medians[entrant], medians[before], rel_tol=TIE)
        ranks[entrant] = ranks[before] if tied else place + 1
    return ranks


def _row(
    config: Mapping[str, Any],
    entrant: str,
    runs: Sequence[Mapping[str, Any]],
    rank: int | None,
    reached: Mapping[tuple[str, int], float],
) -> Row:
    ok = [run for run in runs if run["status"] == "ok"]
    values = [value for run in ok if (value := _value(run, "test_metric")) < math.inf]
    times = sorted(reached.get((entrant, run["seed"]), math.inf) for run in runs)
    return Row(
        entrant=entrant,
        label=config["entrants"][entrant]["label"],
        kind=config["entrants"][entrant]["kind"],
        rank=rank,
        n_ok=len(ok),
        n_failed=len(runs) - len(ok),
        n_diverged=sum(map(_diverged, runs)),
        n_missing=config["seeds"] - len(runs),
        test_metric=_finite(_median(runs, "test_metric")),
        test_metric_min=min(values, default=None),
        test_metric_max=max(values, default=None),
        test_loss=_finite(_median(runs, "test_loss")),
        # The lower median: the time by which at least half of the seeds had reached it.
        time_to_90=_finite(times[(len(times) - 1) // 2]) if times else None,
        n_reached=sum(time < math.inf for time in times),
        seconds=_finite(median(number(run.get("seconds")) for run in ok)) if ok else None,
        forwards=_finite(median(number(run.get("forwards")) for run in ok)) if ok else None,
    )


def _diverged(run: Mapping[str, Any]) -> bool:
    return run["status"] == "ok" and run.get("diverged") is True


def _value(run: Mapping[str, Any], field: str) -> float:
    """What a run counts with: infinity if it failed or diverged."""
    return math.inf if run["status"] != "ok" or _diverged(run) else number(run.get(field))


def _median(runs: Sequence[Mapping[str, Any]], field: str) -> float:
    return median(_value(run, field) for run in runs) if runs else math.inf


def _times_to_90(runs: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], float]:
    """Seconds until each run of one data set came 90% of the way, by (entrant, seed); absent if it never did.

    For each seed, the way leads from the validation metric of the untrained network to the best value that any entrant
    measured with that seed. If no entrant improved on the untrained network, no run has a time.
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


# --- Sentences -------------------------------------------------------------------------------------------------------


def plural(count: int, noun: str) -> str:
    """A count and its noun: "1 seed", "3 seeds"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    """Names as a sentence has them: "A", "A and B", "A, B, C, D, E and 15 more"."""
    shown = list(names) if len(names) <= NAMED + 1 else [*names[:NAMED], f"{len(names) - NAMED} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def headline(summary: DatasetSummary) -> str:
    """State the lowest median, every entrant that shares it, and the best of the other kind."""
    first = [row for row in summary.rows if row.rank == 1]
    if not first:
        return "No optimizer has a finite result yet."

    def value(row: Row) -> str:
        return f"{summary.format_metric(row.test_metric)}{summary.unit}"

    seeds = first[0].n_ok + first[0].n_failed
    over = f"median of {seeds} seeds" if seeds > 1 else "one seed"
    names = _listed([row.label for row in first])
    if len(first) == 1:
        text = f"{names} has the lowest {summary.metric_name}: {value(first[0])} ({over})"
    elif len(first) <= NAMED + 1:
        text = f"{names} tie for the lowest {summary.metric_name}: {value(first[0])} ({over})"
    else:
        text = f"{len(first)} optimizers tie for the lowest {summary.metric_name}, {value(first[0])} ({over}): {names}"
    other = next((row for row in summary.rows if row.rank and row.kind != first[0].kind), None)
    if other and all(row.kind == first[0].kind for row in first):
        text += f"; best {KINDS[other.kind]}: {other.label}, {value(other)}"
    return text + "."


def evidence_text(summary: DatasetSummary) -> str:
    """Say in a few sentences how far the seeds support the ranking; empty if there is nothing to compare."""
    found = summary.evidence
    if found is None:
        return ""
    labels = {row.entrant: row.label for row in summary.rows}
    seeds, leader = "One seed" if found.seeds == 1 else f"{found.seeds} seeds", labels[found.leader]
    others = "the other optimizer" if found.others == 1 else f"the {found.others} other optimizers"
    test = "exact paired signed-rank tests, Holm's correction, 5% level"
    if not found.enough:
        few = "cannot order" if found.seeds == 1 else "are too few to order"
        text = f"{seeds} {few} {found.others + 1} optimizers; an exact paired test needs at least {found.needed}."
        if found.seeds > 1 and found.others > 1:
            text += f" On every seed, {leader} did better than {found.beaten or 'none'} of {others}."
    elif found.unseparated:
        names = _listed([labels[entrant] for entrant in found.unseparated])
        part = others if len(found.unseparated) == found.others else f"{len(found.unseparated)} of {others}"
        text = f"{seeds} do not tell {leader} from {part}: {names} ({test})."
    else:
        text = f"{seeds} tell {leader} from {others} ({test})."
    if found.spread:
        points, spread = " points" if summary.unit else "", summary.format_metric(found.spread)
        another = labels[summary.rows[1].entrant] if found.others == 1 else "another optimizer"
        text += f" The difference between {leader} and {another} varies by {spread}{points} over the seeds"
        text += "." if found.others == 1 else " (median)."
    if found.agreement is not None:
        text += f" The rankings by the even and by the odd seeds have a rank correlation of {found.agreement:.2f}."
    return text
