"""Ranks the entrants of a study on each data set, and describes the ranking in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from popgrad.compare.evidence import Evidence, weigh

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    *("OBJECTIVES", "UNTUNED", "DatasetSummary", "Row"),
    *("counted", "evidence_text", "headline", "number", "plural", "short", "summarize"),
]

METRICS = {"error_rate": "test error", "mse": "test MSE of the standardized target"}
SHORT_METRICS = {"mse": "test MSE (std.)"}
OBJECTIVES = {"error_rate": "error rate", "balanced_error": "balanced error", "f1_macro": "macro F1 (as 1 - F1)"}
KINDS = {"gradient": "gradient method", "search": "search"}
TIE = 1e-6  # medians that differ by less, relatively, are equal: results are stored with 9 digits
NAMED = 5  # entrants that a sentence names; it counts the others
UNTUNED = "Settings are untuned defaults unless the command sets them; tuned optimizers may rank differently."


@dataclass(frozen=True)
class Row:
    """One entrant on one data set.

    A run that failed, diverged or has no finite result counts in medians as worse than any other, so that an entrant
    does not gain from bad seeds that fail. If a median is not finite, it is None. The rank is None without a finite
    metric.
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
    """The ranking on one data set, best first, with the numbers of finished and expected runs and the evidence."""

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
        """A short form of `metric_name`: "test error" or "test MSE (std.)"."""
        return SHORT_METRICS.get(self.metric, self.metric_name)

    def format_metric(self, value: float | None) -> str:
        """Format a test metric without its unit: an error rate in percent, any other metric unscaled."""
        if value is None:
            return "–"
        return f"{100 * value:.1f}" if self.metric == "error_rate" else short(value)

    @property
    def unit(self) -> str:
        """The unit of a formatted metric: "%" or nothing."""
        return "%" if self.metric == "error_rate" else ""


def number(value: Any) -> float:
    """Return `value` as a float, or infinity (the worst value) if it is missing or not finite."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return math.inf
    try:
        return float(value) if math.isfinite(value) else math.inf
    except OverflowError:  # an integer beyond all floats
        return math.inf


def short(value: float) -> str:
    """Format with three significant digits, with an exponent only below 0.0001 and from a million on."""
    if 99.95 <= abs(value) < 999_999.5:
        return f"{value:.0f}"
    text = f"{value:#.3g}"
    return text[:-1] if text.endswith(".") else text


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# --- The ranking -----------------------------------------------------------------------------------------------------


def counted(config: Mapping[str, Any], results: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the runs whose entrant, data set and seed belong to the study."""
    seeds = range(config["seeds"])
    return [
        run
        for run in results
        if run["dataset"] in config["datasets"] and run["entrant"] in config["entrants"] and run["seed"] in seeds
    ]


def summarize(config: Mapping[str, Any], results: Iterable[Mapping[str, Any]]) -> list[DatasetSummary]:
    """Rank the entrants of every data set by their median test metric.

    Entrants with the same median share a rank and are ordered by their median test loss. Entrants without a finite
    median come last and have no rank: first entrants that diverged or are not finite, then failed and missing ones.
    """
    known = counted(config, results)
    return [
        _summarize_one(config, name, [run for run in known if run["dataset"] == name]) for name in config["datasets"]
    ]


def _summarize_one(config: Mapping[str, Any], dataset: str, runs: Sequence[Mapping[str, Any]]) -> DatasetSummary:
    results = [_Result.read(run) for run in runs]
    table = _per_entrant(results, list(config["entrants"]))
    ranks = _ranks(dict(zip(config["entrants"], table["test_metric"], strict=True)))
    # By rank, not by metric: entrants whose metrics differ only by rounding are ordered by their loss.
    table["rank"] = [ranks.get(entrant, len(table) + 1) for entrant in config["entrants"]]
    table["missing"] = (table["n_ok"] == 0).astype(int) + (table["n_runs"] == 0)
    table = table.sort_values(["rank", "test_loss", "missing"], kind="stable")
    rows = tuple(_row(config, str(entrant), ranks, values) for entrant, values in table.iterrows())
    by_seed = {row.entrant: {r.seed: r.test_metric for r in results if r.entrant == row.entrant} for row in rows}
    metric = config["datasets"][dataset]["metric"]
    evidence = weigh(by_seed) if ranks else None
    return DatasetSummary(dataset, metric, rows, len(runs), len(rows) * config["seeds"], evidence)


