"""The page of a study: one HTML file that needs neither a network nor the package to be read."""

from __future__ import annotations

import html
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popgrad.checks import fail
from popgrad.compare.summary import (
    COLUMNS,
    DatasetSummary,
    cells,
    headline,
    number,
    read_results,
    summarize,
)

__all__ = ["write_report"]

Floats = NDArray[np.float64]

# Blue against orange is the contrast that every common colour vision keeps: gradient methods are cool and
# solid, searches warm and dashed. Within a kind the symbols tell apart what the colours may not; 12 and 7
# have no common divisor, so 84 entrants of one kind differ.
COLOURS = {
    "gradient": (
        *("#1f77d0", "#0f766e", "#8b7cf6", "#08306b", "#5bb5ea", "#4338ca"),
        *("#2bb5b0", "#5b6f95", "#6d28d9", "#0891b2", "#8ea6d2", "#155e75"),
    ),
    "search": (
        *("#e8590c", "#8c2d04", "#e0a800", "#c92a2a", "#ff8f66", "#a66a00"),
        *("#f2ae5c", "#5c1a0b", "#d9480f", "#b58b00", "#e64b3c", "#7a4a12"),
    ),
}
DASHES = {"gradient": "solid", "search": "6px,3px"}
# The symbols of plotly, and the same as outlines in a box of 12 for the legend, which is plain HTML.
SYMBOLS = {
    "circle": "M6 2a4 4 0 1 0 .01 0Z",
    "square": "M2.5 2.5h7v7h-7Z",
    "diamond": "M6 1l4.5 5-4.5 5-4.5-5Z",
    "triangle-up": "M6 1.5l4.5 8h-9Z",
    "cross": "M4.6 1.5h2.8v3.1h3.1v2.8h-3.1v3.1h-2.8v-3.1h-3.1v-2.8h3.1Z",
    "triangle-down": "M6 10.5l4.5-8h-9Z",
    "star": "M6 .8l1.5 3.5 3.8.3-2.9 2.5.9 3.7-3.3-2-3.3 2 .9-3.7-2.9-2.5 3.8-.3Z",
}
POINTS = 150  # of the common grid of a chart: finer than a line is wide

QUANTITIES = {
    "loss": ("Training loss", "training loss"),
    "validation_loss": ("Validation loss", "validation loss"),
    "validation_metric": ("Validation error", "validation error (%)"),
}
AXES = {
    "forwards": ("budget used", "forwards (log scale)", "~s"),
    "seconds": ("wall time", "seconds (log scale)", "~g"),
}


def write_report(folder: Path) -> Path:
    """Write ``folder/report.html`` from the study's configuration and finished runs, and return its path.

    The same input gives the same bytes. The file appears whole or not at all.

    Raises:
        InputError: plotly or jinja2 is missing, `folder` holds no study, or it cannot be written.
    """
    try:
        import jinja2
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        fail("report", f'{error.name or "an extra"} is missing; install it with: pip install "popgrad[report]"')
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        fail("report", f"{folder} is not the folder of a study: it has no config.json")
    except ValueError as error:
        fail("report", f"{folder / 'config.json'} is not valid JSON: {error}")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.jinja").render(
        **_content(config, read_results(folder)), plotly=get_plotlyjs()
    )
    path = folder / "report.html"
    _write_whole(path, page)
    return path


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        fail("report", f"cannot write {path}: {error.strerror}")
    finally:
        temporary.unlink(missing_ok=True)


