"""The page of a study."""

from __future__ import annotations

import copy
import json
import os
import re
import sys
from pathlib import Path

import pytest

from popgrad.checks import InputError
from popgrad.compare.files import read_config, read_results
from popgrad.compare.report import write_report
from popgrad.compare.summary import headline, summarize
from popgrad.compare.table import table
from studies import DIGITS, GRADIENT, SEARCH, failed_run, full_study, make_config, one_run, run_of, small, write_study


def test_the_page_marks_what_diverged(tmp_path):
    config, _ = small([], "AB", seeds=2)
    runs = [run_of("a", 0.2, seed=seed) | {"diverged": True} for seed in range(2)] + [run_of("b", 0.3)]
    page = write_report(write_study(tmp_path, config, runs)).read_text()
    assert "A (2 of 2 diverged)" in page
    strip = figures_of(page)["d0-strip"]
    assert [text.endswith(", diverged") for text in strip["data"][1]["text"]] == [False, True, True]
    assert strip["data"][1]["marker"]["symbol"][1:] == ["x-thin", "x-thin"]
    assert "× marks a run that diverged" in page
    page = write_report(write_study(tmp_path, config, [run_of("b", 0.3)])).read_text()
    assert "diverged</h3>" not in page


def test_reader_skips_torn_lines_and_repeated_runs(tmp_path):
    first, second = run_of("a", 0.25), run_of("a", 0.75)
    torn = json.dumps(run_of("b", 0.5))
    lines = [json.dumps(first), torn[:90], "17", "", '{"dataset": ["x"]}', json.dumps(second), torn[:-1]]
    (tmp_path / "results.jsonl").write_bytes("\n".join(lines).encode() + b"\xc3")
    assert read_results(tmp_path) == [first]
    assert read_results(tmp_path / "nothing") == []


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
    assert f"The result of a run is the measured network with the best validation {name}" in page
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
        "64 features. Each split has 1,077 rows for training, 360 for validation and 360 for testing." in page
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
