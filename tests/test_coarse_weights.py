"""Binary, ternary and 8-bit weights."""

from __future__ import annotations

import numpy as np
import pytest

import popgrad as pg
from fitness import every_dtype, problem


def coarse(w, kind):
    """One weight matrix, from the papers' formulas."""
    size = np.abs(w)
    if kind == "binary":
        return size.mean(dtype=float) * np.where(w >= 0, 1, -1)
    if kind == "ternary":
        kept = size > 0.7 * size.mean(dtype=float)
        return np.sign(w) * kept * size[kept].mean(dtype=float)
    whole = np.rint(w / (size.max() / w.dtype.type(127)))
    assert np.abs(whole).max() == 127
    return whole * (size.max() / w.dtype.type(127))


every_kind = pytest.mark.parametrize("kind", ["binary", "ternary", "int8"])


@every_dtype
@every_kind
def test_coarse_weights_are_those_of_the_formulas(kind, dtype):
    model, population, _, _, _ = problem(dtype=dtype)
    kept = population.copy()
    out = model.quantized(population, kind)
    assert out.dtype == dtype
    for before, after in zip(population, out, strict=True):
        np.testing.assert_array_equal(model.quantized(before, kind), after)
        for name, fine in model.views(before).items():
            expected = coarse(fine, kind) if name.endswith("weight") else fine
            np.testing.assert_allclose(model.views(after)[name], expected, rtol=1e-6 if dtype == "float32" else 1e-14)
    np.testing.assert_array_equal(population, kept)


def test_halves_zeros_and_empty_matrices():
    model = pg.MLP([4, 2], dtype="float64")
    w = [127, 0.5, 1.5, -2.5, 0, -0.0, 0.49, -126.5]
    np.testing.assert_array_equal(model.quantized([*w, 9.25, -7], "int8"), [127, 0, 2, -2, 0, 0, 0, -126, 9.25, -7])
    for kind, value in (("int8", 0), ("ternary", 0), ("binary", 0)):
        np.testing.assert_array_equal(model.quantized(np.zeros(10), kind), np.full(10, value))
    np.testing.assert_array_equal(
        model.quantized([1, -1, 0, -2, 0, 0, 0, 4, 0, 0], "binary")[:8] > 0, [1, 0, 1, 0, 1, 1, 1, 1]
    )
    # The mean is 1: 0.7 is not kept, -0.75 is.
    w = [0.7, -0.75, 2.25, 0, 0, 4.3, 0, 0]
    np.testing.assert_allclose(
        model.quantized([*w, 1, 1], "ternary"), [0, -7.3 / 3, 7.3 / 3, 0, 0, 7.3 / 3, 0, 0, 1, 1]
    )


@pytest.mark.parametrize("limit", [1, 5000, 10**9])
@pytest.mark.parametrize("metric", ["loss", "auc"])
@every_kind
def test_evaluate_with_coarse_weights_is_that_of_the_coarse_networks(kind, metric, limit):
    model, population, X, y, weight = problem(dtype="float32")
    kept = population.copy()
    options = {"metric": metric, "sample_weight": weight, "samples": np.arange(50)}
    values = model.evaluate(population, X, y, weights=kind, memory_limit=limit, **options)
    np.testing.assert_array_equal(values, model.evaluate(model.quantized(population, kind), X, y, **options))
    assert (values != model.evaluate(population, X, y, **options)).all()
    np.testing.assert_array_equal(population, kept)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@every_kind
@pytest.mark.parametrize("at", [0, 30])
def test_broken_weights_are_not_made_whole(kind, at, bad):
    model, population, X, y, _ = problem(dtype="float32")
    expected = model.evaluate(population, X, y, "error_rate", weights=kind)
    population = population.astype(np.float64)
    population[3, at] = bad  # in the first and in the last matrix
    values = model.evaluate(population, X, y, "error_rate", weights=kind)
    assert values[3] == np.inf
    np.testing.assert_array_equal(np.delete(values, 3), np.delete(expected, 3))


def test_a_search_trains_a_binary_network():
    from sklearn.datasets import load_iris

    X, y = load_iris(return_X_y=True)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    model = pg.MLP([4, 16, 3], "step", seed=1)

    def fitness(population):
        return model.evaluate(population, X, y, weights="binary")

    found = pg.minimize(
        fitness,
        model.params,
        search=pg.search.OpenAIES(popsize=64, sigma=0.3, optimizer=pg.optim.Adam(0.1)),
        budget=pg.Budget(evaluations=20_000),
    )
    model.params = model.quantized(found.x, "binary")
    for name, view in model.views().items():
        assert not name.endswith("weight") or len(np.unique(np.abs(view))) == 1
    assert np.mean(model.predict(X) != y) < 0.08
