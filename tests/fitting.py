"""What the tests of pg.fit share."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.datasets

import popgrad as pg
from popgrad import optim, search

EVERY = {**optim.REGISTRY, **search.REGISTRY}

every_algorithm = pytest.mark.parametrize("name", EVERY)
every_optimizer = pytest.mark.parametrize("name", optim.REGISTRY)
every_search = pytest.mark.parametrize("name", search.REGISTRY)


def real(name):
    X, y = getattr(sklearn.datasets, f"load_{name}")(return_X_y=True)
    X = (X - X.mean(axis=0)) / np.maximum(X.std(axis=0), 1e-9)
    return X, (y - y.mean()) / y.std() if name == "diabetes" else y


def small(samples=20, dtype="float32", **chosen):
    """(model, X, y): three classes that can be told apart."""
    rng = np.random.default_rng(1)
    y = np.arange(samples) % 3
    X = rng.normal(size=(samples, 4)) + 2 * np.eye(4)[y]
    return pg.MLP([4, 6, 3], activation="tanh", dtype=dtype, **chosen), X, y


def bits(history):
    """All of a history but its wall time."""
    lists = (history.forwards, history.evaluations, history.loss, history.metric)
    held = (history.validation_loss, history.validation_metric)
    rest = (history.best, history.best_params.tobytes(), history.nonfinite, history.reason, history.metric_name)
    return (*map(tuple, lists), *map(tuple, held), *rest)
