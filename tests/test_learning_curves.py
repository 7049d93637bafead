"""Learning curves and tables of a history."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import popgrad as pg
from fitting import small
from popgrad import optim, search


def run(**chosen):
    model, X, y = small()
    return pg.fit(model, X, y, **{"optimizer": optim.Adam(0.05), "epochs": 6, "batch_size": 8, **chosen})


def curves(figure):
    """(panel, name) -> (x, y) of each curve."""
    titles = [annotation.text for annotation in figure.layout.annotations]
    panel = {f"x{k}" if k > 1 else "x": title for k, title in enumerate(titles, 1)}
    return {(panel[trace.xaxis], trace.name): (list(trace.x), list(trace.y)) for trace in figure.data}


def test_the_curves_are_the_columns_of_the_history():
    history = run(validation=0.2)
    shown = curves(history.plot())
    epochs = [0, 1, 2, 3, 4, 5, 6]
    assert shown["loss", "training"] == (epochs, history.loss)
    assert shown["loss", "validation"] == (epochs, history.validation_loss)
    assert shown["error_rate", "training"] == (epochs, history.metric)
    assert shown["error_rate", "validation"] == (epochs, history.validation_metric)
    best = history.best
    assert shown["loss", "best record"] == ([best], [history.validation_loss[best]])
    assert shown["error_rate", "best record"] == ([best], [history.validation_metric[best]])
    assert len(shown) == 6


def test_each_name_is_once_in_the_legend():
    traces = run(validation=0.2, objective="f1_macro").plot().data
    assert sorted(trace.name for trace in traces if trace.showlegend) == ["best record", "training", "validation"]


def test_an_objective_of_its_own_has_a_panel():
    history = run(objective="f1_macro")
    shown = curves(history.plot("forwards"))
    assert shown["f1_macro (minimized)", "training"] == (history.forwards, history.objective)
    assert ("loss", "validation") not in shown
    assert shown["loss", "best record"][1] == [history.loss[history.best]]


@pytest.mark.parametrize("x", ["forwards", "evaluations", "seconds"])
def test_the_axis_may_be_chosen(x):
    history = run(optimizer=search.PSO(12), epochs=60)
    figure = history.plot(x)
    assert curves(figure)["loss", "training"][0] == getattr(history, x)
    assert figure.layout.xaxis.title.text.startswith(x)


def test_what_cannot_be_plotted(monkeypatch):
    with pytest.raises(pg.InputError, match=r"\[History.plot\] unknown x 'epoch'. Did you mean 'epochs'"):
        run().plot("epoch")
    with pytest.raises(pg.InputError, match=r"\[History.plot\] the history has no records"):
        pg.History("error_rate").plot()
    history = run()
    monkeypatch.setitem(sys.modules, "plotly.subplots", None)
    with pytest.raises(pg.InputError, match=r'plotly is missing: pip install "popgrad\[report\]"'):
        history.plot()


@pytest.mark.parametrize("validation", [None, 0.2])
def test_a_table_has_a_row_for_each_record(validation):
    history = run(validation=validation, epochs=3)
    table = history.to_frame()
    names = ["epochs", "forwards", "evaluations", "seconds", "loss", "metric", "objective"]
    assert list(table) == names + (["validation_loss", "validation_metric"] if validation else [])
    assert table.index.name == "record"
    np.testing.assert_array_equal(table["epochs"], [0, 1, 2, 3])
    for name in names[1:]:
        assert table[name].tolist() == getattr(history, name)


def test_a_table_of_no_records_is_empty():
    assert len(pg.History("mse").to_frame()) == 0
