"""Layouts and sizes that a fitness accepts, and inputs that it refuses."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import popgrad as pg
from fitness import EVERY, LABELS, NUMBERS, labels_of, problem, raw

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
    with pytest.raises(pg.InputError, match=r"\[MLP.quantized\] no memory for a copy of a population"):
        model.quantized(huge, "int8")
    with pytest.raises(pg.InputError, match=r"\[MLP.forward\] no memory for X, .* as float32; pass it in chunks"):
        model.forward(np.broadcast_to(X[0], (2**45, 4)))


@pytest.mark.parametrize("layers", [40_000, 70_000])
def test_sizes_whose_product_overflows(layers):
    with pytest.raises(pg.InputError, match=r"\[MLP\] sizes must give fewer than 2\^59 parameters, got "):
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
    "name_type": (call(metric=3), r"unknown metric 3. Known: loss, error_rate, mse, mae, poisson_deviance, balanced"),
    "labels": (call("mse", metric="auc"), r"auc needs labels; a model with loss 'mse' has none"),
    "numbers": (call(metric="r2"), r"r2 needs numeric targets; a model with loss 'cross_entropy' has labels"),
    "one_label": (
        call("binary_cross_entropy", metric="f1_macro"),
        r"f1_macro needs one label per sample; a model with loss 'binary_cross_entropy' has 3",
    ),
    "level": (call("mse", metric=("quantile", 1.0)), r"the level of quantile must be in \(0, 1\), got 1.0"),
    "level_nan": (call("mse", metric=("quantile", np.nan)), r"the level of quantile must be in \(0, 1\), got nan"),
    "level_text": (call("mse", metric=("quantile", "0.5")), r"the level of quantile must be in \(0, 1\), got '0.5'"),
    "level_other": (call(metric=("auc", 0.5)), r"only quantile accepts a level, got \('auc', 0.5\)"),
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
    with pytest.raises(pg.InputError, match=r"\[race\] population must be an array"):
        pg.race(model, pg.Perturbations(model.params, 0.1, 4, 0), np.ones((9, 4)), np.zeros(9, int))
