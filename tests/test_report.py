"""The study's summary and its page, on a synthetic study of 11 gradient methods and 8 searches."""

from __future__ import annotations

import copy
import json
import math
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from popgrad.checks import InputError
from popgrad.compare.files import read_config, read_results
from popgrad.compare.report import write_report
from popgrad.compare.summary import headline, summarize
from popgrad.compare.table import COLUMNS, cells, table

GRADIENT = {
    # label: how fast it learns, the test error where it ends
    "GD": (0.02, 0.09),
    "SGD": (0.3, 0.045),
    "Mini-batch GD": (0.25, 0.042),
    "Momentum": (0.5, 0.036),
    "Heavy ball": (1.2, 0.031),
    "Nesterov": (1.3, 0.03),
    "AdaGrad": (0.6, 0.04),
    "AdaDelta": (0.01, 0.62),
    "RMSprop": (2.0, 0.028),
    "Adam": (2.2, 0.022),
    "AdamW": (2.1, 0.025),
}
SEARCH = {
    "Genetic algorithm": (0.004, 0.28),
    "Particle swarm": (0.003, 0.35),
    "Differential evolution": (0.0012, 0.66),
    "Ant colony (ACO_R)": (0.0008, 0.74),
    "Simulated annealing": (0.004, 0.24),
    "Tabu search": (0.002, 0.5),
    "OpenAI-ES": (0.012, 0.091),
    "Random search": (0.0004, 0.85),
}
BUDGET = 3_000_000
DIGITS = {
    "task": "classification",
    "rows": 1797,
    "features": 64,
    "classes": 10,
    "metric": "error_rate",
    "train": 1077,
    "validation": 360,
    "test": 360,
}


def make_config(labels: dict[str, str], datasets: dict[str, dict], **more) -> dict:
    return {
        "format": 1,
        "version": "0.1.0",
        "name": "synthetic",
        "command": "popgrad compare digits --seeds 3 --name synthetic",
        "objective": "loss",
        "budget": BUDGET,
        "seeds": 3,
        "hidden": [32],
        "activation": "relu",
        "dtype": "float32",
        "datasets": datasets,
        "entrants": {
            label.lower().replace(" ", "_"): {
                "kind": kind,
                "label": label,
                "settings": f"{label.replace(' ', '')}(learning_rate=0.001, beta1=0.9, beta2=0.999, epsilon=1e-08)",
                "batch_size": 32 if kind == "gradient" else None,
            }
            for label, kind in labels.items()
        },
        "machine": {"processor": "Example CPU @ 2.6 GHz", "cores": 2, "memory_gib": 24, "isa": "avx512"},
    } | more


