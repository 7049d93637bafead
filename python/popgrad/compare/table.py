"""Formats the ranked table of one data set, as text cells and as a table for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from popgrad.compare.summary import (
    OBJECTIVES,
    UNTUNED,
    DatasetSummary,
    Row,
    evidence_text,
    headline,
    short,
)

__all__ = ["COLUMNS", "cells", "compact", "table"]

COLUMNS = ("#", "optimizer", "kind", "median", "min–max", "test loss", "s to 90%", "seconds", "forwards")
"""Headings of the columns of `cells`. "median" and "min–max" refer to the metric of the ranking."""

HEADINGS = {"test loss": "test\nloss", "s to 90%": "s to\n90%"}
"""Headings that the terminal breaks into two lines."""

DROPPED = ("kind", "forwards", "seconds", "test loss", "min–max")
"""Columns that are dropped on a narrow terminal, in this order, so that no name is cut off."""


def cells(summary: DatasetSummary, row: Row) -> tuple[str, ...]:
    """Return one row of the ranked table as text, for the terminal and the page."""
    ran = row.n_ok + row.n_failed
    notes = [f"{row.n_diverged} of {ran} diverged"] if row.n_diverged else []
    if row.n_failed:
        notes.append(f"{row.n_failed} of {ran} failed")
    if row.n_missing:
        notes.append(f"{ran} of {ran + row.n_missing} done" if ran else "not run yet")
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
        "–" if row.test_loss is None else short(row.test_loss),
        time,
        "–" if row.seconds is None else _seconds(row.seconds),
        "–" if row.forwards is None else compact(row.forwards),
    )


def _seconds(value: float) -> str:
    """Format with two significant digits, because a third would be noise; whole seconds from 10 on."""
    if value >= 9.95:
        return f"{value:.0f}"
    return "<0.0001" if 0 < value < 1e-4 else f"{value:#.2g}"


def compact(count: float) -> str:
    """Format a count >= 0 with three significant digits: 950, 12.3k, 3M."""
    if count < 999.5:
        return f"{math.floor(count + 0.5)}"
    for letter in "kMGTPEZYRQ":
        count /= 1000
        # Round first: 999.6k is 1M.
        if float(digits := f"{count:.3g}") < 1000:
            return digits + letter
    return ">999Q"


def table(summary: DatasetSummary, config: Mapping[str, Any], width: int | None = None) -> Table:
    """Return the ranked table of one data set for a terminal, with a caption.

    Args:
        summary: summary of the data set.
        config: configuration of the study.
        width: width of the terminal in characters; default 100. Columns are dropped until the names fit. A note after a
            name may wrap.
    """
    width = 100 if width is None else width
    shown = Table(
        title=Text(f"{summary.dataset}: {summary.metric_name}{' in %' if summary.unit else ''}, smaller is better"),
        caption=Text(_caption(summary, config)),
        box=None,  # the columns need the room of lines
        header_style="bold",
        title_justify="left",
        caption_justify="left",
        caption_style="",
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
            # If the last columns are still too wide, they are cut off instead of the name.
            min_width=min(widths[heading], width - widths["#"] - 1) if name else None,
        )
    for row, texts_of in rows:
        style = "dim" if row.rank is None else "cyan" if row.kind == "gradient" else "yellow"
        shown.add_row(
            *(Text(texts_of[heading], style=style if heading in ("optimizer", "kind") else "") for heading in columns)
        )
    return shown


def _caption(summary: DatasetSummary, config: Mapping[str, Any]) -> str:
    first = [headline(summary), evidence_text(summary), UNTUNED]
    seeds = "One seed" if config["seeds"] == 1 else f"Medians over {config['seeds']} seeds"
    notes = [f"{seeds}." if summary.finished == summary.expected else "Medians over the seeds that have run."]
    if any(row.n_diverged for row in summary.rows):
        notes.append("Diverged runs count as worse than all others; a smaller learning rate may help.")
    notes.append(
        "s to 90%: seconds until the validation metric came 90% of the way from the untrained network to the best "
        "value of any optimizer; – if fewer than half of the seeds did."
    )
    if minimized := OBJECTIVES.get(config["objective"]):
        notes.append(f"Searches minimized the {minimized} on the training data; gradient methods minimized their loss.")
    return "\n" + " ".join(filter(None, first)) + "\n\n" + " ".join(notes)
