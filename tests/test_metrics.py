"""What a fitness may be: metrics against scikit-learn, functions of one's own, parts of the data, coarse weights."""

from __future__ import annotations

import copy
import pickle
import tracemalloc

import numpy as np
import pytest
from scipy import special
from sklearn import metrics as sk

import popgrad as pg
from popgrad.metrics import NAMES
from popgrad.racing import schedule

LABELS = ("balanced_error", "f1_macro", "auc")
NUMBERS = ("r2", "quantile")

is_weighted = pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


def problem(loss="cross_entropy", outputs=3, samples=90, members=7, dtype="float64", seed=0, sizes=(4, 5)):
    """(model, population, X, y, weight); outputs repeat, so that some are equal."""
    rng = np.random.default_rng(seed)
    model = pg.MLP([*sizes, outputs], "tanh", loss, dtype=dtype)
    population = rng.normal(size=(members, model.params.size)).astype(dtype)
    X = rng.normal(size=(samples, sizes[0]))[rng.integers(samples, size=samples)].astype(dtype)
    if loss == "cross_entropy":
        y = np.minimum(rng.integers(outputs + 2, size=samples), outputs - 1)  # the classes are not of one size
    elif loss == "binary_cross_entropy":
        y = (rng.random((samples, outputs)) < 0.3).astype(dtype)
    else:
        y = rng.normal(size=(samples, outputs)).astype(dtype)
    return model, population, X, y, rng.integers(1, 5, samples).astype(dtype)


def raw(model, population, X):
    """Raw outputs (P, B, outputs) in the model's own words."""
    kept, out = model.params.copy(), []
    for params in population:
        model.params = params
        out.append(model.forward(X))
    model.params = kept
    return np.array(out)


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


# --- Metrics, against scikit-learn ------------------------------------------------------------------------------------


def labels_of(z):
    return z.argmax(axis=1) if z.shape[1] > 1 else (z[:, 0] > 0).astype(int)


def sk_auc(z, y, w):
    if y.ndim == 2:  # binary_cross_entropy
        return sk.roc_auc_score(y, z, average="macro", sample_weight=w)
    if z.shape[1] == 2:
        return sk.roc_auc_score(y, z[:, 1] - z[:, 0], sample_weight=w)
    probability = special.softmax(z, axis=1)
    columns = [sk.roc_auc_score(y == k, probability[:, k], sample_weight=w) for k in range(z.shape[1])]
    assert w is not None or np.mean(columns) == pytest.approx(sk.roc_auc_score(y, probability, multi_class="ovr"))
    return np.mean(columns)


REFERENCE = {  # of one candidate: (z, y, weight)
    "balanced_error": lambda z, y, w: 1 - sk.balanced_accuracy_score(y.ravel(), labels_of(z), sample_weight=w),
    "f1_macro": lambda z, y, w: 1 - sk.f1_score(y.ravel(), labels_of(z), average="macro", sample_weight=w),
    "auc": lambda z, y, w: 1 - sk_auc(z.astype(float), y, w),
    "r2": lambda z, y, w: 1 - sk.r2_score(y, z, sample_weight=w),
    "quantile": lambda z, y, w: sk.mean_pinball_loss(y, z, sample_weight=w),
    ("quantile", 0.9): lambda z, y, w: sk.mean_pinball_loss(y, z, sample_weight=w, alpha=0.9),
    ("quantile", 0.05): lambda z, y, w: sk.mean_pinball_loss(y, z, sample_weight=w, alpha=0.05),
}
CASES = [
    *[(metric, "cross_entropy", outputs) for metric in LABELS for outputs in (2, 3, 6)],
    *[(metric, "binary_cross_entropy", 1) for metric in LABELS],
    ("auc", "binary_cross_entropy", 3),
    *[(metric, loss, k) for metric in list(REFERENCE)[3:] for loss, k in (("mse", 1), ("mae", 3), ("huber", 2))],
]


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
def test_a_search_minimises_a_metric(objective, batch_size):
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


def wrong(outputs, y):
    return (outputs.argmax(axis=2) != y).mean(axis=1)


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


# --- Parts of the data ------------------------------------------------------------------------------------------------


EVERY = [*CASES, ("loss", "cross_entropy", 3), ("error_rate", "binary_cross_entropy", 1), ("mae", "mse", 2)]


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


