"""Writes the report of a study: one HTML file, readable without a network and without popgrad."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popgrad.checkpoint import write_file
from popgrad.checks import fail
from popgrad.compare.files import read_config, read_results
from popgrad.compare.summary import (
    OBJECTIVES,
    UNTUNED,
    DatasetSummary,
    counted,
    evidence_text,
    headline,
    number,
    plural,
    summarize,
)
from popgrad.compare.table import COLUMNS, cells
from popgrad.system import EXTRAS

__all__ = ["write_report"]

Floats = NDArray[np.float64]

# Blue and orange differ for all common kinds of color vision. Gradient methods have cool colors, solid lines and filled
# symbols. Searches have warm colors, dashed lines and hollow symbols. Within a kind, 12 colors and 7 symbols repeat, so
# their combination differs for 84 entrants.
COLORS = {
    "gradient": (
        *("#1f77d0", "#0f766e", "#8b7cf6", "#08306b", "#5bb5ea", "#4338ca"),
        *("#2bb5b0", "#5b6f95", "#6d28d9", "#0891b2", "#8ea6d2", "#155e75"),
    ),
    "search": (
        *("#e8590c", "#8c2d04", "#e0a800", "#c92a2a", "#ff8f66", "#a66a00"),
        *("#f2ae5c", "#5c1a0b", "#d9480f", "#b58b00", "#e64b3c", "#7a4a12"),
    ),
}
# Plotly's symbols, and the same shapes as SVG paths in a box of 12 by 12 for the legend, which is plain HTML.
SYMBOLS = {
    "circle": "M6 2a4 4 0 1 0 .01 0Z",
    "square": "M2.5 2.5h7v7h-7Z",
    "diamond": "M6 1l4.5 5-4.5 5-4.5-5Z",
    "triangle-up": "M6 1.5l4.5 8h-9Z",
    "cross": "M4.6 1.5h2.8v3.1h3.1v2.8h-3.1v3.1h-2.8v-3.1h-3.1v-2.8h3.1Z",
    "triangle-down": "M6 10.5l4.5-8h-9Z",
    "star": "M6 .8l1.5 3.5 3.8.3-2.9 2.5.9 3.7-3.3-2-3.3 2 .9-3.7-2.9-2.5 3.8-.3Z",
}
POINTS = 150  # of the common grid of a chart; their distance is less than the width of a line

QUANTITIES = {
    "loss": ("Training loss", "training loss", 1),
    "validation_loss": ("Validation loss", "validation loss", 1),
    "validation_metric": ("Validation error", "validation error (%)", 100),
}
AXES = {
    "forwards": ("budget used", "forwards (log scale)", "~s"),
    "seconds": ("wall time", "seconds (log scale)", "~g"),
}


def write_report(folder: Path) -> Path:
    """Write ``folder/report.html`` from the study's configuration and finished runs, and return its path.

    The same input gives the same bytes. The file is replaced as a whole or not at all.

    Raises:
        InputError: plotly or jinja2 is missing, `folder` holds no study, or it cannot be written.
    """
    try:
        import jinja2
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        fail(
            "report",
            f"{error.name or 'a package'} is missing; install it with: pip install {' '.join(EXTRAS['report'])}",
        )
    config = read_config(folder)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.jinja").render(
        minimized=OBJECTIVES.get(config["objective"]), **_content(config, read_results(folder)), plotly=get_plotlyjs()
    )
    # A command line may contain bytes that are not text.
    return write_file(folder / "report.html", page.encode(errors="replace"))


def _content(config: Mapping[str, Any], results: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the variables of the template."""
    looks = _looks(config["entrants"])
    figures: dict[str, Any] = {}
    sections = []
    # An objective other than the loss gets separate charts.
    error = ["validation_metric"] if config["objective"] in OBJECTIVES else []
    quantities = ["loss", "validation_loss", *error]
    results = counted(config, results)
    summaries = summarize(config, results)
    for index, summary in enumerate(summaries):
        runs = [run for run in results if run["dataset"] == summary.dataset]
        ok = [run for run in runs if run["status"] == "ok"]
        drawn = [row for row in summary.rows if any(run["entrant"] == row.entrant for run in ok)]
        charts = _line_charts(summary, ok, looks, quantities) if drawn else {}
        figures |= {f"d{index}-{name}": chart for name, chart in charts.items()}
        if drawn:
            figures[f"d{index}-strip"] = _strip(summary, ok, looks)
        sections.append(
            {
                "summary": summary,
                "headline": headline(summary),
                "evidence": evidence_text(summary),
                "charts": {f"d{index}-{name}": chart["title"] for name, chart in charts.items()},
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
        "untuned": UNTUNED,
        "plural": plural,
        # Only some runs record an instruction set.
        "isas": sorted({run["isa"] for run in results if run["status"] == "ok" and isinstance(run.get("isa"), str)}),
        "finished": sum(summary.finished for summary in summaries),
        "expected": sum(summary.expected for summary in summaries),
    }


def _looks(entrants: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the color, symbol and dash of every entrant, the same in every chart."""
    looks = {}
    for kind, colors in COLORS.items():
        for i, name in enumerate(name for name in entrants if entrants[name]["kind"] == kind):
            symbol = list(SYMBOLS)[i % len(SYMBOLS)]
            looks[name] = {
                "color": colors[i % len(colors)],
                "symbol": symbol,
                "dash": "6px,3px" if kind == "search" else "solid",
                "marker": f"{symbol}-open" if kind == "search" else symbol,
            }
    return looks


def _line_charts(
    summary: DatasetSummary,
    runs: Sequence[Mapping[str, Any]],
    looks: Mapping[str, Mapping[str, str]],
    quantities: Sequence[str],
) -> dict[str, Any]:
    """Return a chart for each quantity and axis, by the end of its HTML id."""
    charts = {}
    for quantity in quantities:
        title, y_title, scale = QUANTITIES[quantity]
        if summary.metric == "mse" and scale == 1:
            y_title += ", MSE (std.)"
        for axis, (against, x_title, x_format) in AXES.items():
            data, (first, last) = _lines(summary, runs, looks, quantity, axis, scale)
            x_axis = {"title": x_title, "tickformat": x_format, **_log_range(first, 1.03 * last, 30)}
            layout = {"height": 340, "xaxis": x_axis, "yaxis": _y_axis(data, y_title, linear=scale > 1)}
            charts[f"{quantity}-{axis}"] = {
                "title": f"{title} against {against}",
                "data": data,
                "layout": layout,
            }
    return charts


def _lines(
    summary: DatasetSummary,
    runs: Sequence[Mapping[str, Any]],
    looks: Mapping[str, Mapping[str, str]],
    quantity: str,
    axis: str,
    scale: float,
) -> tuple[list[dict[str, Any]], tuple[float, float]]:
    """Return the traces of one chart, a band and a median line for each entrant, and the ends of its x axis.

    The runs of an entrant were measured at different positions. At each point of a common grid, a run has the value of
    its last measurement, so no loss appears before the run reached it. The axis starts before the first measurement of
    any run, so its left end shows the untrained network.
    """
    positions = [number(x) for run in runs for x in run["curve"][axis]]
    positions = [x for x in positions if 0 < x < math.inf] or [1.0]
    ends = min(0.8 * min(positions), max(positions) / 10), max(positions)
    grid = np.geomspace(*ends, POINTS)
    leaders = {row.kind: row.entrant for row in reversed(summary.rows)}.values()
    traces: list[dict[str, Any]] = []
    # The best is drawn last, on top of the others.
    for row in reversed(summary.rows):
        mine = [run["curve"] for run in runs if run["entrant"] == row.entrant and run["curve"][axis]]
        if not mine:
            continue
        x, y = _on_grid(mine, quantity, axis, grid)
        low, middle, high = (scale * f(y, axis=0) for f in (np.min, np.median, np.max))
        look, label, finite = looks[row.entrant], html.escape(row.label), np.isfinite(low)
        # The band of a diverged seed leaves the chart; JSON cannot represent infinity.
        high = np.minimum(high, 1e6 * (1 + np.abs(low)))
        leader = row.entrant in leaders
        traces += [
            {
                "meta": {"entrant": row.entrant, "band": True, "leader": leader},
                "x": _json([*x[finite], *x[finite][::-1]]),
                "y": _json([*low[finite], *high[finite][::-1]]),
                "fill": "toself",
                "fillcolor": look["color"],
                "opacity": 0.13,
                "line": {"width": 0},
                "mode": "lines",
                "hoverinfo": "skip",
                "visible": leader,
            },
            {
                "meta": {"entrant": row.entrant, "band": False},
                "name": label,
                "x": _json(x),
                "y": _json(middle),
                "mode": "lines+markers",
                "line": {"color": look["color"], "dash": look["dash"], "width": 1.8},
                "marker": {"symbol": look["marker"], "size": 7, "color": look["color"], "maxdisplayed": 4},
                "hovertemplate": f"<b>{label}</b><br>%{{y:.4~g}} after %{{x:.3~s}} {axis}<extra></extra>",
            },
        ]
    return traces, ends


def _on_grid(curves: Sequence[Mapping[str, Any]], quantity: str, axis: str, grid: Floats) -> tuple[Floats, Floats]:
    """Return the grid up to the end of the last curve, and one row of values for each curve.

    A value that is not finite counts as infinite, so a median shows the majority of the seeds.
    """
    end = max(number(curve[axis][-1]) for curve in curves)
    used = grid[: int(np.searchsorted(grid, end)) + 1]
    rows = []
    for curve in curves:
        x = np.array([number(value) for value in curve[axis]])
        y = np.array([number(value) for value in curve[quantity]])
        rows.append(y[np.maximum(np.searchsorted(x, used, side="right") - 1, 0)])
    return used, np.array(rows)


def _y_axis(data: Sequence[Mapping[str, Any]], title: str, *, linear: bool) -> dict[str, Any]:
    """Return a y axis that contains the start and the lowest point of every median line.

    It ends at 1.2 times the largest start, so a line that gets worse than that leaves it at the top.
    """
    lines = [trace["y"] for trace in data if not trace["meta"]["band"]]
    bottom = min((y for line in lines for y in line if y is not None), default=0.0)
    top = 1.2 * max((line[0] for line in lines if line[0] is not None), default=1.0) or 1.0
    if linear:
        return {"title": title, "range": [0, top]}
    if bottom > top / 5:
        return {"title": title, "range": [bottom - 0.05 * (top - bottom), top]}
    return {
        "title": f"{title} (log scale)",
        "tickformat": "~g",
        **_log_range(max(bottom / 1.2, 1e-3 * top), top, 100),
    }


def _log_range(low: float, high: float, wide: float) -> dict[str, Any]:
    """Return a logarithmic axis, with ticks at 2 and 5 unless it spans a factor of more than `wide`."""
    ends = [math.log10(low), math.log10(high)]
    return {"type": "log", "range": ends, "dtick": 1 if high > wide * low else "D2"}


def _strip(
    summary: DatasetSummary, runs: Sequence[Mapping[str, Any]], looks: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """Return the chart with one line for each entrant, best on top: a mark for each seed and a bar at the median."""
    scale = 100 if summary.metric == "error_rate" else 1
    found = {(run["entrant"], run["seed"]): number(run.get("test_metric")) for run in runs}
    diverged = {(run["entrant"], run["seed"]) for run in runs if run.get("diverged") is True}
    x_axis, high = _strip_axis(summary, scale, [value for value in found.values() if value < math.inf] or [0.0])
    marks, notes, bars = [], [], []
    seeds = 1 + max(seed for _, seed in found)
    for place, row in enumerate(summary.rows):
        look, label = looks[row.entrant], html.escape(row.label)
        here = [(seed, value) for (entrant, seed), value in found.items() if entrant == row.entrant]
        for seed, value in here:
            if value <= high:
                # Seeds are offset vertically, so that equal results stay visible.
                y = round(place + 0.44 * ((seed + 0.5) / seeds - 0.5), 3)
                hover = f"<b>{label}</b>, seed {seed}<br>{summary.format_metric(value)}{summary.unit}"
                mark = look["marker"]
                if (row.entrant, seed) in diverged:
                    hover, mark = f"{hover}, diverged", "x-thin"
                marks.append((float(f"{scale * value:.6g}"), y, hover, look["color"], mark))
        if row.test_metric is not None and row.test_metric <= high:
            bars.append((float(f"{scale * row.test_metric:.6g}"), place))
        if not any(value <= high for _, value in here):
            off = any(high < value < math.inf for _, value in here)
            ran = row.n_ok + row.n_failed
            note = "off the scale" if off else "no finite result" if ran else "not run yet"
            notes.append({"y": place, "text": note, "xref": "x domain", "x": 0.01, "showarrow": False})

    xs, ys, text, color, marker = zip(*marks, strict=True) if marks else [()] * 5
    y_axis = {
        "range": [len(summary.rows) - 0.4, -0.6],
        "tickvals": list(range(len(summary.rows))),
        "ticktext": [html.escape(row.label) for row in summary.rows],
    }
    bar = {"symbol": "line-ns", "size": 17, "line": {"width": 2.5, "color": "#33373d"}}
    return {
        "data": [
            {
                "x": [x for x, _ in bars],
                "y": [y for _, y in bars],
                "mode": "markers",
                "hoverinfo": "skip",
                "marker": bar,
            },
            {
                "x": xs,
                "y": ys,
                "text": text,
                "mode": "markers",
                "hovertemplate": "%{text}<extra></extra>",
                "marker": {"size": 8, "color": color, "symbol": marker} | {"line": {"width": 1.5, "color": color}},
            },
        ],
        "layout": {
            "height": 90 + 22 * len(summary.rows),
            "xaxis": x_axis,
            "yaxis": y_axis,
            "annotations": notes,
        },
    }


def _strip_axis(summary: DatasetSummary, scale: float, values: Sequence[float]) -> tuple[dict[str, Any], float]:
    """Return the axis of the metric and the largest value that it shows."""
    low, high = min(values), max(values)
    # A run that diverged to a finite value must not compress the other marks.
    high = min(high, 1e3 * low) if low > 0 else high
    log = low > 0 and high > 8 * low
    title = f"{summary.short_metric_name}{' (%)' * (scale == 100)}{', log scale' * log}"
    if log:
        return {"title": title, "tickformat": "~g", **_log_range(scale * low / 1.1, scale * high * 1.1, 120)}, high
    margin = 0.05 * (high - low) or 0.5 * (high or 1.0)
    return {"title": title, "range": [scale * (low - margin), scale * (high + margin)]}, high


def _json(values: Iterable[float]) -> list[float | None]:
    """Round values to five digits, finer than a screen; None replaces values that are not finite, for JSON."""
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values]
