"""`pg.fit_many` has the bits of single runs."""

from __future__ import annotations

import numpy as np
import pytest

import popgrad as pg
from fitting import bits, small
from popgrad import optim, search

CHOSEN = {"epochs": 6, "batch_size": 6}
_, X, Y = small(60)


def net(seed=0, **chosen):
    return pg.MLP([4, 6, 3], activation="tanh", seed=seed, **chosen)


def single(model, optimizer, seed=0, **chosen):
    return bits(pg.fit(model, X, Y, optimizer=optimizer, seed=seed, **{**CHOSEN, **chosen}))


METHODS = [
    optim.Adam(0.01),
    optim.SGD(0.1, clip_norm=0.5),
    optim.NAdam(0.01),
    optim.LAMB(),
    optim.Lookahead(optim.Adam()),
    optim.SophiaG(0.01),
    search.PSO(popsize=5),
]


@pytest.mark.parametrize("validation", [None, 0.2, (X[:9], Y[:9])], ids=["none", "share", "pair"])
@pytest.mark.parametrize("threads", [1, 3])
def test_each_run_is_a_single_run(validation, threads):
    seeds, before = range(len(METHODS)), pg.get_num_threads()
    models = [net(seed, dropout=0.1) for seed in seeds]
    pg.set_num_threads(threads)
    try:
        fitted = pg.fit_many(models, X, Y, optimizers=METHODS, seeds=seeds, validation=validation, **CHOSEN)
    finally:
        pg.set_num_threads(before)
    assert fitted.models == models
    for run, method, seed in zip(fitted, METHODS, seeds, strict=True):
        alone = net(seed, dropout=0.1)
        assert single(alone, method, seed, validation=validation) == bits(run.history)
        assert alone.params.tobytes() == run.model.params.tobytes()
        assert (run.optimizer, run.seed, dict(run.settings)) == (method, seed, {})


def test_one_model_is_copied_for_each_seed():
    model = net(5)
    before = model.params.copy()
    fitted = pg.fit_many(model, X, Y, optimizer=optim.Adam(), seeds=[3, 1], **CHOSEN)
    assert model.params.tobytes() == before.tobytes()
    for run, seed in zip(fitted, (3, 1), strict=True):
        assert single(net(seed), optim.Adam(), seed) == bits(run.history)
    one = pg.fit_many(model, X, Y, optimizer=optim.Adam(), **CHOSEN)
    assert single(net(5), optim.Adam()) == bits(one[0].history)


def test_a_grid_is_a_sweep():
    grid = {"learning_rate": [0.001, 0.1], "weight_decay": [0.0, 0.1]}
    fitted = pg.fit_many(net(), X, Y, optimizer=optim.AdamW(), grid=grid, seeds=(0, 1), validation=0.2, **CHOSEN)
    assert len(fitted) == 8
    for run in fitted:
        expected = single(net(run.seed), optim.AdamW(**run.settings), run.seed, validation=0.2)
        assert bits(run.history) == expected
    table = fitted.to_frame()
    assert list(table.columns[:3]) == ["learning_rate", "weight_decay", "seed"]
    assert table["objective"].idxmin() == fitted.runs.index(fitted.best)
    assert len(fitted[2:4]) == 2
    assert fitted[2:4][0] is fitted[2]


def test_a_bootstrap_draws_as_many_samples():
    fitted = pg.fit_many(net(), X, Y, optimizer=optim.Adam(), seeds=range(3), bootstrap=True, **CHOSEN)
    forwards = {run.history.forwards[-1] for run in fitted}
    assert max(forwards) < 6 * 3 * 60 * 0.8  # samples that were not drawn are not used
    assert len({run.history.loss[-1] for run in fitted}) == 3
    again = pg.fit_many(net(), X, Y, optimizer=optim.Adam(), seeds=range(3), bootstrap=True, **CHOSEN)
    assert [bits(run.history) for run in again] == [bits(run.history) for run in fitted]


def test_text_labels_reach_every_model():
    names = np.array(["a", "b", "c"])[Y]
    fitted = pg.fit_many(net(), X, names, optimizer=optim.Adam(), seeds=range(2), **CHOSEN)
    for model in fitted.models:
        assert set(model.predict(X)) <= {"a", "b", "c"}


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({}, "pass either optimizer, for all runs, or optimizers"),
        ({"optimizer": optim.SGD(), "optimizers": [optim.SGD()]}, "pass either optimizer"),
        ({"optimizers": []}, "optimizers must not be empty"),
        ({"optimizer": optim.SGD(), "seeds": []}, "seeds must not be empty"),
        ({"optimizer": optim.SGD(), "seeds": [-1]}, "seed"),
        ({"optimizer": optim.SGD(), "grid": {"lr": [1]}}, "SGD has no setting 'lr' for the grid. Known: learning_rate"),
        ({"optimizer": optim.SGD(), "grid": {"learning_rate": []}}, "needs a list of values for 'learning_rate'"),
        ({"optimizers": [optim.SGD()], "grid": {"learning_rate": [1.0]}}, "a grid needs optimizer"),
        ({"optimizer": optim.SGD(), "grid": {"learning_rate": [-1.0]}}, "learning_rate must be a finite number > 0"),
        ({"optimizer": "sgd"}, "optimizer must be a method"),
        (
            {"optimizer": optim.SGD(), "models": [net(), net()], "seeds": [1, 2, 3]},
            r"seeds must have one entry per model",
        ),
        ({"optimizer": optim.SGD(), "models": [net(), pg.MLP([4, 5, 3])]}, "models must have one shape; model 1 is"),
        ({"optimizer": optim.SGD(), "models": 2 * [net()]}, "models must be different objects"),
        ({"optimizer": optim.SGD(), "models": []}, "models must be a popgrad.Model or several"),
        ({"optimizer": optim.SGD(), "models": [net()], "grid": {"learning_rate": [1.0]}}, "a grid needs one model"),
    ],
)
def test_what_is_refused(chosen, message):
    models = chosen.pop("models", net()) if "models" in chosen else net()
    listed = models if isinstance(models, list) else [models]
    before = [model.params.copy() for model in listed]
    with pytest.raises(pg.InputError, match=message):
        pg.fit_many(models, X, Y, **chosen)
    for model, params in zip(listed, before, strict=True):
        assert model.params.tobytes() == params.tobytes()


def test_models_are_unchanged_if_one_cannot_be_trained():
    models = [net(), net(1)]
    models[1].params = models[1].params * np.float32(1e38)
    before = [model.params.copy() for model in models]
    with pytest.raises(pg.InputError, match=r"not finite|overflows"):
        pg.fit_many(models, X, Y, optimizer=optim.SGD(), **CHOSEN)
    for model, params in zip(models, before, strict=True):
        assert model.params.tobytes() == params.tobytes()