# --- Coarse weights ---------------------------------------------------------------------------------------------------


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


# --- Races ------------------------------------------------------------------------------------------------------------


def spread(members, samples=640):
    """Candidates at all distances from a network that knows the labels: (model, population, X, y)."""
    model, _, X, _, _ = problem(members=1, samples=samples, dtype="float32", sizes=(4, 8))
    rng = np.random.default_rng(5)
    distance = rng.permutation(members) / members
    noise = rng.normal(size=(members, model.params.size)) * distance[:, None]
    return model, (model.params + noise).astype(np.float32), X, model.predict(X)


@pytest.mark.parametrize("metric", ["loss", "error_rate", "auc", wrong])
def test_a_race_finds_the_best_for_a_part_of_the_work(metric):
    model, population, X, y = spread(64)
    kept = population.copy()
    result = pg.race(model, population, X, y, metric)
    np.testing.assert_array_equal(population, kept)
    whole = model.evaluate(population, X, y, metric)
    assert len(result.survivors) == 1
    assert (whole < whole[result.survivors[0]]).sum() <= 2
    assert result.forwards == sum(size * -(-640 // size * 2) for size in (64, 32, 16, 8, 4, 2))
    assert result.forwards < 0.2 * 64 * 640
    sizes, counts = np.unique(result.samples, return_counts=True)
    np.testing.assert_array_equal(sizes, [20, 40, 80, 160, 320, 640])
    np.testing.assert_array_equal(counts, [32, 16, 8, 4, 2, 2])
    final = result.samples == 640
    np.testing.assert_allclose(result.fitness[final], whole[final], rtol=1e-5, atol=1e-6)  # summed in another order
    assert result.fitness[final].min() == result.fitness[result.survivors[0]]
    again = pg.race(model, population, X, y, metric, seed=0)
    np.testing.assert_array_equal(again.fitness, result.fitness)
    assert (pg.race(model, population, X, y, metric, seed=1).fitness != result.fitness).any()


def test_rounds_and_survivors_of_a_race():
    model, population, X, y = spread(60)
    whole = model.evaluate(population, X, y)
    one = pg.race(model, population, X, y, rounds=1, survivors=60)
    assert one.forwards == 60 * 640
    np.testing.assert_allclose(one.fitness, whole, rtol=1e-5)
    np.testing.assert_array_equal(whole[one.survivors], np.sort(whole))
    three = pg.race(model, population, X, y, keep=1 / 3, rounds=3, survivors=4)
    assert three.forwards == 60 * 72 + 20 * 214 + 7 * 640
    np.testing.assert_array_equal(whole[three.survivors], np.sort(whole[three.samples == 640])[:4])
    assert pg.race(model, population, X, y, survivors=30).forwards == 60 * 640
    assert pg.race(model, population[:1], X, y).survivors == [0]
    assert pg.race(model, population[:3], X[:2], y[:2], keep=0.999).forwards == 3 * 2 + 2 * 2


def test_estimates_of_a_race_are_made_consistent():
    race = pg.Race(np.array([0.1, 0.3, 0.5, 0.2, np.inf, 0.35]), np.array([10, 40, 40, 20, 10, 20]), np.array([1]), 0)
    values = race.consistent()
    np.testing.assert_allclose(values, [0.5, 0.3, 0.5, 0.5, np.inf, 0.5], rtol=1e-15)
    assert values[1] < values[2] < values[3] == values[5] < values[0]
    np.testing.assert_array_equal(race.fitness[0], 0.1)


def test_broken_candidates_lose_a_race_and_weights_are_those_of_the_samples():
    model, population, X, y = spread(16)
    best = pg.race(model, population, X, y).survivors[0]
    broken = population.copy()
    broken[np.arange(16) != best] = np.nan
    result = pg.race(model, broken, X, y)
    assert result.survivors == [best]
    assert np.isfinite(result.fitness).sum() == 1
    weight = np.where(np.arange(640) < 200, 2.0, 0.0)
    weighed = pg.race(model, population, X, y, sample_weight=weight, rounds=1)
    assert weighed.forwards == 16 * 200
    np.testing.assert_allclose(weighed.fitness, model.evaluate(population, X[:200], y[:200]), rtol=1e-5)


@pytest.mark.parametrize("name", pg.search.REGISTRY)
@pytest.mark.parametrize("batch_size", ["auto", 100])
def test_a_search_that_races_is_charged_what_it_used(name, batch_size):
    model, _, X, y = spread(2)
    model.initialize(9)
    start = model.loss(X, y)
    options = {"batch_size": batch_size, "racing": pg.Racing(0.5), "record_every": 1}
    history = pg.fit(model, X, y, optimizer=pg.search.REGISTRY[name](), budget=pg.Budget(forwards=1.5e5), **options)
    assert model.loss(X, y) == history.loss[history.best] < start
    members, samples = history.evaluations[1], 640 if batch_size == "auto" else 100
    used = sum(size * count for size, count in schedule(members, samples, 0.5))
    assert history.forwards[1] == used
    assert members < 8 or used < 0.6 * members * samples


# --- Limits -----------------------------------------------------------------------------------------------------------


LAYOUTS = {
    "read_only": lambda a: np.broadcast_to(a, a.shape),
    "fortran": np.asfortranarray,
    "strided": lambda a: np.repeat(a, 2, axis=0)[::2],
    "backwards": lambda a: a[::-1].copy()[::-1],
    "swapped_bytes": lambda a: a.astype(a.dtype.newbyteorder()),
    "float16": lambda a: a.astype(np.float16),
    "float64": lambda a: a.astype(np.float64),
    "int8": lambda a: a.astype(np.int8),
    "list": lambda a: a.tolist(),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize(("metric", "loss"), [(m, "cross_entropy") for m in LABELS] + [(m, "mse") for m in NUMBERS])
@pytest.mark.parametrize("weights", [None, "ternary"])
def test_layout_of_inputs_changes_nothing(metric, loss, weights, layout):
    rng = np.random.default_rng(0)
    model = pg.MLP([4, 6, 3], "tanh", loss)
    population = rng.integers(-3, 4, (9, 51)).astype(np.float32)
    X, y = rng.integers(-3, 4, (40, 4)).astype(np.float32), rng.integers(3, size=(40, 3)[: 1 + (loss == "mse")])
    weight = rng.integers(1, 4, 40)

    def values(change, limit):
        given = [change(array) for array in (population, X, y, weight)]
        copies = [np.array(array) for array in given]
        options = {"sample_weight": given[3], "weights": weights, "memory_limit": limit}
        out = model.evaluate(*given[:3], metric, **options)
        for array, kept in zip(given, copies, strict=True):
            np.testing.assert_array_equal(array, kept)
        return out.tobytes()

    for limit in (1, 500, 10**8):
        assert values(layout, limit) == values(np.array, 10**8)


@pytest.mark.parametrize(("metric", "loss", "outputs"), [case for case in EVERY if case[0] != "auc"])
def test_one_sample(metric, loss, outputs):
    model, population, X, y, _ = problem(loss, outputs)
    values = model.evaluate(population, X[:1], y[:1], metric)
    assert np.isfinite(values).all()
    np.testing.assert_array_equal(values, model.evaluate(population, X, y, metric, samples=[0]))
    if metric in ("balanced_error", "f1_macro"):
        labels = [labels_of(z)[0] for z in raw(model, population, X[:1])]
        np.testing.assert_array_equal(values, labels != y[:1].ravel())


def test_a_population_as_large_as_the_address_space():
    """Rows that repeat take no memory themselves; what is made of them would."""
    model, population, X, y, _ = problem(dtype="float32")
    huge = np.broadcast_to(population[0], (2**45, population.shape[1]))
    for options in ({}, {"metric": "auc"}, {"weights": "int8"}):
        with pytest.raises(pg.InputError, match=r"\[MLP.evaluate\] no memory for 35,184,372,088,832 candidates on 90"):
            model.evaluate(huge, X, y, **options)
    with pytest.raises(pg.InputError, match=r"\[MLP.quantized\] no memory for another population"):
        model.quantized(huge, "int8")
    with pytest.raises(pg.InputError, match=r"\[MLP.forward\] no memory for X, .* as float32; give it in parts"):
        model.forward(np.broadcast_to(X[0], (2**45, 4)))


@pytest.mark.parametrize("layers", [40_000, 70_000])
def test_sizes_whose_product_overflows(layers):
    with pytest.raises(pg.InputError, match=r"\[MLP\] sizes must give less than 2\^59 parameters, got "):
        pg.MLP([2**24] * layers)


@pytest.mark.parametrize("options", [{}, {"weights": "binary"}, {"weights": "int8", "metric": "f1_macro"}])
def test_no_second_population_is_stored(options):
    model, _, X, y, _ = problem(sizes=(4, 300))
    wide = np.broadcast_to(np.float32(0.1), (1500, model.params.size))  # 14 MB
    model.evaluate(wide[:2], X, y, **options)
    tracemalloc.start()
    model.evaluate(wide, X, y, memory_limit=10**6, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 10**6


# --- Bad input --------------------------------------------------------------------------------------------------------


def call(loss="cross_entropy", outputs=3, **arguments):
    model, population, X, y, _ = problem(loss, outputs)
    return lambda: model.evaluate(**({"population": population, "X": X, "y": y} | arguments))


def racing(**arguments):
    model, population, X, y, _ = problem()
    return lambda: pg.race(model, **({"population": population, "X": X, "y": y} | arguments))


BAD = {
    "name": (call(metric="f1_marco"), r"\[MLP.evaluate\] unknown metric 'f1_marco'. Did you mean 'f1_macro'\?"),
    "name_type": (call(metric=3), r"unknown metric 3. Known: loss, error_rate, mse, mae, balanced_error, f1_macro"),
    "labels": (call("mse", metric="auc"), r"auc needs labels; a model with loss 'mse' has none"),
    "numbers": (call(metric="r2"), r"r2 needs numeric targets; a model with loss 'cross_entropy' has labels"),
    "one_label": (
        call("binary_cross_entropy", metric="f1_macro"),
        r"f1_macro needs one label a sample; a model with loss 'binary_cross_entropy' has 3",
    ),
    "level": (call("mse", metric=("quantile", 1.0)), r"the level of quantile must be in \(0, 1\), got 1.0"),
    "level_nan": (call("mse", metric=("quantile", np.nan)), r"the level of quantile must be in \(0, 1\), got nan"),
    "level_text": (call("mse", metric=("quantile", "0.5")), r"the level of quantile must be in \(0, 1\), got '0.5'"),
    "level_other": (call(metric=("auc", 0.5)), r"only quantile takes a level, got \('auc', 0.5\)"),
    "triple": (call("mse", metric=("quantile", 0.5, 1)), r"unknown metric \('quantile', 0.5, 1\)"),
    "one_class": (call(y=np.ones(90), metric="auc"), r"auc needs samples of at least two classes"),
    "one_class_weighs": (
        call(y=np.arange(90) % 2, metric="auc", sample_weight=np.arange(90) % 2),
        r"auc needs samples of at least two classes, with weights above zero",
    ),
    "mean_of_all": (
        call(metric=lambda outputs, y: outputs.mean()),
        r"\[MLP.evaluate\] metric <lambda> must return one number for each of 7 candidates, .* got float64 \(\)",
    ),
    "mean_of_each": (call(metric=lambda outputs, y: outputs.mean(axis=2)), r"shape \(7,\), got float64 \(7, 90\)"),
    "ragged": (call(metric=lambda outputs, y: [[1], [1, 2]]), r"metric <lambda> must return one number .* inhomogen"),
    "weights": (call(weights="trinary"), r"\[MLP.evaluate\] unknown weights 'trinary'. Did you mean 'ternary'\?"),
    "quantized_name": (lambda: problem()[0].quantized(np.zeros(43), None), r"\[MLP.quantized\] unknown weights None"),
    "quantized_shape": (
        lambda: problem()[0].quantized(np.zeros(42), "int8"),
        r"\[MLP.quantized\] params must have shape \(43,\) or \(P, the same\), got \(42,\)",
    ),
    "quantized_text": (lambda: problem()[0].quantized(["a"] * 43, "int8"), r"params must be real numbers"),
    "race_model": (
        lambda: pg.race(None, [], [], []),
        r"\[race\] model must be a popgrad.Model, such as popgrad.MLP, got NoneType",
    ),
    "race_metric": (racing(metric="acu"), r"\[race\] unknown metric 'acu'. Did you mean 'auc'\?"),
    "race_keep": (racing(keep=1.0), r"\[Racing\] keep must be in \(0, 1\), got 1.0"),
    "race_keep_zero": (racing(keep=0), r"\[Racing\] keep must be in \(0, 1\), got 0"),
    "race_keep_text": (racing(keep="half"), r"\[Racing\] keep must be in \(0, 1\), got 'half'"),
    "race_rounds": (racing(rounds=0), r"\[race\] rounds must be a whole number >= 1, got 0"),
    "race_survivors": (racing(survivors=8), r"\[race\] survivors must be at most the 7 candidates, got 8"),
    "race_population": (racing(population=np.zeros((2, 3))), r"\[race\] population must have shape \(P, 43\)"),
    "race_labels": (racing(y=np.full(90, 3)), r"\[race\] labels must be whole numbers in \[0, 3\), got 3"),
    "race_seed": (racing(seed=-1), r"\[race\] seed must be a whole number >= 0, got -1"),
    "race_in_fit": (
        lambda: pg.fit(*problem()[0:4:2], problem()[3], optimizer=pg.search.DE(), racing=1.5),
        r"\[fit\] racing must be a popgrad.Racing, such as pg.Racing\(keep=0.5\), got 1.5",
    ),
    "race_of_gradients": (
        lambda: pg.fit(*problem()[0:4:2], problem()[3], optimizer=pg.optim.Adam(), racing=pg.Racing(0.5)),
        r"\[fit\] racing is for searches",
    ),
    "nobody": (call(metric="auc", population=np.zeros((0, 43))), r"population must have shape \(P, 43\), P >= 1"),
    "limit": (call(memory_limit=0), r"memory_limit must be a whole number >= 1, got 0"),
    "limit_float": (call(memory_limit=1e6), r"memory_limit must be a whole number >= 1, got 1000000.0"),
    "samples_empty": (call(samples=[]), r"samples must be whole numbers, shape \(b,\), b >= 1, got float64 \(0,\)"),
    "samples_float": (call(samples=[1.0]), r"samples must be whole numbers, .* got float64 \(1,\)"),
    "samples_mask": (call(samples=np.ones(90, bool)), r"samples must be whole numbers, .* got bool \(90,\)"),
    "samples_number": (call(samples=3), r"samples must be whole numbers, .* got int64 \(\)"),
    "samples_text": (call(samples=["a"]), r"samples must be real numbers, got dtype <U1"),
    "samples_high": (call(samples=[3, 90]), r"samples must be in \[0, 90\), got 3 to 90"),
    "samples_low": (call(samples=[-1, 3]), r"samples must be in \[0, 90\), got -1 to 3"),
    "samples_huge": (call(samples=np.array([2**64 - 1], np.uint64)), r"samples must be in \[0, 90\), got 1844"),
    "samples_weightless": (
        call(samples=[0, 2], sample_weight=np.arange(90) % 2),
        r"\[MLP.evaluate\] sample_weight is zero for all of these samples",
    ),
    "samples_alike": (
        call(y=np.arange(90) % 2, metric="auc", samples=[0, 2, 4]),
        r"auc needs samples of at least two classes",
    ),
    "label_range": (call(y=np.full(90, 3), metric="f1_macro"), r"labels must be whole numbers in \[0, 3\), got 3"),
}


@pytest.mark.parametrize(("run", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_an_error_that_says_what_to_do(run, message):
    with pytest.raises(pg.InputError, match=message):
        run()


def test_auc_of_one_class_is_refused_by_fit_before_work():
    model, _, X, y, _ = problem()
    validation = (X[:3], np.zeros(3))
    kept = model.params.copy()
    with pytest.raises(pg.InputError, match=r"\[fit\] auc needs samples of at least two classes"):
        pg.fit(model, X, y, optimizer=pg.search.DE(), objective="auc", validation=validation)
    np.testing.assert_array_equal(model.params, kept)


def test_a_race_needs_members_that_are_stored():
    model = pg.MLP([4, 2])
    with pytest.raises(pg.InputError, match=r"\[race\] population must be stored here"):
        pg.race(model, pg.Perturbations(model.params, 0.1, 4, 0), np.ones((9, 4)), np.zeros(9, int))