def one_run(dataset: str, entrant: str, seed: int, metrics, seconds=None, **more) -> dict:
    """A finished run whose validation metric is `metrics`, its last value being the test metric too."""
    metrics = list(metrics)
    seconds = list(range(len(metrics))) if seconds is None else list(seconds)
    forwards = [BUDGET * i // max(len(metrics) - 1, 1) for i in range(len(metrics))]
    return {
        "dataset": dataset,
        "entrant": entrant,
        "seed": seed,
        "status": "ok",
        "error": None,
        "test_metric": metrics[-1],
        "test_loss": metrics[-1],
        "validation_metric": metrics[-1],
        "validation_loss": metrics[-1],
        "train_loss": metrics[-1],
        "forwards": forwards[-1],
        "evaluations": 10,
        "seconds": seconds[-1],
        "nonfinite": 0,
        "curve": {
            "forwards": forwards,
            "seconds": seconds,
            "loss": metrics,
            "validation_loss": metrics,
            "validation_metric": metrics,
        },
    } | more


def failed_run(dataset: str, entrant: str, seed: int, error: str) -> dict:
    nothing = dict.fromkeys(("test_metric", "test_loss", "validation_metric", "seconds", "forwards"))
    return {
        "dataset": dataset,
        "entrant": entrant,
        "seed": seed,
        "status": "failed",
        "error": error,
        "curve": None,
    } | nothing


def learning_run(dataset: str, label: str, seed: int, regression: bool) -> dict:
    """A run as it may look: losses that fall, overfit, or run away."""
    speed, end = (GRADIENT | SEARCH)[label]
    gradient = label in GRADIENT
    rng = np.random.default_rng([seed, len(label), ord(label[0]), ord(label[-1])])
    epoch = 1077 * (3 if gradient else 64)
    forwards = np.unique(np.r_[0, np.geomspace(epoch, BUDGET, 50).astype(int) // epoch * epoch])
    steps = forwards / 1077
    speed *= math.exp(rng.normal(0, 0.25))
    start = 1.0 if regression else 2.45 + 0.1 * rng.standard_normal()
    floor = 0.42 + end / 2 if regression else 0.0 if gradient else 2.2 * end
    loss = floor + (start - floor) / (1 + speed * steps) ** (1.3 if gradient else 0.8)
    loss *= np.exp(0.03 * rng.standard_normal(len(loss)).cumsum() / 3)
    validation = loss + (0.08 + 2.2 * end) * (1 - np.exp(-speed * steps / 20)) * (0.3 if regression else 1)
    chance = 1.0 if regression else 0.9
    metric = end + (chance - end) / (1 + speed * steps) ** 1.6 + 0.004 * rng.random(len(loss))
    metric = validation if regression else np.round(metric * 360) / 360
    if label == "Heavy ball" and seed == 1:
        loss[4:] *= np.exp(np.arange(len(loss) - 4.0) * 3)
        loss[30:] = math.nan
        validation = loss
    curve = {
        "forwards": forwards.tolist(),
        "seconds": np.round(steps * (0.002 if gradient else 0.0005) * 1.1**seed, 5).tolist(),
        "loss": loss.tolist(),
        "validation_loss": validation.tolist(),
        "validation_metric": metric.tolist(),
    }
    curve = {key: [v if math.isfinite(v) else None for v in values] for key, values in curve.items()}
    test = float(np.round(min(end * math.exp(rng.normal(0, 0.12)), 0.92) * 360) / 360)
    return one_run(dataset, label.lower().replace(" ", "_"), seed, metric.tolist()) | {
        "test_metric": float(validation[-1]) if regression else test,
        "test_loss": curve["validation_loss"][-1],
        "seconds": curve["seconds"][-1],
        "forwards": int(forwards[-1]),
        "curve": curve,
    }


def write_study(folder: Path, config: dict, runs: list[dict], torn: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "results.jsonl").write_text("".join(json.dumps(run) + "\n" for run in runs) + torn)
    return folder


def full_study(folder: Path, datasets: tuple[str, ...] = ("digits",), **more) -> Path:
    """19 entrants x 3 seeds; seed 2 of AdaDelta failed, the last line is torn."""
    labels = dict.fromkeys(GRADIENT, "gradient") | dict.fromkeys(SEARCH, "search")
    about = dict.fromkeys(datasets, DIGITS)
    if "diabetes" in about:
        about["diabetes"] = DIGITS | {"task": "regression", "metric": "mse", "classes": None}
    config = make_config(labels, about, **more)
    runs = [
        learning_run(name, label, seed, name == "diabetes")
        for name in datasets
        for label in labels
        for seed in range(3)
        if (label, seed) != ("AdaDelta", 2)
    ]
    runs.append(failed_run(datasets[0], "adadelta", 2, "[fit] nothing finite is left <b>here</b>"))
    torn = json.dumps(runs[0])[:300]
    return write_study(folder, config, runs, torn)


def small(runs: list[dict], labels: str = "ABC", seeds: int = 1, **about):
    """Entrants A, B, ... on one data set "data"; lower-case names. Returns (config, summary)."""
    config = make_config(dict.fromkeys(labels, "gradient"), {"data": DIGITS | about}, seeds=seeds)
    return config, summarize(config, runs)[0]


def run_of(entrant: str, metric, loss=1.0, seed: int = 0) -> dict:
    return one_run("data", entrant, seed, [0.9, 0.5]) | {"test_metric": metric, "test_loss": loss}


def test_rank_is_by_median_metric_and_the_loss_orders_what_ties():
    runs = [
        *(run_of("a", metric, 0.1, seed) for seed, metric in enumerate([0.1, 0.9, 0.3])),
        *(run_of("b", metric, 9.0, seed) for seed, metric in enumerate([0.2, 0.2, 0.8])),
        *(run_of("c", 0.3, loss, seed) for seed, loss in enumerate([0.05, 0.09, 5.0])),
    ]
    _, summary = small(runs, seeds=3)
    assert [(row.entrant, row.rank) for row in summary.rows] == [("b", 1), ("c", 2), ("a", 2)]
    a = summary.rows[2]
    assert (a.test_metric, a.test_metric_min, a.test_metric_max) == (0.3, 0.1, 0.9)
    assert (summary.finished, summary.expected) == (9, 9)


def test_equal_metrics_share_a_rank_and_the_headline():
    _, summary = small([run_of("a", 0.2, loss=2.0), run_of("b", 0.2, loss=1.0), run_of("c", 0.3)])
    assert [(row.entrant, row.rank) for row in summary.rows] == [("b", 1), ("a", 1), ("c", 3)]
    assert headline(summary) == "B and A tie for the lowest test error: 20.0% (one seed)."


def test_rounding_does_not_break_a_tie():
    # The same mean of two error rates, summed in another order.
    runs = [run_of("a", 0.1, 1.0, 0), run_of("a", 0.5, 1.0, 1), run_of("b", 0.2, 0.5, 0), run_of("b", 0.4, 0.5, 1)]
    assert (0.1 + 0.5) / 2 != (0.2 + 0.4) / 2
    _, summary = small(runs, "AB", seeds=2)
    assert [(row.entrant, row.rank) for row in summary.rows] == [("b", 1), ("a", 1)]


def test_many_ties_are_counted_and_some_named():
    runs = [run_of(name, 0.0, loss) for loss, name in enumerate("abcdefgh")]
    text = headline(small(runs, "ABCDEFGH")[1])
    assert text == "8 optimizers tie for the lowest test error, 0.0% (one seed): A, B, C, D, E and 3 more."


def test_diverged_runs_count_as_worse_than_any_other():
    wild = {"diverged": True}
    runs = [run_of("a", 0.01, 0.01, seed) | wild for seed in range(3)]
    runs += [run_of("b", 0.1 + 0.1 * seed, 1.0, seed) | (wild if seed == 0 else {}) for seed in range(3)]
    runs += [run_of("c", 0.4, 1.0, seed) for seed in range(3)]  # without the key, as older studies are
    runs += [failed_run("data", "d", seed, "boom") for seed in range(3)]
    config, summary = small(runs, "ABCD", seeds=3)
    assert [(row.entrant, row.rank) for row in summary.rows] == [("b", 1), ("c", 2), ("a", None), ("d", None)]
    b, _, a, _ = summary.rows
    assert (b.test_metric, b.test_metric_min, b.n_diverged) == (pytest.approx(0.3), 0.2, 1)
    assert (a.test_metric, a.test_metric_min, a.n_ok, a.n_diverged) == (None, None, 3, 3)
    assert a.seconds is not None
    assert [cells(summary, row)[1] for row in summary.rows] == [
        *("B (1 of 3 diverged)", "C", "A (3 of 3 diverged)", "D (3 of 3 failed)"),
    ]
    assert "a smaller learning rate may help" in str(table(summary, config).caption)


def test_the_page_marks_what_diverged(tmp_path):
    config, _ = small([], "AB", seeds=2)
    runs = [run_of("a", 0.2, seed=seed) | {"diverged": True} for seed in range(2)] + [run_of("b", 0.3)]
    page = write_report(write_study(tmp_path, config, runs)).read_text()
    assert "A (2 of 2 diverged)" in page
    strip = figures_of(page)["d0-strip"]
    assert [text.endswith(", diverged") for text in strip["data"][1]["text"]] == [False, True, True]
    assert strip["data"][1]["marker"]["symbol"][1:] == ["x-thin", "x-thin"]
    assert "× is a run that diverged" in page
    page = write_report(write_study(tmp_path, config, [run_of("b", 0.3)])).read_text()
    assert "diverged</h3>" not in page


def test_failed_not_finite_and_missing_entrants_come_last_and_have_no_rank():
    runs = [failed_run("data", "a", 0, "boom"), run_of("b", None, None), run_of("c", 0.5)]
    config, summary = small(runs, "DABC")
    assert [(row.entrant, row.rank) for row in summary.rows] == [
        *[("c", 1), ("b", None), ("a", None), ("d", None)],
    ]
    shown = [cells(summary, row) for row in summary.rows]
    assert [row[1] for row in shown] == ["C", "B", "A (1 of 1 failed)", "D (not run yet)"]
    assert shown[1][3] == shown[2][3] == shown[3][3] == "–"
    assert (summary.finished, summary.expected) == (3, 4)
    table(summary, config)


def test_a_failed_seed_counts_as_worse_than_any_other():
    failed = failed_run("data", "a", 1, "boom")
    runs = [run_of("a", 0.1, seed=0), failed, run_of("a", 0.4, seed=2)]
    row = small(runs, "A", seeds=3)[1].rows[0]
    assert (row.test_metric, row.test_metric_max, row.n_ok, row.n_failed) == (0.4, 0.4, 2, 1)
    row = small(runs[1:], "A", seeds=3)[1].rows[0]
    assert (row.test_metric, row.rank, row.n_missing) == (None, None, 1)


def test_time_to_90_by_hand():
    # The best on seed 0 is 0.05, so 90 % of the way from 1.0 is at 0.145; on seed 1 it is 0, hence 0.1.
    runs = [
        one_run("data", "a", 0, [1.0, 0.5, 0.14, 0.05], [0, 1.5, 2.5, 3]),
        one_run("data", "b", 0, [1.0, 0.15, 0.15, 0.15], [0, 1, 2, 3]),
        one_run("data", "a", 1, [1.0, 0.5, 0.2, 0.11], [0, 1, 2, 3]),
        one_run("data", "b", 1, [1.0, None, 0.1, 0.0], [0, 1, 2, 3]),
        one_run("data", "b", 2, [1.0, 1.0, 1.0, 1.0], [0, 1, 2, 3]),
    ]
    rows = {row.entrant: row for row in small(runs, "AB", seeds=3)[1].rows}
    assert (rows["a"].time_to_90, rows["a"].n_reached) == (2.5, 1)
    assert (rows["b"].time_to_90, rows["b"].n_reached) == (None, 1)


def test_the_holder_of_the_best_reaches_it_and_a_median_over_seeds_is_taken():
    curves = [[0.7, 0.3, 0.1], [0.7, 0.1, 0.1], [0.7, 0.5, 0.1]]
    runs = [one_run("data", "a", seed, curve, [0, 1 + seed, 10 + seed]) for seed, curve in enumerate(curves)]
    row = small(runs, "A", seeds=3)[1].rows[0]
    assert (row.time_to_90, row.n_reached) == (10, 3)


def test_reader_skips_torn_lines_and_repeated_runs(tmp_path):
    first, second = run_of("a", 0.25), run_of("a", 0.75)
    torn = json.dumps(run_of("b", 0.5))
    lines = [json.dumps(first), torn[:90], "17", "", '{"dataset": ["x"]}', json.dumps(second), torn[:-1]]
    (tmp_path / "results.jsonl").write_bytes("\n".join(lines).encode() + b"\xc3")
    assert read_results(tmp_path) == [first]
    assert read_results(tmp_path / "nothing") == []


def test_runs_of_unknown_entrants_are_not_counted(tmp_path):
    config, summary = small([run_of("a", 0.2), run_of("zzz", 0.1), run_of("a", 0.1, seed=7)], "A")
    assert (summary.finished, summary.rows[0].test_metric) == (1, 0.2)
    write_report(write_study(tmp_path, config, [run_of("a", 0.2), run_of("zzz", 0.1)]))


def test_headline_names_the_winner_and_the_best_of_the_other_kind(tmp_path):
    folder = full_study(tmp_path)
    summary = summarize(json.loads((folder / "config.json").read_text()), read_results(folder))[0]
    pattern = r"AdamW? has the lowest test error: \d\.\d% \(median of 3 seeds\); best search: OpenAI-ES, [\d.]+%\."
    assert re.fullmatch(pattern, headline(summary))
    assert headline(small([])[1]) == "No optimizer has a finite result yet."


def printed(path: Path, shown, width: int) -> list[str]:
    with path.open("w") as file:
        Console(file=file, width=width).print(shown)
    return path.read_text().splitlines()


@pytest.mark.parametrize("width", [None, 48, 60, 70, 80, 100, 140])
@pytest.mark.parametrize("dataset", ["digits", "diabetes"])
def test_terminal_table_fits_and_keeps_every_name_whole(tmp_path, width, dataset):
    folder = full_study(tmp_path, (dataset,))
    config = read_config(folder)
    summary = summarize(config, read_results(folder))[0]
    lines = printed(tmp_path / "out", table(summary, config, width), width or 100)
    assert max(len(line) for line in lines) <= (width or 100)
    assert not any("…" in line for line in lines)
    for row in summary.rows:
        assert sum(bool(re.match(rf" *{row.rank} {re.escape(row.label)}( |$)", line)) for line in lines) == 1
    ranked = [line.split() for line in lines if re.match(r" ?\d+ [A-Z]", line)]
    assert [line[0] for line in ranked] == [str(row.rank) for row in summary.rows]
    if width in (None, 100, 140):
        assert sum("gradient" in line for line in ranked) == 11
        assert sum("search" in line for line in ranked) >= 8


def test_a_narrow_table_drops_columns_in_order(tmp_path):
    folder = full_study(tmp_path)
    config = read_config(folder)
    summary = summarize(config, read_results(folder))[0]
    order = ["kind", "forwards", "seconds", "test loss", "min–max"]
    sets = []
    for width in range(140, 0, -1):
        headings = [str(column.header).replace("\n", " ") for column in table(summary, config, width).columns]
        assert headings == [heading for heading in COLUMNS if heading in headings]
        sets.append([heading for heading in COLUMNS if heading not in headings])
    seen = sorted({len(dropped): sorted(dropped) for dropped in sets}.items())
    assert seen == [(count, sorted(order[:count])) for count in range(6)]
    assert [len(dropped) for dropped in sets] == sorted(len(dropped) for dropped in sets)
    # Even where nothing is left to drop the names are there.
    for width in (40, 30):
        lines = printed(tmp_path / "out", table(summary, config, width), width)
        assert all(any(row.label in line for line in lines) for row in summary.rows)
        assert max(len(line) for line in lines) <= width


def test_the_terminal_says_what_searches_minimized(tmp_path):
    said = "Searches minimized the {} on the training data; gradient methods minimized their loss."
    names = {"error_rate": "error rate", "balanced_error": "balanced error", "f1_macro": "macro F1 (as 1 - F1)"}
    for objective in (*names, "loss"):
        config, summary = small([run_of("a", 0.2)])
        caption = str(table(summary, config | {"objective": objective}).caption)
        assert [name for name in names if said.format(names[name]) in caption] == [objective] * (objective != "loss")


def own_part(page: str) -> str:
    """The page without plotly's source, which occurs in it exactly once."""
    from plotly.offline import get_plotlyjs

    before, after = page.split(get_plotlyjs())
    return before + after


def figures_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.S)[1])


def test_page_is_self_contained_and_names_everything(tmp_path):
    folder = full_study(tmp_path)
    path = write_report(folder)
    assert path == folder / "report.html"
    page = own_part(path.read_text())
    assert "http:" not in page
    assert "https:" not in page
    assert re.findall(r"(?:src|href|action|url)\s*[=(]\s*[\"']?[^\s>]*", page) == ['href="data:,"']
    assert "default-src 'none'" in page
    assert "displaylogo: false, showSendToCloud: false" in page
    for label in GRADIENT | SEARCH:
        assert page.count(f">{label}</button>") == 1
        assert page.count(f"<code>{label.replace(' ', '')}(learning_rate=0.001") == 1
    assert "popgrad compare digits --seeds 3 --name synthetic" in page
    assert "Example CPU @ 2.6 GHz" in page
    assert "[fit] nothing finite is left &lt;b&gt;here&lt;/b&gt;" in page
    assert "AdaDelta (1 of 3 failed)" in page
    assert "Incomplete" not in page
    assert sorted(entry.name for entry in folder.iterdir()) == ["config.json", "report.html", "results.jsonl"]


def test_same_study_gives_the_same_bytes(tmp_path):
    folder = full_study(tmp_path, ("digits", "diabetes"))
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


def test_incomplete_study_says_so(tmp_path):
    folder = full_study(tmp_path)
    path = folder / "results.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:17]))
    page = write_report(folder).read_text()
    assert "Incomplete: 17 of 57 runs finished" in page
    assert "Adam (not run yet)" in page
    path.unlink()
    page = write_report(folder).read_text()
    assert "Incomplete: 0 of 57 runs finished" in page
    assert figures_of(page) == {}


@pytest.mark.parametrize(("objective", "name"), [("error_rate", "error rate"), ("f1_macro", "macro F1 (as 1 - F1)")])
def test_an_objective_beside_the_loss_is_explained_and_drawn(tmp_path, objective, name):
    page = write_report(full_study(tmp_path, objective=objective)).read_text()
    assert "gradient methods minimize the loss instead" in page
    assert f"Searches minimize the {name} on" in page
    assert f"the one with the best validation {name} is the result" in page
    assert "d0-validation_metric-forwards" in figures_of(page)
    page = write_report(full_study(tmp_path)).read_text()
    assert "gradient methods minimize the loss instead" not in page
    assert "d0-validation_metric-forwards" not in figures_of(page)


def test_lines_hold_the_last_measurement_and_colors_stay(tmp_path):
    config, _ = small([], "AB", seeds=3)
    runs = [one_run("data", "a", seed, [8, 4 + seed, 2 + seed], [0, 1, 100]) for seed in range(3)]
    runs.append(one_run("data", "b", 0, [8, None, 1e30], [0, 2, 50]))
    figures = figures_of(write_report(write_study(tmp_path, config, runs)).read_text())
    band, line = (
        next(
            trace
            for trace in figures["d0-loss-seconds"]["data"]
            if trace["meta"]["entrant"] == "a" and trace["meta"]["band"] == wanted
        )
        for wanted in (True, False)
    )
    at = dict(zip(line["x"], line["y"], strict=True))
    assert {value for x, value in at.items() if x < 1} == {8}
    assert {value for x, value in at.items() if 1 <= x < 100} == {5}
    assert at[100] == 3
    assert (min(band["y"]), max(band["y"])) == (2, 8)
    other = next(t for t in figures["d0-loss-seconds"]["data"] if t.get("name") == "B")
    assert None in other["y"]
    assert other["x"][-1] == pytest.approx(50, rel=0.1)
    colors = {
        name: {t["line"]["color"] for t in figure["data"] if t.get("name") == "A"}
        for name, figure in figures.items()
        if name != "d0-strip"
    }
    assert len(set.union(*colors.values())) == 1
    assert set(figures["d0-strip"]["data"][1]["marker"]["color"][:3]) == set.union(*colors.values())


def test_strip_has_a_mark_per_seed_and_says_what_cannot_be_shown(tmp_path):
    config, _ = small([], "ABCD", seeds=2, metric="mse")
    runs = [run_of("a", value, seed=seed) for seed, value in enumerate([0.5, 0.7])]
    runs += [run_of("b", 1e12), run_of("b", 1e13, seed=1), run_of("c", None)]
    strip = figures_of(write_report(write_study(tmp_path, config, runs)).read_text())["d0-strip"]
    assert strip["layout"]["yaxis"]["ticktext"] == ["A", "B", "C", "D"]
    assert strip["data"][1]["x"] == [0.5, 0.7]
    assert strip["data"][0]["x"] == [0.6]
    notes = [(note["y"], note["text"]) for note in strip["layout"]["annotations"]]
    assert notes == [(1, "off the scale"), (2, "no finite result"), (3, "not run yet")]


EVIL = "</script><script>alert(1)</script>"


def evil_study(folder: Path) -> Path:
    label = "<img src=x onerror=alert(1)>"
    config = make_config({label: "search", "B": "gradient"}, {EVIL: DIGITS}, name=EVIL, command=EVIL)
    config["machine"][EVIL] = EVIL
    runs = [one_run(EVIL, entrant, 0, [0.9, 0.2, 0.1]) for entrant in config["entrants"]]
    return write_study(folder, config, [*runs, failed_run(EVIL, "b", 1, EVIL)])


def test_names_are_escaped(tmp_path):
    page = own_part(write_report(evil_study(tmp_path)).read_text())
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert "<img" not in page
    # Plotly reads a little HTML of its own in what it shows.
    figures = figures_of(page)
    traces = [trace for figure in figures.values() for trace in figure["data"]]
    shown = [trace.get(field) for trace in traces for field in ("name", "text", "hovertemplate")]
    shown = json.dumps([shown, figures["d0-strip"]["layout"]])
    assert shown.count("&lt;img") >= 4 * 2 + 2
    assert "<img" not in shown


@pytest.mark.parametrize("module", ["jinja2", "plotly.offline"])
def test_missing_extra_gives_the_line_that_installs_it(tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=r"is missing; install it with: pip install plotly jinja2"):
        write_report(full_study(tmp_path))


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"\[report\] '.*' holds no study: No such file.* \(config.json\)"):
        write_report(tmp_path)
    for content in (b"{", b"\xff", b"[" * 100_000):
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(InputError, match=r"\[report\] '.*config.json' is not valid JSON"):
            write_report(tmp_path)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda c: 17, "it is not a JSON object"),
        (lambda c: {"format": 1}, "version is missing"),
        (lambda c: c | {"format": 2}, "format is 2"),
        (lambda c: c | {"seeds": "3"}, "seeds is '3', expected int"),
        (lambda c: c | {"budget": True}, "budget is True"),
        (lambda c: c | {"datasets": []}, r"datasets is \[\]"),
        (lambda c: c | {"datasets": {"data": 1}}, "datasets.data is not a JSON object"),
        (lambda c: c | {"datasets": {"data": {"task": "x"}}}, "datasets.data.metric is missing"),
        (lambda c: c["entrants"]["a"].pop("label") and c, "entrants.a.label is missing"),
        (lambda c: c["entrants"]["a"].update(kind="wild") or c, "entrants.a.kind is 'wild', expected gradient or"),
        (lambda c: c["entrants"]["a"].update(batch_size="all") or c, r"entrants.a.batch_size is .* int \| None"),
        *((lambda c, key=key: c.pop(key) and c, f"{key} is missing") for key in ("entrants", "objective", "hidden")),
        *((lambda c, key=key: c.pop(key) and c, f"{key} is missing") for key in ("name", "command", "machine")),
    ],
)
def test_a_damaged_configuration_is_refused_by_what_is_wrong_in_it(tmp_path, damage, named):
    config, _ = small([])
    write_study(tmp_path, config, [])
    assert read_config(tmp_path) == config
    write_study(tmp_path, damage(copy.deepcopy(config)), [])
    with pytest.raises(InputError, match=r"\[report\] .* was not written by this version of popgrad: .*" + named):
        write_report(tmp_path)


