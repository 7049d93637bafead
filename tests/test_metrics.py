"""Metrics against scikit-learn, functions of the user, and subsets of the samples as the fitness of a population."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from sklearn import metrics as sk

import popgrad as pg
from fitness import CASES, EVERY, LABELS, NUMBERS, REFERENCE, every_dtype, problem, raw, wrong
from popgrad.metrics import NAMES

is_weighted = pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])


@every_dtype
@pytest.mark.parametrize("metric", ["loss", "error_rate", *LABELS])
def test_only_ratios_of_weights_matter(metric, dtype):
    model, population, X, y, weight = problem(dtype=dtype)
    expected = model.evaluate(population, X, y, metric, sample_weight=weight)
    for scale in (2.0**-1060, 1e-300, 1e-45, 3.0, 1e38, 1e300):
        scaled = model.evaluate(population, X, y, metric, sample_weight=weight.astype(np.float64) * scale)
        np.testing.assert_allclose(scaled, expected, rtol=2e-6 if dtype == "float32" else 1e-13)
    np.testing.assert_array_equal(model.evaluate(population, X, y, metric, sample_weight=8 * weight), expected)


def test_data_can_be_pickled():
    model, population, X, y, weight = problem()
    data = model.objective(X, y, weight)
    values = data.values(population)
    for other in (copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        np.testing.assert_array_equal(other.values(population), values)


def test_every_metric_has_a_reference():
    assert {name if isinstance(name, str) else name[0] for name in REFERENCE} == set(NAMES) == {*LABELS, *NUMBERS}


@every_dtype
@is_weighted
@pytest.mark.parametrize(("metric", "loss", "outputs"), CASES)
def test_metrics_equal_scikit_learn(metric, loss, outputs, weighted, dtype):
    model, population, X, y, weight = problem(loss, outputs, dtype=dtype)
    w = weight if weighted else None
    expected = [REFERENCE[metric](z, y, w) for z in raw(model, population, X)]
    values = model.evaluate(population, X, y, metric, sample_weight=w)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, expected, rtol=1e-12 if dtype == "float64" else 2e-6)
    assert np.ptp(values) > 0.01  # the candidates are not all alike


@pytest.mark.parametrize(("metric", "loss", "outputs"), CASES)
def test_weight_zero_is_absence_and_a_whole_weight_is_a_repetition(metric, loss, outputs):
    model, population, X, y, weight = problem(loss, outputs)
    weight[::3] = 0
    if loss == "cross_entropy":
        weight[y == 0] = 0  # a class that is there in name only
    if metric == "auc" and outputs == 2:
        y[:2], weight[:2] = [0, 1], 1
    counts = weight.astype(int)
    expected = model.evaluate(population, np.repeat(X, counts, axis=0), np.repeat(y, counts, axis=0), metric)
    np.testing.assert_allclose(model.evaluate(population, X, y, metric, sample_weight=weight), expected, rtol=1e-12)


def test_auc_counts_equal_scores_as_half():
    model = pg.MLP([1, 1], "identity", "binary_cross_entropy", dtype="float64")
    X, y = np.array([[0.0], [1], [1], [1], [2], [2]]), np.array([0, 0, 1, 1, 0, 1])
    # Of 9 pairs: the positives 1, 1, 2 against the negatives 0, 1, 2: 1 + 0.5 + 0, twice, and 1 + 1 + 0.5.
    values = model.evaluate([[1, 0], [-1, 0], [0, 3]], X, y, "auc")
    np.testing.assert_allclose(values, [1 - 5.5 / 9, 5.5 / 9, 0.5], rtol=1e-15)


def test_f1_counts_a_class_that_is_only_predicted():
    model = pg.MLP([1, 3], "identity", dtype="float64")
    bias = [[0, 0, 0, *b] for b in ([1, 0, 0], [0, 0, 1])]
    values = model.evaluate(bias, np.zeros((4, 1)), [0, 0, 0, 1], "f1_macro")
    np.testing.assert_allclose(values, [1 - (6 / 7 + 0) / 2, 1], rtol=1e-15)


def test_r2_of_a_constant_target_is_that_of_scikit_learn():
    model = pg.MLP([1, 2], "identity", "mse", dtype="float64")
    X, y = np.array([[0.0], [1], [2]]), np.array([[0.5, 0], [0.5, 1], [0.5, 3]])
    for params in ([0, 1, 0.5, 0], [0, 1, 0.25, 0]):
        value = model.evaluate([params], X, y, "r2")[0]
        model.params = params
        assert value == pytest.approx(1 - sk.r2_score(y, model.forward(X)), rel=1e-12)
    # One sample: nothing varies.
    np.testing.assert_array_equal(model.evaluate([[0, 1, 0.5, 0], [0, 1, 0, 0]], X[:1], y[:1], "r2"), [0, 0.5])


def test_quantile_is_minimal_at_the_quantile():
    y = np.random.default_rng(0).exponential(size=200)
    model = pg.MLP([1, 1], "identity", "mae", dtype="float64")
    constants = np.column_stack([np.zeros(200), np.sort(y)])
    for level in (0.1, 0.5, 0.9):
        values = model.evaluate(constants, np.zeros((200, 1)), y, ("quantile", level))
        assert np.mean(y <= constants[values.argmin(), 1]) == pytest.approx(level, abs=0.006)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("metric", "loss", "outputs"), CASES)
def test_broken_candidates_are_infinite_and_the_others_right(metric, loss, outputs, bad):
    model, population, X, y, _ = problem(loss, outputs, dtype="float32")
    expected = model.evaluate(population, X, y, metric)
    population[1], population[4, -1] = bad, bad
    values = model.evaluate(population, X, y, metric)
    np.testing.assert_array_equal(values[[1, 4]], np.inf)
    others = [0, 2, 3, 5, 6]
    np.testing.assert_array_equal(values[others], expected[others])


@pytest.mark.parametrize("objective", [*LABELS, "r2", ("quantile", 0.9)])
@pytest.mark.parametrize("batch_size", ["auto", 8])
def test_a_search_minimizes_a_metric(objective, batch_size):
    numbers = objective not in LABELS
    model, _, X, y, _ = problem("mse" if numbers else "cross_entropy")
    start = model.evaluate(model.params[None], X, y, objective)[0]
    options = {"budget": pg.Budget(evaluations=400), "batch_size": batch_size, "record_every": 1}
    history = pg.fit(model, X, y, optimizer=pg.search.DE(popsize=20), objective=objective, **options)
    assert model.evaluate(model.params[None], X, y, objective)[0] < start
    np.testing.assert_array_equal(model.params, history.best_params)


def test_minibatches_of_one_class_do_not_end_a_search_by_auc():
    model, _, X, y, _ = problem()
    history = pg.fit(
        model, X, y, optimizer=pg.search.PSO(), objective="auc", batch_size=1, budget=pg.Budget(evaluations=320)
    )
    assert history.nonfinite == 0


# --- Functions of one's own -------------------------------------------------------------------------------------------


def squared(outputs, y, weight=None):
    return np.average(((outputs - y) ** 2).mean(axis=2), axis=1, weights=weight)


@is_weighted
@pytest.mark.parametrize("samples", [None, [3, 5, 5, 80]])
def test_a_function_of_raw_outputs(weighted, samples):
    model, population, X, y, weight = problem("mse")
    chosen = {"samples": samples, "sample_weight": weight if weighted else None}
    values = model.evaluate(population, X, y, squared, **chosen)
    np.testing.assert_allclose(values, model.evaluate(population, X, y, "mse", **chosen), rtol=1e-12)
    model, population, X, y, _ = problem()
    values = model.evaluate(population, X, y, wrong, samples=samples)
    np.testing.assert_allclose(values, model.evaluate(population, X, y, "error_rate", samples=samples), rtol=1e-12)


@pytest.mark.parametrize("metric", ["f1_macro", "auc", wrong])
@pytest.mark.parametrize("limit", [1, 90 * 3 * 8 - 1, 90 * 3 * 8, 2 * 90 * 3 * 8, 30_000, 60_000, 10**12])
def test_memory_limit_cuts_the_candidates_and_changes_no_bit(metric, limit):
    model, population, X, y, _ = problem(members=11)
    expected = model.evaluate(population, X, y, metric)
    np.testing.assert_array_equal(model.evaluate(population, X, y, metric, memory_limit=limit), expected)


def test_memory_limit_is_that_of_the_raw_outputs():
    model, population, X, y, _ = problem(members=11)
    sizes = []

    def count(outputs, y):
        sizes.append(outputs.nbytes)
        return outputs.sum(axis=(1, 2))

    for limit, most in ((1, 1), (3 * 90 * 3 * 8 + 5, 3), (10**9, 11)):
        sizes.clear()
        model.evaluate(population, X, y, count, memory_limit=limit)
        assert max(sizes) == most * 90 * 3 * 8
        assert len(sizes) == -(-11 // most)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_a_function_finds_not_finite_is_infinite(bad):
    model, population, X, y, _ = problem(members=3)
    values = model.evaluate(population, X, y, lambda outputs, y: np.array([1, bad, 2]))
    np.testing.assert_array_equal(values, [1, np.inf, 2])


def test_a_function_sees_labels_and_targets_that_it_cannot_change():
    seen = []

    def look(outputs, y, weight):
        seen.append((outputs.shape, outputs.dtype, y, weight))
        for array in (y, weight):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 1
        outputs[:] = np.nan  # its own
        return np.zeros(len(outputs))

    for loss, outputs, shape, kind in (("cross_entropy", 3, (90,), "int64"), ("mse", 2, (90, 2), "float32")):
        model, population, X, y, weight = problem(loss, outputs, dtype="float32")
        kept = y.copy()
        np.testing.assert_array_equal(model.evaluate(population, X, y, look, sample_weight=weight), np.zeros(7))
        size, dtype, targets, weights = seen.pop()
        assert (size, dtype, targets.shape, targets.dtype) == ((7, 90, outputs), "float32", shape, kind)
        np.testing.assert_array_equal(targets, kept)
        np.testing.assert_array_equal(weights, weight)
        np.testing.assert_array_equal(y, kept)


def test_what_a_function_raises_is_passed_on():
    model, population, X, y, _ = problem()
    with pytest.raises(ZeroDivisionError):
        model.evaluate(population, X, y, lambda outputs, y: 1 / 0)


def test_a_function_is_the_objective_of_a_search():
    model, _, X, y, _ = problem()
    options = {"optimizer": pg.search.DE(popsize=20), "budget": pg.Budget(evaluations=400), "seed": 3}
    pg.fit(model, X, y, objective=wrong, **options)
    other = problem()[0]
    pg.fit(other, X, y, objective="error_rate", **options)
    np.testing.assert_array_equal(model.params, other.params)


@pytest.mark.parametrize("returned", [0.5, [0.5], "ab", None, [[1, 2], [3, 4]], [1j, 2]])
def test_fit_calls_a_function_before_the_work(returned):
    model, _, X, y, _ = problem()
    kept, calls = model.params.copy(), []

    def objective(outputs, y):
        calls.append(len(outputs))
        return returned

    with pytest.raises(
        pg.InputError, match=r"\[fit\] metric objective must return .* 2 candidates, shape \(2,\), got "
    ):
        pg.fit(model, X, y, optimizer=pg.search.DE(), objective=objective)
    assert calls == [2]
    np.testing.assert_array_equal(model.params, kept)


@is_weighted
@pytest.mark.parametrize(("metric", "loss", "outputs"), EVERY)
def test_samples_are_the_rows_that_count(metric, loss, outputs, weighted):
    model, population, X, y, weight = problem(loss, outputs)
    rows = np.random.default_rng(1).integers(len(X), size=70)  # some twice, some never
    w = weight if weighted else None
    values = model.evaluate(population, X, y, metric, sample_weight=w, samples=rows)
    part = model.evaluate(population, X[rows], y[rows], metric, sample_weight=weight[rows] if weighted else None)
    np.testing.assert_array_equal(values, part)
    assert (values != model.evaluate(population, X, y, metric, sample_weight=w)).any()


@pytest.mark.parametrize("kind", [list, np.uint8, np.int32, np.uint64, lambda a: np.repeat(a, 2).astype(int)[::2]])
@pytest.mark.parametrize("metric", ["loss", "auc"])
def test_samples_of_any_whole_type(kind, metric):
    model, population, X, y, _ = problem()
    rows = np.arange(0, 90, 3)
    given = rows.tolist() if kind is list else kind(rows) if not isinstance(kind, type) else rows.astype(kind)
    expected = model.evaluate(population, X, y, metric, samples=rows)
    np.testing.assert_array_equal(model.evaluate(population, X, y, metric, samples=given), expected)
