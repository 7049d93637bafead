"""The learning-rate range test."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import popgrad as pg
from popgrad import optim


def data(seed=0, count=256):
    X = np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)
    return X, (X[:, 0] + X[:, 1] > 0).astype(int)


def model():
    return pg.MLP([6, 16, 2], seed=0)


def test_the_rates_grow_exponentially_and_the_losses_are_those_of_the_steps():
    X, y = data()
    net = model()
    result = pg.lr_range_test(net, X, y, optimizer=optim.SGD(), low=1e-3, high=0.1, steps=20, batch_size=64, seed=3)
    np.testing.assert_allclose(result.learning_rates, np.geomspace(1e-3, 0.1, 20), rtol=1e-12)
    w, gradient, mean = net.params.copy(), np.empty_like(net.params), 0.0
    objective, batches = net.objective(X, y), pg.train.batches.Batches(256, 64, 3)
    for k, rate in enumerate(result.learning_rates):
        loss = objective.gradient(w, batches.at(k + 1), gradient)
        assert result.losses[k] == pytest.approx(loss, rel=1e-5)
        mean = 0.9 * mean + 0.1 * loss
        assert result.smoothed[k] == pytest.approx(mean / (1 - 0.9 ** (k + 1)), rel=1e-5)
        w -= np.float32(rate) * gradient
    assert not result.exploded


@pytest.mark.parametrize(
    "optimizer",
    [
        optim.SGD(),
        optim.Adam(matches="torch"),
        optim.AdamW(weight_decay=0.01, weight_decay_mode="independent"),
        optim.SAM(optim.Momentum()),
        optim.Lookahead(optim.Polyak(optim.Adam())),
    ],
    ids=repr,
)
def test_the_model_does_not_change_and_the_same_seed_gives_the_same_result(optimizer):
    X, y = data()
    net = model()
    before = net.params.copy()
    first, second = (pg.lr_range_test(net, X, y, optimizer=optimizer, high=1.0, steps=60) for _ in range(2))
    assert net.params.tobytes() == before.tobytes()
    assert first.losses.tolist() == second.losses.tolist()
    assert first.losses.tolist() != pg.lr_range_test(net, X, y, optimizer=optimizer, high=1.0, seed=1).losses.tolist()


def test_the_test_ends_when_the_loss_explodes():
    X, y = data()
    net = pg.MLP([6, 16, 1], loss="mse", seed=0)
    result = pg.lr_range_test(net, X, y.astype(float), optimizer=optim.SGD(), low=1e-4, high=1e4, steps=200)
    assert result.exploded
    assert len(result.losses) == len(result.smoothed) == len(result.learning_rates) < 200
    assert np.isfinite(result.losses).all()
    assert result.learning_rates[0] == 1e-4
    lowest = np.minimum.accumulate(result.smoothed)
    assert (result.smoothed > 4 * lowest).tolist() == [False] * (len(lowest) - 1) + [True]
    best = result.smoothed.argmin()
    assert result.suggestion.tenth == result.learning_rates[best] / 10
    assert 1e-4 <= result.suggestion.steepest <= result.learning_rates[best]


def test_a_suggested_rate_trains():
    X, y = data()
    rate = pg.lr_range_test(model(), X, y, optimizer=optim.Adam()).suggestion.steepest
    trained = pg.fit(model(), X, y, optimizer=optim.Adam(rate), epochs=5, record="full")
    assert trained.loss[-1] < 0.5 * trained.loss[0]


def test_a_loss_that_never_falls_suggests_nothing():
    rising = pg.train.RangeTest(np.array([1.0, 2.0]), np.array([1.0, 2.0]), np.array([1.0, 1.5]), False)
    with pytest.raises(pg.InputError, match="the loss never fell: begin below a learning rate of 1"):
        assert rising.suggestion


def test_the_plot_shows_the_losses_and_the_suggestions():
    pytest.importorskip("plotly")
    X, y = data()
    result = pg.lr_range_test(model(), X, y, optimizer=optim.SGD(), low=1e-3)
    figure = result.plot()
    assert [list(trace.y) for trace in figure.data] == [result.losses.tolist(), result.smoothed.tolist()]
    assert figure.layout.xaxis.type == "log"
    assert [shape.x0 for shape in figure.layout.shapes] == list(result.suggestion)
    assert len(pg.train.RangeTest(np.array([1.0]), np.array([1.0]), np.array([1.0]), True).plot().layout.shapes) == 0


def test_a_plot_without_plotly_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(pg.InputError, match=r'plotly is missing: pip install "popgrad\[report\]"'):
        pg.train.RangeTest(np.array([1.0]), np.array([1.0]), np.array([1.0]), True).plot()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"low": 0}, r"low and high must be finite numbers with 0 < low < high, got 0 and 10.0"),
        ({"low": 1.0, "high": 0.1}, "0 < low < high, got 1.0 and 0.1"),
        ({"high": float("inf")}, "0 < low < high"),
        ({"steps": 1}, "steps must be a whole number >= 2, got 1"),
        ({"batch_size": 0}, "batch_size must be a whole number >= 1, got 0"),
        ({"optimizer": pg.search.PSO()}, "optimizer must be an optimizer of popgrad.optim with a learning rate"),
        ({"optimizer": "adam"}, "optimizer must be an optimizer of popgrad.optim with a learning rate, got 'adam'"),
        ({"model": None}, "model must be a popgrad.Model"),
        ({"seed": -1}, "seed must be a whole number >= 0"),
    ],
)
def test_bad_input(arguments, message):
    X, y = data()
    given = {"model": model(), "X": X, "y": y, "optimizer": optim.SGD()} | arguments
    with pytest.raises(pg.InputError, match=message):
        pg.lr_range_test(**given)


def test_a_start_that_is_not_finite_is_refused():
    X, y = data()
    net = model()
    net.params = np.full_like(net.params, 1e38)
    with pytest.raises(pg.InputError, match="lr_range_test"):
        pg.lr_range_test(net, X, y, optimizer=optim.SGD())