def _content(config: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Everything that the template shows."""
    looks = _looks(config["entrants"])
    figures: dict[str, Any] = {}
    sections = []
    summaries = summarize(config, results)
    for index, summary in enumerate(summaries):
        runs = [run for run in results if run["dataset"] == summary.dataset and run["entrant"] in looks]
        ok = [run for run in runs if run["status"] == "ok"]
        drawn = [row for row in summary.rows if any(run["entrant"] == row.entrant for run in ok)]
        charts = []
        if drawn:
            charts = _line_charts(config, summary, ok, looks, figures, f"d{index}")
            figures[f"d{index}-strip"] = _strip(summary, ok, looks)
        sections.append(
            {
                "summary": summary,
                "headline": headline(summary),
                "charts": charts,
                "strip": f"d{index}-strip",
                "drawn": drawn,
                "rows": [(row, cells(summary, row)) for row in summary.rows],
                "failed": [run for run in runs if run["status"] == "failed"],
                "about": config["datasets"][summary.dataset],
            }
        )
    return {
        "config": config,
        "sections": sections,
        "figures": figures,
        "looks": looks,
        "symbols": SYMBOLS,
        "columns": COLUMNS,
        "finished": sum(summary.finished for summary in summaries),
        "expected": sum(summary.expected for summary in summaries),
    }


def _looks(entrants: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Colour, dash, and symbol of every entrant: the same in every chart, whatever its rank there."""
    looks = {}
    for kind, colours in COLOURS.items():
        for i, name in enumerate(name for name in entrants if entrants[name]["kind"] == kind):
            looks[name] = {
                "colour": colours[i % len(colours)],
                "dash": DASHES[kind],
                "symbol": list(SYMBOLS)[i % len(SYMBOLS)],
            }
    return looks


def _line_charts(
    config: Mapping[str, Any],
    summary: DatasetSummary,
    runs: Sequence[Mapping[str, Any]],
    looks: Mapping[str, Mapping[str, str]],
    figures: dict[str, Any],
    prefix: str,
) -> list[dict[str, str]]:
    """One row of charts per quantity: against the budget, against wall time. Fills `figures`."""
    shown = ["loss", "validation_loss"]
    if config["objective"] == "error_rate":
        shown.append("validation_metric")
    charts = []
    for quantity in shown:
        title, y_title = QUANTITIES[quantity]
        percent = quantity == "validation_metric"
        start, end = f"{prefix}-{quantity}-forwards", f"{prefix}-{quantity}-seconds"
        for axis, identity in (("forwards", start), ("seconds", end)):
            against, x_title, x_format = AXES[axis]
            charts.append({"id": identity, "title": f"{title} against {against}"})
            data, x_range = _lines(summary, runs, looks, quantity, axis, 100 if percent else 1)
            y_axis = _y_axis(data, y_title, linear=percent)
            x_axis = _axis(x_title, type="log", range=x_range, tickformat=x_format)
            # Few decades leave room for ticks between the powers of ten.
            x_axis["dtick"] = 1 if x_range[1] - x_range[0] > 1.5 else "D2"
            figures[identity] = {"data": data, "layout": _layout(340, xaxis=x_axis, yaxis=y_axis)}
    return charts


def _lines(
    summary: DatasetSummary,
    runs: Sequence[Mapping[str, Any]],
    looks: Mapping[str, Mapping[str, str]],
    quantity: str,
    axis: str,
    scale: float,
) -> tuple[list[dict[str, Any]], list[float]]:
    """The traces of one chart, a band and a median line per entrant, and the range of its log x axis.

    The seeds of an entrant were measured at different positions. They meet on a common grid where each has
    the value of its last measurement: no loss is shown before it was reached. Both axes start before the
    first measurement of any run, so that the left edge is the untrained network.
    """
    positions = [number(x) for run in runs for x in run["curve"][axis]]
    positions = [x for x in positions if 0 < x < math.inf]
    last = max(positions, default=1.0)
    first = min(0.8 * min(positions, default=1.0), last / 10)
    grid = np.geomspace(first, last, POINTS)
    traces = []
    leaders = {row.kind: row.entrant for row in reversed(summary.rows)}.values()
    # The best is drawn last, on top of the others.
    for row in reversed(summary.rows):
        mine = [run["curve"] for run in runs if run["entrant"] == row.entrant and run["curve"][axis]]
        if not mine:
            continue
        x, y = _on_grid(mine, quantity, axis, grid)
        low, middle, high = (scale * np.asarray(f(y, axis=0)) for f in (np.min, np.median, np.max))
        look = looks[row.entrant]
        xs = _json(x)
        finite = np.isfinite(low)
        ceiling = 1e3 * float(np.max(y[:, 0], where=np.isfinite(y[:, 0]), initial=1.0)) * scale
        band = np.concatenate([low[finite], np.minimum(high, ceiling)[finite][::-1]])
        traces += [
            {
                "meta": {"entrant": row.entrant, "band": True, "leader": row.entrant in leaders},
                "x": _json(np.concatenate([x[finite], x[finite][::-1]])),
                "y": _json(band),
                "fill": "toself",
                "fillcolor": look["colour"],
                "opacity": 0.13,
                "line": {"width": 0},
                "mode": "lines",
                "hoverinfo": "skip",
                "visible": row.entrant in leaders,
            },
            {
                "meta": {"entrant": row.entrant, "band": False},
                "name": html.escape(row.label),
                "x": xs,
                "y": _json(middle),
                "mode": "lines+markers",
                "line": {"color": look["colour"], "dash": look["dash"], "width": 1.8},
                "marker": {"symbol": look["symbol"], "size": 7, "color": look["colour"], "maxdisplayed": 4},
                "hovertemplate": f"<b>{html.escape(row.label)}</b><br>%{{y:.4~g}} after %{{x:.3~s}} "
                f"{axis}<extra></extra>",
            },
        ]
    return traces, [math.log10(first), math.log10(last * 1.03)]


def _on_grid(
    curves: Sequence[Mapping[str, Any]], quantity: str, axis: str, grid: Floats
) -> tuple[Floats, Floats]:
    """The grid up to where the last of the curves ends, and one row of values per curve.

    What is not finite counts as infinitely large, so a median tells where most of the seeds are.
    """
    ends = max(number(curve[axis][-1]) for curve in curves)
    used = grid[: int(np.searchsorted(grid, ends)) + 1]
    rows = []
    for curve in curves:
        x = np.array([number(value) for value in curve[axis]])
        y = np.array([number(value) for value in curve[quantity]])
        rows.append(y[np.maximum(np.searchsorted(x, used, side="right") - 1, 0)])
    return used, np.array(rows)


def _y_axis(data: Sequence[Mapping[str, Any]], title: str, *, linear: bool) -> dict[str, Any]:
    """A y axis that holds what the median lines start from and come to; what diverged leaves at the top."""
    lines = [trace["y"] for trace in data if not trace["meta"]["band"]]
    values = [value for line in lines for value in line if value is not None]
    top = 1.2 * max((line[0] for line in lines if line[0] is not None), default=1.0) or 1.0
    bottom = min(values, default=0.0)
    if linear or bottom > top / 5:
        margin = 0.0 if linear else 0.05 * (top - bottom)
        return _axis(title, range=[max(bottom - margin, 0.0) if not linear else 0.0, top])
    bottom = max(bottom / 1.2, 1e-5 * top)
    axis = _axis(f"{title} (log scale)", type="log", range=[math.log10(bottom), math.log10(top)])
    return axis | {"tickformat": "~g", "dtick": 1 if top / bottom > 100 else "D2"}


def _strip(
    summary: DatasetSummary, runs: Sequence[Mapping[str, Any]], looks: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """One line per entrant, best on top: a dot per seed and a bar at the median."""
    scale = 100 if summary.metric == "error_rate" else 1
    dots: dict[str, list[Any]] = {"x": [], "y": [], "text": [], "color": [], "symbol": []}
    seeds = 1 + max(run["seed"] for run in runs)
    values = [v for run in runs if 0 <= (v := number(run["test_metric"])) < math.inf]
    low, high = min(values, default=0.0), max(values, default=1.0)
    # What diverged without becoming infinite must not squeeze all others into one place.
    high = min(high, 1e3 * low) if low > 0 else high
    notes = []
    for place, row in enumerate(summary.rows):
        here = {run["seed"]: number(run["test_metric"]) for run in runs if run["entrant"] == row.entrant}
        for seed, value in sorted(here.items()):
            if value > high:
                continue
            dots["x"].append(float(f"{scale * value:.6g}"))
            # Seeds with equal results lie above one another instead of hiding one another.
            dots["y"].append(round(place + 0.44 * ((seed + 0.5) / seeds - 0.5), 3))
            text = f"<b>{html.escape(row.label)}</b>, seed {seed}"
            dots["text"].append(f"{text}<br>{summary.format_metric(value)}{summary.unit}")
            dots["color"].append(looks[row.entrant]["colour"])
            dots["symbol"].append(looks[row.entrant]["symbol"])
        if not any(value <= high for value in here.values()):
            off = any(high < value < math.inf for value in here.values())
            ran = row.n_ok + row.n_failed
            note = "off the scale" if off else "no finite result" if ran else "not run yet"
            notes.append({"y": place, "text": note})
    ranked = [(place, row) for place, row in enumerate(summary.rows) if number(row.test_metric) <= high]
    log = low > 0 and high > 8 * low
    title = f"{summary.metric_name}{' (%)' if scale == 100 else ''}{', log scale' if log else ''}"
    margin = 0.04 * ((math.log10(high / low) if log else high - low) or 1.0)
    ends = [math.log10(scale * v) for v in (low, high)] if log else [scale * low, scale * high]
    margin *= 1 if log else scale
    x_axis = _axis(title, range=[ends[0] - margin, ends[1] + margin], tickformat="~g")
    x_axis |= {"type": "log", "dtick": 1 if high > 100 * low else "D2"} if log else {}
    y_axis = _axis("", range=[len(summary.rows) - 0.4, -0.6], tickvals=list(range(len(summary.rows))))
    y_axis["ticktext"] = [html.escape(row.label) for row in summary.rows]
    return {
        "data": [
            {
                "x": [float(f"{scale * number(row.test_metric):.6g}") for _, row in ranked],
                "y": [place for place, _ in ranked],
                "mode": "markers",
                "hoverinfo": "skip",
                "marker": {"symbol": "line-ns", "size": 17, "line": {"width": 2.5, "color": "#33373d"}},
            },
            {
                "x": dots["x"],
                "y": dots["y"],
                "text": dots["text"],
                "mode": "markers",
                "hovertemplate": "%{text}<extra></extra>",
                "marker": {"size": 8, "opacity": 0.85, "color": dots["color"], "symbol": dots["symbol"]},
            },
        ],
        "layout": _layout(90 + 25 * len(summary.rows), xaxis=x_axis, yaxis=y_axis)
        | {
            "annotations": [
                {"xref": "x domain", "x": 0.01, "xanchor": "left", "showarrow": False}
                | {"font": {"size": 11, "color": "#767c85"}, **note}
                for note in notes
            ]
        },
    }


def _axis(title: str, **more: Any) -> dict[str, Any]:
    look = {"gridcolor": "#eceef1", "linecolor": "#c9cdd3", "zeroline": False, "automargin": True}
    return {"title": {"text": title, "font": {"size": 12}, "standoff": 8}, **look, **more}


def _layout(height: int, **axes: Any) -> dict[str, Any]:
    return {
        "height": height,
        "margin": {"l": 48, "r": 12, "t": 8, "b": 44},
        "showlegend": False,
        "hovermode": "closest",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 12}
        | {"color": "#454b54"},
        "hoverlabel": {"bgcolor": "#ffffff", "font": {"color": "#22262b"}},
        **axes,
    }


def _json(values: Floats) -> list[float | None]:
    """Five digits are more than a screen shows; JSON has no infinity."""
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values]
