"""The ranking of a study, and its table on a terminal."""

from __future__ import annotations

import json
import re

import pytest

from popgrad.compare.files import read_config, read_results
from popgrad.compare.report import write_report
from popgrad.compare.summary import headline, summarize
from popgrad.compare.table import COLUMNS, cells, table
from studies import failed_run, full_study, one_run, printed, run_of, small, write_study


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
