"""What pg.fit is given: validation samples, weights, labels, frames, budgets, and what it refuses."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import popgrad as pg
from fitting import EVERY, bits, small
from popgrad import optim, search
from popgrad.train.holdout import held_back

# --- Validation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.25, np.float32(0.5), 0.96])
def test_validation_share_divides_the_samples(share):
    divide = importlib.import_module("popgrad.train.fit").divided  # pg.fit is the function
    model, X, y = small()
    X[:, 0] = np.arange(20)
    weight = np.arange(20) + 1.0

    def parts(seed):
        return divide(model, X, y, weight, share, seed)

    train, held = parts(0)
    assert held.samples == round(20 * share)
    assert sorted([*train.X[:, 0], *held.X[:, 0]]) == list(range(20))
    for part in (train, held):
        rows = part.X[:, 0].astype(int)
        np.testing.assert_array_equal(part.y[:, 0], y[rows])
        np.testing.assert_array_equal(part.weight, weight[rows])
    assert (parts(0)[1].X == held.X).all()
    assert any((parts(seed)[1].X != held.X).any() for seed in range(1, 5))


def test_validation_share_is_not_trained_on():
    model, X, y = small()
    history = pg.fit(model, X, y, optimizer=optim.SGD(), epochs=2, validation=0.25, batch_size=5)
    assert history.forwards == [0, 45, 90]
    assert history.evaluations == [0, 3, 6]


def test_validation_pair_is_measured_and_leaves_training_alone():
    model, X, y = small()
    plain = pg.fit(small()[0], X, y, optimizer=optim.SGD(), epochs=3)
    before = model.loss(X[:5], y[:5])
    history = pg.fit(model, X, y, optimizer=optim.SGD(), epochs=3, validation=(X[:5], y[:5]))
    assert history.validation_loss[0] == before
    assert history.loss == plain.loss


# --- Sample weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [None, 1, 4])
@pytest.mark.parametrize("name", ["sgd", "pso"])
def test_samples_of_weight_zero_are_left_out(name, batch):
    model, X, y = small()
    weight = (np.arange(20) % 3).astype(float)
    kept = weight > 0
    history = pg.fit(model, X, y, optimizer=EVERY[name](), epochs=40, batch_size=batch, sample_weight=weight)
    alone = pg.fit(
        small()[0], X[kept], y[kept], optimizer=EVERY[name](), epochs=40, batch_size=batch, sample_weight=weight[kept]
    )
    assert bits(history) == bits(alone)
    assert history.reason == ("finished 40 epochs" if name == "sgd" else "the forwards of 40 epochs are used up")


def test_weights_count_like_repetitions():
    weight = np.arange(20) % 4
    model, X, y = small(dtype="float64")
    weighed = pg.fit(model, X, y, optimizer=optim.Adam(), epochs=9, batch_size=None, sample_weight=weight)
    repeated = pg.fit(
        small(dtype="float64")[0],
        np.repeat(X, weight, axis=0),
        np.repeat(y, weight),
        optimizer=optim.Adam(),
        epochs=9,
        batch_size=None,
    )
    np.testing.assert_allclose(weighed.loss, repeated.loss, rtol=1e-10)
    np.testing.assert_allclose(weighed.metric, repeated.metric, rtol=1e-10)


# --- Errors -------------------------------------------------------------------------------------------------------

SGD, PSO = optim.SGD(), search.PSO()
NAN = np.full((20, 4), np.nan)

BAD = {
    "class_not_object": ({"optimizer": optim.Adam}, r"such as pg.optim.Adam\(\), got <class"),
    "optimizer_name": ({"optimizer": "adam"}, r"optimizer must be a method of popgrad.optim or popgrad.search.*'adam'"),
    "X_columns": ({"X": np.zeros((20, 3))}, r"\[fit\] X must have 4 columns, got 3"),
    "X_nan": ({"X": NAN}, r"\[fit\] X holds NaN"),
    "X_empty": ({"X": np.zeros((0, 4)), "y": []}, r"\[fit\] X has no rows"),
    "y_length": ({"y": [0, 1]}, r"\[fit\] y must have one entry per row of X, 20"),
    "y_label": ({"y": np.full(20, 3)}, r"\[fit\] labels must be whole numbers in \[0, 3\), got 3 in row 0"),
    "y_text": ({"y": ["a"] * 20}, r"\[fit\] y must hold one label for each of the model's 3 classes, got 1: 'a'"),
    "weight": ({"sample_weight": -np.ones(20)}, r"\[fit\] sample_weight must be finite, >= 0 and not all zero"),
    "epochs_zero": ({"epochs": 0}, r"\[fit\] epochs must be a whole number >= 1, got 0"),
    "epochs_float": ({"epochs": 1.5}, r"epochs must be a whole number >= 1, got 1.5"),
    "batch_zero": ({"batch_size": 0}, r"batch_size must be a whole number >= 1, got 0"),
    "batch_text": ({"batch_size": "atuo"}, r"batch_size must be a whole number >= 1, got 'atuo'"),
    "record_every": ({"record_every": 0}, r"record_every must be a whole number >= 1, got 0"),
    "seed_negative": ({"seed": -1}, r"seed must be a whole number >= 0, got -1"),
    "seed_large": ({"seed": 2**64, "batch_size": 3}, r"\[fit\] seed must be below 2\^64"),
    "budget_number": ({"budget": 1000}, r"\[fit\] budget must be a popgrad.Budget, got 1000"),
    "budget_and_epochs": ({"budget": 1000, "epochs": 2}, r"\[fit\] budget must be a popgrad.Budget, got 1000"),
    "budget_small": (
        {"budget": pg.Budget(forwards=59)},
        r"\[fit\] one step costs 60 forwards and 1 evaluation, more than the budget of 59 forwards",
    ),
    "budget_search": (
        {"optimizer": PSO, "budget": pg.Budget(evaluations=31)},
        r"\[fit\] one step costs 640 forwards and 32 evaluations, more than the budget of 31 evaluations allows",
    ),
    "budget_seconds": ({"budget": pg.Budget(seconds=1e-12)}, r"\[fit\] one step costs"),
    "validation_zero": (
        {"validation": 0.0},
        r"validation must be a share in \(0, 1\), a pair \(X, y\) or a triple .*, got 0.0",
    ),
    "validation_one": ({"validation": 1}, r"validation must be a share in \(0, 1\)"),
    "validation_true": ({"validation": True}, r"validation must be a share in \(0, 1\)"),
    "validation_nan": ({"validation": math.nan}, r"validation must be a share in \(0, 1\)"),
    "validation_text": ({"validation": "0.2"}, r"validation must be a share in \(0, 1\), a pair"),
    "validation_array": ({"validation": np.zeros((3, 4))}, r"validation must be a share in \(0, 1\), a pair"),
    "validation_one_array": ({"validation": (np.zeros((3, 4)),)}, r"validation must be a share in \(0, 1\), a pair"),
    "validation_weight": ({"validation": (np.zeros((2, 4)), [0, 1], [1])}, r"\[fit\(validation\)\] sample_weight must"),
    "epochs_search": (
        {"optimizer": PSO, "epochs": 3},
        r"one step costs 640 forwards, more than the 180 forwards of epochs=3; pass epochs >= 11, or a budget",
    ),
    "select": ({"select": "lss"}, r"\[fit\] unknown select 'lss'. Did you mean 'loss'"),
    "validation_few": (
        {"validation": 0.01},
        r"validation=0.01 of 20 samples leaves no samples for training or for validation",
    ),
    "validation_most": (
        {"validation": 0.99},
        r"validation=0.99 of 20 samples leaves no samples for training or for validation",
    ),
    "validation_label": ({"validation": (np.zeros((2, 4)), [0, 5])}, r"\[fit\(validation\)\] labels must be .*got 5"),
    "validation_X": ({"validation": (NAN, np.zeros(20))}, r"\[fit\(validation\)\] X holds NaN"),
    "callback": (
        {"callbacks": [3]},
        r"\[fit\] callbacks must be pg.Callback or functions of \(model, history\), got 3",
    ),
    "callback_alone": ({"callbacks": 3}, r"callbacks must be pg.Callback or functions of \(model, history\), got 3"),
    "objective": ({"objective": "eror_rate"}, r"\[fit\] unknown metric 'eror_rate'. Did you mean 'error_rate'\?"),
    "objective_unfit": ({"objective": "mse"}, r"\[fit\] mse needs numeric targets; a model with loss 'cross_entropy'"),
}


@pytest.mark.parametrize(("chosen", "message"), BAD.values(), ids=BAD)
def test_errors_come_before_any_work(chosen, message):
    model, X, y = small()
    before, calls = model.params.copy(), []
    arguments = {"X": X, "y": y, "optimizer": SGD, "callbacks": [lambda m, h: calls.append(1)], **chosen}
    with pytest.raises(pg.InputError, match=message):
        pg.fit(model, **arguments)
    assert model.params.tobytes() == before.tobytes()
    assert not calls


def test_a_model_is_asked_for():
    _, X, y = small()
    with pytest.raises(pg.InputError, match=r"\[fit\] model must be a popgrad.Model, such as popgrad.MLP, got list"):
        pg.fit([4, 3], X, y, optimizer=SGD)


@pytest.mark.parametrize("optimizer", [SGD, PSO])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_broken_model_is_refused_as_it_is(optimizer, bad):
    model, X, y = small()
    model.params[5] = bad
    before = model.params.copy()
    with pytest.raises(pg.InputError, match=r"\[fit\] .*untrained model are not finite; initialize"):
        pg.fit(model, X, y, optimizer=optimizer)
    assert model.params.tobytes() == before.tobytes()


# --- Budget -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [{}, {"forwards": None}])
def test_budget_needs_a_limit(limits):
    with pytest.raises(pg.InputError, match=r"\[Budget\] give at least one of forwards, evaluations and seconds"):
        pg.Budget(**limits)


@pytest.mark.parametrize("name", ["forwards", "evaluations", "seconds"])
@pytest.mark.parametrize("value", [0, -1, math.nan, "10", True, [1], 1j])
def test_budget_refuses_what_is_no_positive_number(name, value):
    with pytest.raises(pg.InputError, match=rf"\[Budget\] {name} must be a number > 0, got "):
        pg.Budget(**{name: value})


@pytest.mark.parametrize("value", [10, 10.0, np.int64(10), np.float32(10), np.uint8(10)])
def test_budget_allows_up_to_its_limits(value):
    budget = pg.Budget(forwards=value, seconds=math.inf)
    assert budget.allows(10, 1e9, 1e9)
    assert not budget.allows(11, 0, 0)
    assert not pg.Budget(evaluations=value).allows(0, 11, 0)
    assert not pg.Budget(seconds=value).allows(0, 0, 10.5)


def test_record_marks_may_be_a_list():
    X, y = np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) % 2
    model = pg.MLP([2, 3, 2])
    budget = pg.Budget(forwards=1200)
    history = pg.fit(
        model, X, y, optimizer=pg.optim.SGD(), batch_size=10, budget=budget, record_every=[30, 31, 100, 600]
    )
    # Steps cost 30: a record follows each mark once, and the end.
    assert history.forwards == [0, 30, 60, 120, 600, 1200]
    with pytest.raises(pg.InputError, match="record_every must be increasing"):
        pg.fit(model, X, y, optimizer=pg.optim.SGD(), record_every=[5, 3])


# --- Stratified validation ----------------------------------------------------------------------------------------


def rare(seed, share=0.2, counts=(196, 4)):
    """Classes among the samples that are held back and among the others."""
    labels = np.repeat(np.arange(len(counts)), counts)
    held = held_back(len(labels), share, labels, seed)
    return [np.bincount(labels[part], minlength=len(counts)) for part in (held, ~held)]


def test_a_rare_class_is_in_both_parts():
    for seed in range(200):
        held, rest = rare(seed)
        assert held.tolist() == [39, 1]
        assert rest.tolist() == [157, 3]


@pytest.mark.parametrize("binary", [False, True])
def test_fit_validates_with_every_class(binary):
    X = np.random.default_rng(0).normal(size=(200, 4))
    y = np.repeat([0, 1], [196, 4])
    divide = importlib.import_module("popgrad.train.fit").divided
    model = pg.MLP([4, 1], loss="binary_cross_entropy") if binary else pg.MLP([4, 2])
    for seed in range(20):
        train, held = divide(model, X, y, None, 0.2, seed)
        assert (np.sum(held.y), np.sum(train.y), held.samples) == (1, 3, 40)


@pytest.mark.parametrize("share", [0.01, 0.1, 1 / 3, 0.5, 0.9, 0.99])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=9), seed=st.integers(0, 9))
def test_shares_of_classes(share, counts, seed):
    counts, total = np.array(counts), round(sum(counts) * share)
    if not 0 < total < counts.sum():
        return
    held, rest = rare(seed, share, tuple(counts))
    assert held.sum() == total
    assert (held + rest == counts).all()
    if min(total, counts.sum() - total) >= 2 * len(counts):
        several = counts > 1
        assert (held[several] > 0).all()
        assert (rest > 0).all()
    # No two classes could trade places and be nearer to their shares, unless one of them would vanish from a part.
    ideal = counts * total / counts.sum()
    if (ideal >= 1).all() and (counts - ideal >= 1).all():
        assert (np.abs(held - ideal) < 1).all()


def test_division_is_a_function_of_the_seed():
    labels = np.arange(60) % 3
    halves = {seed: held_back(60, 0.5, labels, seed).tobytes() for seed in range(5)}
    assert len(set(halves.values())) == 5
    assert all(held_back(60, 0.5, labels, seed).tobytes() == half for seed, half in halves.items())


def test_every_sample_of_a_class_may_be_held_back():
    labels = np.repeat([0, 1], [30, 6])
    times = sum(held_back(36, 0.5, labels, seed).astype(int) for seed in range(400))
    assert 140 < times.min() <= times.max() < 260  # 200 expected


def test_numbers_are_divided_at_random():
    y = np.repeat([0.0, 1.0], [196, 4])
    divide = importlib.import_module("popgrad.train.fit").divided
    X = np.random.default_rng(0).normal(size=(200, 4))
    shares = {float(divide(pg.MLP([4, 1], loss="mse"), X, y, None, 0.2, seed)[1].y.sum()) for seed in range(60)}
    assert len(shares) > 2


@pytest.mark.parametrize("optimizer", [optim.SGD(), search.PSO()])
def test_validation_samples_may_have_weights(optimizer):
    model, X, y = small()
    weight = np.arange(5) % 3
    history = pg.fit(model, X, y, optimizer=optimizer, epochs=40, validation=(X[:5], y[:5], weight))
    assert history.validation_loss[history.best] == model.loss(X[:5], y[:5], weight)
    plain = pg.fit(small()[0], X, y, optimizer=optimizer, epochs=40, validation=(X[:5], y[:5]))
    assert plain.loss == history.loss
    assert plain.validation_loss != history.validation_loss
    unweighted = pg.fit(small()[0], X, y, optimizer=optimizer, epochs=40, validation=(X[:5], y[:5], None))
    assert unweighted.validation_loss == plain.validation_loss


# --- Numbers that are too large -----------------------------------------------------------------------------------

OVERFLOWS = {
    "y": (1, 1e20, "mse", "float32", "y", "1e.20"),
    "y_float64": (1, 1e160, "mse", "float64", "y", "1e.160"),
    "X": (1e36, 1, "mse", "float32", "X", "e.36"),
    "X_float64": (1e200, 1, "mse", "float64", "X", "e.200"),
    "X_mae": (1e38, 1, "mae", "float32", "X", "e.38"),
    "both": (1e3, 1e25, "mse", "float32", "y", "1e.25"),
}


@pytest.mark.parametrize("optimizer", [optim.Adam(), search.PSO()])
@pytest.mark.parametrize(("x", "y", "loss", "dtype", "name", "shown"), OVERFLOWS.values(), ids=OVERFLOWS)
def test_numbers_that_overflow_are_to_be_scaled(x, y, loss, dtype, name, shown, optimizer):
    rng = np.random.default_rng(0)
    model = pg.MLP([4, 30, 1], activation="relu", loss=loss, dtype=dtype)
    before = model.params.copy()
    if name == "X":
        model.params *= 10
        before = model.params.copy()
    message = rf"\[fit\] {name} holds values up to .*{shown}, and the loss overflows, .*{dtype} .* scale {name}, "
    with pytest.raises(pg.InputError, match=message):
        pg.fit(model, x * rng.uniform(1, 2, (20, 4)), np.full(20, float(y)), optimizer=optimizer)
    assert model.params.tobytes() == before.tobytes()


def test_weights_of_any_size_do_not_overflow():
    model, X, y = small()
    weight = 1.0 + np.arange(20)
    expected = pg.fit(small()[0], X, y, optimizer=optim.SGD(), epochs=3, sample_weight=weight * 2.0**-5)
    history = pg.fit(model, X, y, optimizer=optim.SGD(), epochs=3, sample_weight=weight * 2.0**900)
    np.testing.assert_allclose(history.loss, expected.loss, rtol=1e-6)


def test_a_model_whose_outputs_overflow_is_to_be_initialized():
    model, X, y = small()
    model.params = np.full(51, 1e38)
    with pytest.raises(pg.InputError, match=r"\[fit\] the loss of the untrained model is not finite; initialize"):
        pg.fit(model, X, y, optimizer=SGD)
