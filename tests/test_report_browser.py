"""The page of a study in a browser: on a screen, on a phone and on paper."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from popgrad.compare.report import write_report
from studies import DIGITS, full_study, make_config, one_run, write_study
from test_report import evil_study, own_part


def in_browser(page: Path, profile: Path, *options: str) -> str:
    """The document after its scripts ran, in a browser without a network. Fails on any console message."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    done = subprocess.run(
        [
            *(chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,3000"),
            *("--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", f"--user-data-dir={profile}"),
            *("--virtual-time-budget=10000", "--dump-dom", *options, page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    return done.stdout


def drawn(document: str) -> tuple[int, int]:
    """How many plots there are, and how many traces are drawn in them."""
    document = own_part(document)
    return document.count("js-plotly-plot"), len(re.findall(r'<g class="trace scatter', document))


def test_browser_draws_every_plot_offline_without_console_errors(tmp_path):
    path = write_report(full_study(tmp_path / "study"))
    document = in_browser(path, tmp_path / "profile")
    # Four line charts with 19 lines and the bands of two leaders, and a strip of marks and bars.
    assert drawn(document) == (5, 4 * (19 + 2) + 2)
    assert len(re.findall(r'<path class="js-line"[^>]* d="M\d', own_part(document))) >= 4 * 19


@pytest.mark.parametrize(
    ("clicked", "pressed", "traces"),
    [
        # The bands of two, since they are few; of eleven only that of the leader.
        (["data-entrant=adam", "data-entrant=gd"], 2, 4 * (2 + 2) + 2),
        (["data-kind=gradient"], 11, 4 * (11 + 1) + 2),
        (["data-kind=search", "data-kind=search"], 19, 4 * (19 + 2) + 2),
    ],
)
def test_browser_isolates_what_is_clicked(tmp_path, clicked, pressed, traces):
    path = write_report(full_study(tmp_path / "study"))
    clicks = "".join(f"document.querySelector('[{what}]').click();" for what in clicked)
    script = f"<script>setTimeout(() => {{ {clicks} }}, 3000)</script></body>"
    path.write_text(path.read_text().replace("</body>", script))
    document = in_browser(path, tmp_path / "profile")
    assert drawn(document) == (5, traces)
    assert own_part(document).count('aria-pressed="true"') == pressed


def test_browser_runs_no_script_from_a_name(tmp_path):
    document = in_browser(write_report(evil_study(tmp_path / "study")), tmp_path / "profile")
    assert drawn(document) == (5, 4 * (2 + 2) + 2)
    assert "<img" not in own_part(document)


def pdf_pages(page: Path, folder: Path) -> list[str]:
    """The text of every printed page, its lines as they stand on it."""
    chromium, reader = shutil.which("chromium"), shutil.which("pdftotext")
    if chromium is None or reader is None:
        pytest.skip("chromium or pdftotext is not installed")
    subprocess.run(
        [
            *(chromium, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"),
            *("--virtual-time-budget=10000", "--no-pdf-header-footer", f"--print-to-pdf={folder / 'page.pdf'}"),
            page.as_uri(),
        ],
        capture_output=True,
        timeout=120,
        check=True,
    )
    done = subprocess.run([reader, "-layout", folder / "page.pdf", "-"], capture_output=True, text=True, check=True)
    return done.stdout.split("\f")


def test_print_cuts_no_row_and_repeats_the_headings(tmp_path):
    labels = {f"Optimizer {i:02}": "gradient" for i in range(60)}
    config = make_config(labels, {"data": DIGITS}, seeds=1)
    runs = [one_run("data", entrant, 0, [0.9, 0.1 + i / 100]) for i, entrant in enumerate(config["entrants"])]
    pages = pdf_pages(write_report(write_study(tmp_path / "study", config, runs)), tmp_path)
    rows = re.compile(r"^ *(\d+) +Optimizer (\d\d) +gradient +([\d.]+) +([\d.]+–[\d.]+) +\S+ +\S+ +\S+ +3M *$", re.M)
    holding = [page for page in pages if rows.search(page)]
    assert len(holding) > 1
    assert sorted(int(row[0]) for page in holding for row in rows.findall(page)) == list(range(1, 61))
    assert all(re.search(r"# +optimizer +kind +median +min–max .* forwards", page) for page in holding)
    # The chart with a line for each optimizer keeps its axis, on one page with its title.
    strip = [page for page in pages if "one mark per seed" in page]
    assert len(strip) == 1
    assert "test error (%)" in strip[0]


def test_on_a_phone_no_number_of_the_ranking_is_cut(tmp_path):
    page = write_report(full_study(tmp_path / "study"))
    measure = """<script>addEventListener("load", () => setTimeout(() => {
      const inner = document.querySelector("iframe").contentDocument, wrong = [];
      for (const cell of inner.querySelectorAll(".ranking td, .settings td, .main-svg, p, pre")) {
        const box = cell.getBoundingClientRect();
        if (box.right > 390.5 || box.left < -0.5 || cell.scrollWidth > cell.clientWidth + 1 && cell.clientWidth)
          wrong.push(cell.textContent);
      }
      const scroll = inner.querySelector(".ranking");
      document.title = JSON.stringify([wrong.length, scroll.scrollWidth - scroll.clientWidth, inner.body.scrollWidth]);
    }, 4000));</script>"""
    frame = tmp_path / "frame.html"
    frame.write_text(f'<iframe src="{page.as_uri()}" width="390" height="3000" style="border:0"></iframe>{measure}')
    document = in_browser(frame, tmp_path / "profile", "--allow-file-access-from-files", "--hide-scrollbars")
    assert re.search(r"<title>(.*?)</title>", document)[1] == "[0,0,390]"
