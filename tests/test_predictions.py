"""Probabilities in their tails, and labels that are text or other numbers than 0 to K - 1."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
import safetensors

import popgrad as pg
from fitting import small
from popgrad.models import MLP

every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
ANIMALS = np.array(["ant", "bee", "cat"])


def linear(loss, outputs, dtype):
    """A network whose last output is its one input, and the others zero."""
    model = pg.MLP([1, outputs], "identity", loss, dtype=dtype)
    model.params = np.zeros_like(model.params)
    model.params[outputs - 1] = 1
    return model


def logits(dtype):
    """Logits over the whole range in which a probability is a normal number."""
    span = -np.log(np.finfo(dtype).tiny) - 1
    sizes = np.concatenate([np.geomspace(1e-6, span, 500), np.arange(1, int(span))])
    return np.concatenate([-sizes, [0], sizes]).astype(dtype)[:, None]


def sigmoid(z):
    """In extended precision, from the side on which nothing cancels."""
    z = z.astype(np.longdouble)
    small = np.exp(-np.abs(z))
    return np.where(z < 0, small, 1) / (1 + small)


# --- Probabilities ------------------------------------------------------------------------------------------------


@every_dtype
def test_binary_probabilities_are_precise_in_both_tails(dtype):
    z = logits(dtype)
    probability = linear("binary_cross_entropy", 1, dtype).predict_proba(z)
    assert probability.dtype == np.dtype(dtype)
    np.testing.assert_allclose(probability, sigmoid(z), rtol=4 * np.finfo(dtype).eps, atol=0)
    assert (np.diff(probability[np.argsort(z[:, 0]), 0]) >= 0).all()


@every_dtype
def test_probabilities_of_classes_are_precise_in_both_tails(dtype):
    z = logits(dtype)
    probability = linear("cross_entropy", 2, dtype).predict_proba(z)
    assert probability.dtype == np.dtype(dtype)
    # The exponent is rounded: its relative error becomes that of the probability.
    rounding = np.finfo(dtype).eps * (4 + np.abs(z))
    assert (np.abs(probability - np.hstack([sigmoid(-z), sigmoid(z)])) <= rounding * probability).all()


@every_dtype
@pytest.mark.parametrize("extreme", [1e4, 1e30])
def test_probabilities_of_extreme_logits(dtype, extreme):
    z = np.array([[-extreme], [extreme]])
    np.testing.assert_array_equal(linear("binary_cross_entropy", 1, dtype).predict_proba(z)[:, 0], [0, 1])
    np.testing.assert_array_equal(linear("cross_entropy", 2, dtype).predict_proba(z), [[1, 0], [0, 1]])


@every_dtype
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_binary_loss_is_precise_in_both_tails(dtype, target):
    model = linear("binary_cross_entropy", 1, dtype)
    z = logits(dtype)[::7]
    x = z.astype(np.longdouble) * (-1 if target else 1)
    expected = np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
    losses = [model.loss(row[None], [target]) for row in z]
    np.testing.assert_allclose(losses, expected[:, 0].astype(float), rtol=8 * np.finfo(dtype).eps, atol=0)


# --- Labels -------------------------------------------------------------------------------------------------------


def fitted(y, outputs=3, loss="cross_entropy", **chosen):
    _, X, _ = small()
    model = pg.MLP([4, 6, outputs], activation="tanh", loss=loss)
    return model, X, pg.fit(model, X, y, optimizer=pg.optim.Adam(0.05), epochs=40, **chosen)


KINDS = {
    "list": lambda y: ANIMALS[y].tolist(),
    "array": lambda y: ANIMALS[y],
    "objects": lambda y: ANIMALS[y].astype(object),
    "bytes": lambda y: ANIMALS[y].astype("S"),
    "column": lambda y: pd.Series(ANIMALS[y]),
    "frame": lambda y: pd.DataFrame({"animal": ANIMALS[y]}),
    "category": lambda y: pd.Series(ANIMALS[y], dtype="category"),
    "tall": lambda y: ANIMALS[y][:, None],
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_labels_that_are_text(kind):
    _, _, y = small()
    model, X, history = fitted(kind(y))
    plain, _, expected = fitted(y)
    assert model.classes == ("ant", "bee", "cat")
    assert plain.classes is None
    assert history.loss == expected.loss
    np.testing.assert_array_equal(model.params, plain.params)
    np.testing.assert_array_equal(model.predict(X), ANIMALS[plain.predict(X)])
    np.testing.assert_array_equal(model.predict_proba(X), plain.predict_proba(X))
    # Everywhere else too, and as the numbers that stand for them.
    assert model.loss(X, kind(y)) == model.loss(X, y) == plain.loss(X, y)
    population = model.params[None]
    assert model.evaluate(population, X, kind(y), "error_rate") == plain.evaluate(population, X, y, "error_rate")
    assert model.evaluate(population, X, kind(y), "auc") == plain.evaluate(population, X, y, "auc")
    # A race adds the samples in another order.
    assert pg.race(model, population, X, kind(y)).fitness == pytest.approx(model.loss(X, y), rel=1e-6)
    np.testing.assert_array_equal(model.gradient(X, kind(y))[1], plain.gradient(X, y)[1])


@pytest.mark.parametrize("labels", [[1, 2, 3], [-1, 0, 1], [10, 20, 2**60], [1.0, 5.0, 9.0]])
def test_labels_that_are_other_numbers(labels):
    _, _, y = small()
    y[:3] = [2, 0, 1]  # the first one seen is not the smallest
    model, X, history = fitted(np.array(labels)[y])
    assert model.classes == tuple(labels)
    assert history.loss == fitted(y)[2].loss
    assert set(model.predict(X)) <= set(labels)
    assert np.mean(model.predict(X) == np.array(labels)[y]) == 1 - model.evaluate(
        model.params[None], X, np.array(labels)[y], "error_rate"
    )


def test_numbers_from_0_to_k_stay_numbers():
    _, _, y = small()
    y = np.where(y == 1, 0, y)  # class 1 does not occur
    model, X, _ = fitted(y)
    assert model.classes is None
    assert model.predict(X).dtype == np.int64


@pytest.mark.parametrize("labels", [["no", "yes"], [1, 2], [-1, 1], [False, True]])
def test_binary_labels(labels):
    _, _, y = small()
    y = (y == 2).astype(int)
    model, X, history = fitted(np.array(labels)[y], 1, "binary_cross_entropy")
    plain, _, expected = fitted(y, 1, "binary_cross_entropy")
    assert history.loss == expected.loss
    assert model.classes == (None if labels[1] is True else tuple(labels))
    np.testing.assert_array_equal(model.predict(X) == labels[1], plain.predict(X) == 1)
    np.testing.assert_array_equal(model.predict_proba(X), plain.predict_proba(X))


def test_targets_of_several_binary_outputs_are_no_labels():
    _, X, y = small()
    model = pg.MLP([4, 3], loss="binary_cross_entropy")
    pg.fit(model, X, np.eye(3)[y], optimizer=pg.optim.SGD(), epochs=1)
    assert model.classes is None
    with pytest.raises(pg.InputError, match=r"\[MLP.classes\] a model with loss 'binary_cross_entropy' and 3"):
        model.classes = ["a", "b", "c"]


def test_validation_knows_the_classes():
    _, X, y = small()
    model, _, history = fitted(ANIMALS[y], validation=(X[:4], ANIMALS[y[:4]]))
    assert history.validation_loss == fitted(y, validation=(X[:4], y[:4]))[2].validation_loss
    assert model.classes == ("ant", "bee", "cat")
    with pytest.raises(
        pg.InputError, match=r"\[fit\(validation\)\] y holds the label 'dog', which is not among .*'ant'"
    ):
        fitted(ANIMALS[y], validation=(X[:2], ["ant", "dog"]))


def test_a_second_fit_keeps_the_classes():
    _, X, y = small()
    model, _, _ = fitted(ANIMALS[y])
    some = y != 1
    pg.fit(model, X[some], ANIMALS[y[some]], optimizer=pg.optim.SGD(), epochs=1)
    assert model.classes == ("ant", "bee", "cat")
    with pytest.raises(
        pg.InputError, match=r"\[fit\] y holds the label 'x', which is not among the classes of the model"
    ):
        pg.fit(model, X, np.where(y == 1, "x", "ant"), optimizer=pg.optim.SGD(), epochs=1)
    model.classes = None
    pg.fit(model, X, np.array(["x", "y", "z"])[y], optimizer=pg.optim.SGD(), epochs=1)
    assert model.classes == ("x", "y", "z")


def test_classes_by_hand_have_their_order():
    X = small()[1]
    model = pg.MLP([4, 6, 3])
    model.classes = ["cat", "ant", "bee"]
    plain = pg.MLP([4, 6, 3])
    assert model.loss(X, ["cat", "ant", "bee"] * 6 + ["cat", "cat"]) == plain.loss(X, [0, 1, 2] * 6 + [0, 0])
    np.testing.assert_array_equal(model.predict(X), np.array(model.classes)[plain.predict(X)])


def test_an_error_leaves_the_model_as_it_was():
    _, X, y = small()
    model = pg.MLP([4, 6, 3])
    with pytest.raises(pg.InputError, match="one step costs"):
        pg.fit(model, X, ANIMALS[y], optimizer=pg.optim.SGD(), budget=pg.Budget(forwards=1))
    assert model.classes is None


@pytest.mark.parametrize("copy", [lambda model: pickle.loads(pickle.dumps(model)), "file"])
@pytest.mark.parametrize("labels", [["ant", "bee", "cat"], [3, 5, 9], [0.5, 1.0, 2.0]])
def test_classes_are_kept(copy, labels, tmp_path):
    _, X, _ = small()
    model = pg.MLP([4, 6, 3])
    model.classes = labels
    other = MLP.load(model.save(tmp_path / "model")) if copy == "file" else copy(model)
    assert other.classes == tuple(labels)
    np.testing.assert_array_equal(other.predict(X), model.predict(X))


def test_a_file_with_wrong_classes_is_refused(tmp_path):
    model = pg.MLP([4, 6, 3])
    path = model.save(tmp_path / "model")
    with safetensors.safe_open(path, "np") as file:
        metadata = json.loads(file.metadata()["popgrad"])
    for classes in (["a"], "abc", ["a", "a", "b"], [["a"], "b", "c"], {"a": 1}):
        metadata["MLP"]["classes"] = classes
        shutil.copy(path, tmp_path / "other")
        pg.checkpoint.save(tmp_path / "other", model.views(), metadata)
        with pytest.raises(pg.InputError, match="classes"):
            MLP.load(tmp_path / "other")


BAD = {
    "too_many": (
        ["a", "b", "c", "d"],
        r"\[fit\] y must hold one label for each .* 3 classes, got 4: 'a', ",
    ),
    "missing": (
        ["a", "b", None],
        r"\[fit\] labels must be all text or all numbers, without missing values, got nan in row",
    ),
    "missing_nan": (["a", "b", np.nan], r"without missing values, got nan in row"),
    "mixed": (["a", "b", 3], r"labels must be all text or all numbers, without missing values, got 3 in row"),
    "fractions": ([0.5, 1.5, 2.5], r"labels must be whole numbers in \[0, 3\), got 0.5 in row 0"),
    "numbers_too_many": ([1, 2, 3, 4], r"labels must be whole numbers in \[0, 3\), got 3 in row 2"),
    "infinite": ([0, 1, np.inf], r"labels must be whole numbers in \[0, 3\), got inf"),
    "number_nan": ([0, 1, np.nan], r"labels must be whole numbers in \[0, 3\), got nan"),
}


@pytest.mark.parametrize(("labels", "message"), BAD.values(), ids=BAD)
def test_labels_that_are_refused(labels, message):
    _, X, _ = small()
    y = np.array(labels, object)[np.arange(20) % len(labels)]
    with pytest.raises(pg.InputError, match=message):
        pg.fit(pg.MLP([4, 6, 3]), X, pd.Series(y).infer_objects(), optimizer=pg.optim.SGD(), epochs=1)


@pytest.mark.parametrize("classes", [["a", "b"], ["a", "a", "b"], ["a", 1, 2], [1, 2, np.nan], "ab"])
def test_classes_that_are_refused(classes):
    with pytest.raises(
        pg.InputError, match=r"\[MLP.classes\] classes must be 3 different strings or 3 different numbers"
    ):
        pg.MLP([4, 6, 3]).classes = classes


def test_text_needs_classes():
    with pytest.raises(pg.InputError, match=r"\[MLP.loss\] y must be real numbers.* set MLP.classes"):
        pg.MLP([4, 3]).loss(np.zeros((2, 4)), ["a", "b"])
    with pytest.raises(pg.InputError, match=r"\[fit\] y must be real numbers, got dtype <U1$"):
        pg.fit(pg.MLP([4, 1], loss="mse"), np.zeros((2, 4)), ["a", "b"], optimizer=pg.optim.SGD())