def places(value, path=()):
    """The path of every value inside nested dicts and lists."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(value[key], (*path, key))


def damaged(value, path, new):
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if new is places:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return value


def test_whatever_is_damaged_gives_a_page_or_a_message(tmp_path, monkeypatch):
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "")
    config, _ = small([], "AB", classes=None)
    runs = [one_run("data", "a", 0, [0.9, 0.5]), failed_run("data", "b", 0, "x")]
    refused = 0
    for new in (places, None, 10**400, "\ud800"):
        for path in places(config):
            try:
                folder = write_study(tmp_path, damaged(config, path, new), runs)
                write_report(folder)
                shown = read_config(folder)
                for summary in summarize(shown, read_results(folder)):
                    table(summary, shown)
            except InputError:
                refused += 1
        for path in places(runs):
            folder = write_study(tmp_path, config, damaged(runs, path, new))
            write_report(folder)
            table(summarize(config, read_results(folder))[0], config)
    assert refused > 60


def test_a_line_that_is_no_complete_run_is_skipped(tmp_path):
    whole = one_run("data", "a", 0, [0.9, 0.5])
    curve = whole["curve"]
    broken = [
        {"dataset": "data", "entrant": "a", "seed": 0, "status": "ok"},
        *(whole | {"curve": wrong} for wrong in (None, 3, [], {}, curve | {"loss": 1}, curve | {"seconds": [0.0]})),
        *(whole | {"seed": wrong} for wrong in ("0", 0.0, True, None)),
        *(whole | {key: ["a"]} for key in ("dataset", "entrant", "status")),
    ]
    failed = failed_run("data", "b", 0, "x")
    config, _ = small([], "AB")
    folder = write_study(tmp_path, config, [*broken, whole, failed])
    assert read_results(folder) == [whole, failed]
    assert "Incomplete" not in own_part(write_report(folder).read_text())


def test_results_that_cannot_be_read_are_an_input_error(tmp_path, monkeypatch):
    config, _ = small([])
    folder = write_study(tmp_path, config, [])

    def denied(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(InputError, match=r"\[report\] cannot read '.*results.jsonl': Permission denied"):
        write_report(folder)
    monkeypatch.undo()
    (folder / "results.jsonl").unlink()
    (folder / "results.jsonl").mkdir()
    with pytest.raises(InputError, match=r"cannot read '.*results.jsonl': Is a directory"):
        write_report(folder)


def test_a_regression_names_the_standardized_target_everywhere(tmp_path):
    folder = full_study(tmp_path, ("digits", "diabetes"))
    config = read_config(folder)
    digits, diabetes = summarize(config, read_results(folder))
    long = "test MSE of the standardized target"
    assert long in headline(diabetes)
    assert str(table(diabetes, config).title) == f"diabetes: {long}, smaller is better"
    page = write_report(folder).read_text()
    parts = own_part(page).split("<section data-dataset>")
    for part, count in ((parts[1], 0), (parts[2].split("</section>")[0], 1)):
        assert part.count(f"Ranking by median {long} (smaller is better)") == count
        assert part.count(f"<h3>T{long[1:]}: one mark per seed") == count
        assert (
            part.count("always predicts the training mean has an MSE of about 1, and 1 − MSE is approximately R²")
            == count
        )
    figures = figures_of(page)
    assert figures["d1-strip"]["layout"]["xaxis"]["title"].startswith("test MSE (std.)")
    titles = {name: figure["layout"]["yaxis"]["title"] for name, figure in figures.items() if "loss" in name}
    assert {name for name, title in titles.items() if "loss, MSE (std.)" in title} == {
        name for name in titles if name.startswith("d1")
    }
    assert "MSE" not in headline(digits) + str(table(digits, config).title)


def test_several_instruction_sets_are_said_to_be_incomparable(tmp_path):
    config, _ = small([], "AB", seeds=3)
    runs = [run_of("a", 0.2, seed=seed) for seed in range(3)]
    warning = "several instruction sets: avx512, baseline. Their times are not comparable"
    for isas, wanted in (
        ([None, None, None], False),
        (["avx512", None, "avx512"], False),
        (["baseline", "avx512", "baseline"], True),
    ):
        marked = [run | ({"isa": isa} if isa else {}) for run, isa in zip(runs, isas, strict=True)]
        # Neither a failed run nor one of another study has times to compare.
        others = [failed_run("data", "b", 0, "x") | {"isa": "sse"}, run_of("zzz", 0.1) | {"isa": "neon"}]
        page = own_part(write_report(write_study(tmp_path, config, marked + others)).read_text())
        assert (warning in page, "several instruction sets" in page) == (wanted, wanted)
        assert "neon" not in page


def test_a_command_that_is_no_text_is_shown_all_the_same(tmp_path):
    config, _ = small([])
    page = write_report(write_study(tmp_path, config | {"command": "popgrad compare \udcff.csv"}, []))
    assert "popgrad compare ?.csv" in page.read_text(encoding="utf-8")


def test_the_last_good_report_survives_a_failed_write(tmp_path, monkeypatch):
    folder = full_study(tmp_path)
    write_report(folder).write_text("good")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot write .*No space left"):
        write_report(folder)
    assert (folder / "report.html").read_text() == "good"
    assert sorted(entry.name for entry in folder.iterdir()) == ["config.json", "report.html", "results.jsonl"]


# --- What a reader meets ---------------------------------------------------------------------------------------------


def test_page_and_terminal_say_what_the_ranking_rests_on(tmp_path):
    folder = full_study(tmp_path)
    config = read_config(folder)
    summary = summarize(config, read_results(folder))[0]
    page = " ".join(own_part(write_report(folder).read_text()).split())
    caption = " ".join(str(table(summary, config).caption).split())
    for said in (
        headline(summary),
        "3 seeds are too few to order 19 optimizers; an exact paired test needs at least 13.",
        "Settings are untuned defaults unless the command sets them",
    ):
        assert said in page
        assert said in caption


def test_a_section_says_what_is_predicted_from_what(tmp_path):
    labels = {"A": "gradient"}
    about = DIGITS | {"target": "price & <tax>", "columns": 9, "notes": ["The column “id” was <dropped>."]}
    config = make_config(labels, {"data": about})
    page = " ".join(own_part(write_report(write_study(tmp_path, config, [])).read_text()).split())
    assert (
        "Classification of the column “price &amp; &lt;tax&gt;” (10 classes): 1,797 rows, 9 columns that make "
        "64 features. Each split has 1,077 rows for training, 360 for validation and 360 for the test." in page
    )
    assert "The column “id” was &lt;dropped&gt;." in page
    # Studies made before these keys existed.
    page = " ".join(
        own_part(write_report(write_study(tmp_path, make_config(labels, {"data": DIGITS}), [])).read_text()).split()
    )
    assert "Classification (10 classes): 1,797 rows, 64 features." in page


def test_counts_have_the_right_number(tmp_path):
    about = DIGITS | {"rows": 1, "features": 1, "train": 1}
    page = write_report(write_study(tmp_path, make_config({"A": "gradient"}, {"data": about}, seeds=1), [])).read_text()
    for wrong in ("1 rows", "1 features", "1 seeds", "1 optimizers", "1 runs"):
        assert not re.search(rf"\b{wrong}", own_part(page)), wrong


def test_a_command_is_shown_as_a_shell_reads_it(tmp_path):
    config, _ = small([])
    command = "popgrad compare 'my data; a&b.csv' --seeds 3\npopgrad compare --name s --seeds 5"
    page = write_report(write_study(tmp_path, config | {"command": command}, [])).read_text()
    assert f"<pre>{command.replace('&', '&amp;').replace(chr(39), '&#39;')}</pre>" in page
