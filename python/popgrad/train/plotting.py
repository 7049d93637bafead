"""Learning curves and tables of a `History`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

from popgrad.budget import GRADIENT_FORWARDS
from popgrad.checks import fail, one_of
from popgrad.train.records import COLUMNS, History

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Axis", "figure", "frame"]

Axis = Literal["epochs", "forwards", "evaluations", "seconds"]
_TITLES = {"epochs": "epochs", "forwards": "forwards", "evaluations": "evaluations", "seconds": "seconds of training"}
_COLORS = {"training": "#4C78A8", "validation": "#F58518"}
_STAR = {"symbol": "star", "size": 14, "color": "#E45756", "line": {"width": 1, "color": "white"}}


def frame(history: History) -> pd.DataFrame:
    """See `History.to_frame`."""
    import pandas as pd

    columns = {name: column for name in COLUMNS if (column := getattr(history, name))}
    if history.samples:
        columns = {"epochs": _epochs(history), **columns}
    return pd.DataFrame(columns, index=pd.RangeIndex(len(history.loss), name="record"))


def figure(history: History, x: Axis | None = None) -> Any:
    """See `History.plot`."""
    known = [axis for axis in get_args(Axis) if axis != "epochs" or history.samples]
    axis = known[0] if x is None else one_of("History.plot", "x", x, known)
    if not history.loss:
        fail("History.plot", "the history has no records")
    try:
        from plotly.subplots import make_subplots
    except ImportError:
        fail("History.plot", 'plotly is missing: pip install "popgrad[report]"')
    panels = _panels(history)
    chart = make_subplots(rows=1, cols=len(panels), subplot_titles=list(panels))
    places = _epochs(history) if axis == "epochs" else getattr(history, axis)
    for column, curves in enumerate(panels.values(), 1):
        for name, values in curves.items():
            style = {"mode": "lines+markers", "marker_size": 4, "line_color": _COLORS[name]}
            chart.add_scatter(x=places, y=values, **style, **_named(name, column), row=1, col=column)
        judged = list(curves.values())[-1]  # on the validation samples, if there are any
        star = {"mode": "markers", "marker": _STAR, **_named("best record", column)}
        chart.add_scatter(x=[places[history.best]], y=[judged[history.best]], **star, row=1, col=column)
    chart.update_xaxes(title_text=_TITLES[axis])
    chart.update_layout(template="plotly_white", hovermode="x unified", legend_orientation="h", legend_y=-0.2)
    return chart


def _named(name: str, column: int) -> dict[str, Any]:
    """One entry in the legend for the curves of that name in all panels; the first panel has them all."""
    return {"name": name, "legendgroup": name, "showlegend": column == 1}


def _panels(history: History) -> dict[str, dict[str, list[float]]]:
    """Curves by the title of their panel."""
    both = {"training": history.loss, "validation": history.validation_loss}
    panels = {"loss": both}
    if history.metric_name != "loss":
        panels[history.metric_name] = {"training": history.metric, "validation": history.validation_metric}
    if history.objective_name not in panels:
        which = "validation" if history.validation_loss else "training"
        panels[f"{history.objective_name} (minimized)"] = {which: history.objective}
    return {title: {name: values for name, values in curves.items() if values} for title, curves in panels.items()}


def _epochs(history: History) -> list[float]:
    return [forwards / (GRADIENT_FORWARDS * history.samples) for forwards in history.forwards]