@dataclass(frozen=True)
class _Result:
    """One run. Its test metric and test loss are infinite if it failed, diverged or has no finite result."""

    entrant: str
    seed: int
    ok: bool
    diverged: bool
    test_metric: float
    test_loss: float
    seconds: float | None
    forwards: float | None
    curve: list[float]
    times: list[Any]

    @classmethod
    def read(cls, run: Mapping[str, Any]) -> _Result:
        ok = run["status"] == "ok"
        diverged = ok and run.get("diverged") is True
        counts = run if ok and not diverged else {}
        return cls(
            entrant=run["entrant"],
            seed=run["seed"],
            ok=ok,
            diverged=diverged,
            test_metric=number(counts.get("test_metric")),
            test_loss=number(counts.get("test_loss")),
            seconds=number(run.get("seconds")) if ok else None,
            forwards=number(run.get("forwards")) if ok else None,
            curve=[number(value) for value in run["curve"]["validation_metric"]] if ok else [],
            times=run["curve"]["seconds"] if ok else [],
        )


def _times_to_90(results: Sequence[_Result]) -> list[float]:
    """Return the seconds until each run had made 90% of the possible improvement; infinity if it never did.

    With each seed, the possible improvement is from the validation metric of the untrained network to the best value
    that any entrant measured. If no entrant improved on the untrained network, no run has a time.
    """
    best: dict[int, float] = {}
    for run in results:
        best[run.seed] = min([best.get(run.seed, math.inf), *run.curve])
    times = []
    for run in results:
        first, lowest = next(iter(run.curve), math.inf), best[run.seed]
        goal = first - 0.9 * (first - lowest) if lowest < first < math.inf else -math.inf
        reached = (seconds for value, seconds in zip(run.curve, run.times, strict=False) if value <= goal)
        times.append(number(next(reached, None)))
    return times


def _per_entrant(results: Sequence[_Result], entrants: list[str]) -> DataFrame:
    """Return counts and medians over the seeds, with one row for each entrant, in the order given."""
    from pandas import DataFrame

    runs = DataFrame(results, columns=[field.name for field in fields(_Result)])
    runs = runs.astype({"seconds": float, "forwards": float}).assign(time_to_90=_times_to_90(results))
    runs["reached"] = runs["time_to_90"] < math.inf
    runs["finite"] = runs["test_metric"].where(runs["test_metric"] < math.inf)
    grouped = runs.groupby("entrant")
    medians = grouped[["test_metric", "test_loss", "seconds", "forwards"]].median()
    table = medians.assign(
        test_metric_min=grouped["finite"].min(),
        test_metric_max=grouped["finite"].max(),
        # The lower median: the time by which at least half of the seeds had reached it.
        time_to_90=grouped["time_to_90"].quantile(0.5, interpolation="lower"),
    )
    counts = grouped[["ok", "diverged", "reached"]].sum().add_prefix("n_").assign(n_runs=grouped.size())
    counts = counts.reindex(entrants, fill_value=0).astype(int)
    return table.reindex(entrants).fillna({"test_metric": math.inf, "test_loss": math.inf}).join(counts)


def _ranks(medians: Mapping[str, float]) -> dict[str, int]:
    """Return 1 plus the number of better entrants; equal medians share a rank, infinite medians have none."""
    ranks: dict[str, int] = {}
    ordered = sorted((entrant for entrant in medians if math.isfinite(medians[entrant])), key=medians.__getitem__)
    for place, entrant in enumerate(ordered):
        before = ordered[place - 1]
        tied = place > 0 and math.isclose(medians[entrant], medians[before], rel_tol=TIE)
        ranks[entrant] = ranks[before] if tied else place + 1
    return ranks


def _row(config: Mapping[str, Any], entrant: str, ranks: Mapping[str, int], values: Any) -> Row:
    shared = ("test_metric", "test_metric_min", "test_metric_max", "test_loss", "time_to_90", "seconds", "forwards")
    runs, ok = int(values["n_runs"]), int(values["n_ok"])
    return Row(
        entrant=entrant,
        label=config["entrants"][entrant]["label"],
        kind=config["entrants"][entrant]["kind"],
        rank=ranks.get(entrant),
        n_ok=ok,
        n_failed=runs - ok,
        n_diverged=int(values["n_diverged"]),
        n_missing=config["seeds"] - runs,
        n_reached=int(values["n_reached"]),
        **{name: _finite(float(values[name])) for name in shared},
    )


# --- Sentences -------------------------------------------------------------------------------------------------------


def plural(count: int, noun: str) -> str:
    """Return a count and its noun: "1 seed", "3 seeds"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    """Join names: "A", "A and B", "A, B, C, D, E and 15 more"."""
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
    """Return sentences about how well the seeds support the ranking; empty if there is nothing to compare."""
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
