"""popgrad.MLP: accepted and refused inputs, and copies."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from scipy import sparse

import popgrad as pg
from networks import every_dtype

# --- Inputs -------------------------------------------------------------------------------------------------------


def misaligned(array):
    memory = np.zeros(array.nbytes + 1, np.uint8)
    out = memory[1:].view(array.dtype).reshape(array.shape)
    out[:] = array
    return out


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


LAYOUTS = {
    "read_only": read_only,
    "fortran": np.asfortranarray,
    "strided": lambda a: np.repeat(a, 2, axis=0)[::2],
    "backwards": lambda a: a[::-1].copy()[::-1],
    "swapped_bytes": lambda a: a.astype(a.dtype.newbyteorder()),
    "misaligned": misaligned,
    "list": lambda a: a.tolist(),
    "int8": lambda a: a.astype(np.int8),
    "float16": lambda a: a.astype(np.float16),
    "longdouble": lambda a: a.astype(np.longdouble),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@every_dtype
def test_layout_of_inputs_changes_nothing(layout, dtype):
    model = pg.MLP([4, 6, 3], activation="tanh", dtype=dtype)
    rng = np.random.default_rng(0)
    X, population = rng.integers(-3, 4, (40, 4)).astype(dtype), rng.integers(-1, 2, (5, 51)).astype(dtype)
    y, weight = rng.integers(3, size=40), rng.integers(1, 4, 40)

    def everything(change):
        given = [change(array) for array in (population, X, y, weight)]
        copies = [np.array(array) for array in given]
        changed, inputs, labels, weights = given
        results = [
            model.forward(inputs),
            model.predict(inputs),
            model.evaluate(changed, inputs, labels, sample_weight=weights),
            *model.gradient(inputs, labels, weights),
            model.loss(inputs, labels, weights),
        ]
        for array, kept in zip(given, copies, strict=True):
            np.testing.assert_array_equal(array, kept)
        return [np.asarray(result).tobytes() for result in results]

    assert everything(layout) == everything(np.array)


def test_booleans_are_inputs_labels_and_targets():
    X = np.random.default_rng(0).random((6, 3)) < 0.5
    y = X[:, 0]
    for loss in ("cross_entropy", "binary_cross_entropy"):
        model = pg.MLP([3, 4, 2 if loss == "cross_entropy" else 1], loss=loss)
        assert model.loss(X, y) == model.loss(X.astype(float), y.astype(int))


# --- Bad input ----------------------------------------------------------------------------------------------------

X4 = np.zeros((5, 4))

Y3 = np.arange(5) % 3

NAN = np.where(np.arange(20).reshape(5, 4) == 9, np.nan, 0.0)


def network(**chosen):
    return pg.MLP([4, 6, 3], **chosen)


BAD = {
    # Settings.
    "sizes_one": (lambda: pg.MLP([3]), r"\[MLP\] sizes must be at least two numbers, such as"),
    "sizes_int": (lambda: pg.MLP(3), r"\[MLP\] sizes must be at least two numbers"),
    "sizes_none": (lambda: pg.MLP(None), r"\[MLP\] sizes must be at least two numbers"),
    "sizes_text": (lambda: pg.MLP("34"), r"\[MLP\] each of sizes must be a whole number >= 1, got '3'"),
    "sizes_zero": (lambda: pg.MLP([3, 0, 2]), r"each of sizes must be a whole number >= 1, got 0"),
    "sizes_float": (lambda: pg.MLP([3, 2.5]), r"each of sizes must be a whole number >= 1, got 2.5"),
    "sizes_bool": (lambda: pg.MLP([3, True]), r"each of sizes must be a whole number >= 1, got True"),
    "sizes_huge": (lambda: pg.MLP([2**24 + 1, 2]), r"each of sizes must be at most 16777216, got 16777217"),
    "activation": (lambda: network(activation="rleu"), r"\[MLP\] unknown activation 'rleu'. Did you mean 'relu'\?"),
    "activation_case": (lambda: network(activation="GELU"), r"Did you mean 'gelu'\?"),
    "activation_far": (lambda: network(activation="zzzz"), r"unknown activation 'zzzz'. Known: identity, relu, "),
    "activation_none": (lambda: network(activation=None), r"unknown activation None"),
    "loss": (lambda: network(loss="crossentropy"), r"unknown loss 'crossentropy'. Did you mean 'cross_entropy'\?"),
    "loss_is_metric": (lambda: network(loss="error_rate"), r"unknown loss 'error_rate'"),
    "dtype": (lambda: network(dtype="flaot32"), r"unknown dtype 'flaot32'. Did you mean 'float32'\?"),
    "dtype_16": (lambda: network(dtype="float16"), r"unknown dtype 'float16'.*Known: float32, float64"),
    "dtype_int": (lambda: network(dtype=int), r"unknown dtype 'int64'"),
    "init": (lambda: network(init="he_norm"), r"unknown init 'he_norm'. Did you mean 'he_normal'\?"),
    "dropout_one": (lambda: network(dropout=1.0), r"dropout must be in \[0, 1\), got 1.0"),
    "dropout_nan": (lambda: network(dropout=np.nan), r"dropout must be in \[0, 1\), got nan"),
    "dropout_text": (lambda: network(dropout="0.5"), r"dropout must be in \[0, 1\), got '0.5'"),
    "seed_negative": (lambda: network(seed=-1), r"seed must be a whole number >= 0, got -1"),
    "seed_float": (lambda: network(seed=1.0), r"seed must be a whole number >= 0, got 1.0"),
    "seed_large": (lambda: network(seed=2**64), r"seed must be below 2\^64"),
    "initialize": (lambda: network().initialize(-1), r"\[MLP.initialize\] seed must be a whole number >= 0"),
    "one_class": (lambda: pg.MLP([4, 1]), r"at least two outputs; for one output use loss='binary_cross_entropy'"),
    # X.
    "X_columns": (lambda: network().forward(X4[:, :3]), r"\[MLP.forward\] X must have 4 columns, got 3"),
    "X_vector": (lambda: network().predict(X4[0]), r"X must have shape \(samples, 4\), got \(4,\)"),
    "X_cube": (lambda: network().predict_proba(X4[None]), r"X must have shape \(samples, 4\), got \(1, 5, 4\)"),
    "X_number": (lambda: network().forward(3.0), r"X must have shape \(samples, 4\), got \(\)"),
    "X_empty": (lambda: network().forward(X4[:0]), r"X has no rows; at least one sample is needed"),
    "X_empty_list": (lambda: network().forward([]), r"X must have shape \(samples, 4\), got \(0,\)"),
    "X_nan": (lambda: network().gradient(NAN, Y3), r"\[MLP.gradient\] X holds NaN.*first in row 2.*impute or drop"),
    "X_infinite": (lambda: network().forward(X4 + np.inf), r"X holds NaN, infinity.*first in row 0"),
    "X_large": (lambda: network().forward(X4 + 1e300), r"X holds .*too large for float32"),
    "X_complex": (lambda: network().forward(X4 * 1j), r"X must be real numbers, got dtype complex128"),
    "X_object": (lambda: network().forward(np.full((5, 4), object())), r"X must be real numbers, got dtype object"),
    "X_sparse": (
        lambda: network().forward(sparse.eye(4)),
        r"X must be real numbers.*a sparse matrix must be .*toarray",
    ),
    "X_masked": (lambda: network().forward(np.ma.array(X4, mask=NAN != 0)), r"X has 1 masked entries"),
    "X_text": (lambda: network().forward(X4.astype(str)), r"X must be real numbers, got dtype <U"),
    "X_none": (lambda: network().forward(None), r"X must be real numbers, got dtype object"),
    "X_dates": (lambda: network().forward(X4.astype("datetime64[s]")), r"X must be real numbers, got dtype datetime"),
    "X_ragged": (lambda: network().forward([[1, 2, 3, 4], [1]]), r"X must be an array of real numbers"),
    # y.
    "y_length": (lambda: network().loss(X4, Y3[:4]), r"\[MLP.loss\] y must have one entry per row of X, 5, got .*4"),
    "y_number": (lambda: network().loss(X4, 1), r"y must have one entry per row of X, 5"),
    "y_empty": (lambda: network().loss(X4, []), r"y must have one entry per row of X, 5"),
    "y_one_hot": (lambda: network().loss(X4, np.eye(3)[Y3]), r"y must be class labels of shape \(5,\), got \(5, 3\)"),
    "y_large": (lambda: network().loss(X4, Y3 + 1), r"labels must be whole numbers in \[0, 3\), got 3 in row 2"),
    "y_negative": (lambda: network().loss(X4, Y3 - 1), r"labels must be whole numbers in \[0, 3\), got -1 in row 0"),
    "y_float": (lambda: network().loss(X4, Y3 / 2), r"labels must be whole numbers in \[0, 3\), got 0.5 in row 1"),
    "y_nan": (lambda: network().loss(X4, np.full(5, np.nan)), r"labels must be whole numbers.*got nan in row 0"),
    "y_text": (
        lambda: network().loss(X4, list("abcab")),
        r"y must be real numbers.*give labels as 0, 1, 2, \.\.\., or set",
    ),
    "y_object": (lambda: network().loss(X4, [object()] * 5), r"y must be real numbers, got dtype object; give labels"),
    "y_complex": (lambda: network().loss(X4, Y3 * 1j), r"y must be real numbers, got dtype complex128"),
    "y_ragged": (lambda: network().loss(X4, [[0], [0, 1], [0], [0], [0]]), r"y must be an array of real numbers"),
    "target_width": (lambda: network(loss="mse").loss(X4, Y3), r"y must have shape \(5, 3\), got \(5,\)"),
    "target_nan": (lambda: pg.MLP([4, 1], loss="mse").loss(X4, NAN[:, 1]), r"y holds NaN.*first in row 2"),
    "target_large": (lambda: pg.MLP([4, 1], loss="mae").loss(X4, Y3 - 1e300), r"y holds .*too large for float32"),
    "target_range": (
        lambda: pg.MLP([4, 1], loss="binary_cross_entropy").loss(X4, Y3),
        r"targets of binary_cross_entropy must be in \[0, 1\], got 0.0 to 2.0",
    ),
    # Weights.
    "weight_length": (lambda: network().loss(X4, Y3, Y3[:3]), r"sample_weight must have shape \(5,\), got \(3,\)"),
    "weight_number": (lambda: network().loss(X4, Y3, 1.0), r"sample_weight must have shape \(5,\), got \(\)"),
    "weight_negative": (lambda: network().loss(X4, Y3, Y3 - 1), r"sample_weight must be finite, >= 0 and not all zero"),
    "weight_zero": (lambda: network().loss(X4, Y3, 0 * Y3), r"sample_weight must be .* not all zero"),
    "weight_nan": (lambda: network().gradient(X4, Y3, NAN[:, 1]), r"\[MLP.gradient\] sample_weight must be finite"),
    "weight_infinite": (lambda: network().loss(X4, Y3, Y3 + np.inf), r"sample_weight must be finite"),
    "weight_text": (lambda: network().loss(X4, Y3, list("abcde")), r"sample_weight must be real numbers"),
    "weight_complex": (lambda: network().loss(X4, Y3, Y3 * 1j), r"sample_weight must be real numbers"),
    # Populations, metrics.
    "population_width": (
        lambda: network().evaluate(np.zeros((2, 50)), X4, Y3),
        r"\[MLP.evaluate\] population must have shape \(P, 51\), P >= 1, got \(2, 50\)",
    ),
    "population_vector": (lambda: network().evaluate(np.zeros(51), X4, Y3), r"population must have shape \(P, 51\)"),
    "population_empty": (lambda: network().evaluate(np.zeros((0, 51)), X4, Y3), r"shape \(P, 51\), P >= 1"),
    "population_bool": (lambda: network().evaluate(np.ones((2, 51), bool), X4, Y3), r"must be real numbers.*bool"),
    "population_complex": (lambda: network().evaluate(np.ones((2, 51)) * 1j, X4, Y3), r"must be real numbers.*complex"),
    "population_object": (lambda: network().evaluate(np.full((2, 51), "a", object), X4, Y3), r"must be real.*object"),
    "population_ragged": (lambda: network().evaluate([[1], [1, 2]], X4, Y3), r"population must be an array of real"),
    "metric": (
        lambda: network().evaluate(np.zeros((1, 51)), X4, Y3, metric="eror_rate"),
        r"\[MLP.evaluate\] unknown metric 'eror_rate'. Did you mean 'error_rate'\?",
    ),
    "metric_labels": (
        lambda: network(loss="mse").evaluate(np.zeros((1, 51)), X4, X4[:, :3], metric="error_rate"),
        r"error_rate needs labels; a model with loss 'mse' has none",
    ),
    "metric_numbers": (
        lambda: network().evaluate(np.zeros((1, 51)), X4, Y3, metric="mae"),
        r"mae needs numeric targets; a model with loss 'cross_entropy' has labels",
    ),
    "precision": (
        lambda: network().evaluate(np.zeros((1, 51)), X4, Y3, precision="float64"),
        r"precision 'float64' does not fit a model of dtype float32",
    ),
    "precision_name": (
        lambda: network().evaluate(np.zeros((1, 51)), X4, Y3, precision="float64x"),
        r"unknown precision 'float64x'. Did you mean 'float64'",
    ),
    # Parameters.
    "params_shape": (
        lambda: setattr(network(), "params", np.zeros(50)),
        r"params must have shape \(51,\), got \(50,\)",
    ),
    "params_scalar": (lambda: setattr(network(), "params", 0.0), r"params must have shape \(51,\), got \(\)"),
    "params_complex": (lambda: setattr(network(), "params", np.ones(51) * 1j), r"params must be real numbers"),
    "params_text": (lambda: setattr(network(), "params", ["a"] * 51), r"params must be real numbers"),
    "views_shape": (lambda: network().views(np.zeros(50)), r"\[MLP.views\] params must be a contiguous array \(51,\)"),
    "views_strided": (lambda: network().views(np.zeros(102)[::2]), r"params must be a contiguous array \(51,\)"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_an_error_that_says_what_to_do(call, message):
    with pytest.raises(pg.InputError, match=message):
        call()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_is_independent_and_computes_the_same(duplicate):
    model = pg.MLP([4, 5, 3], activation="tanh", dropout=0.1, seed=3)
    other = duplicate(model)
    X = np.ones((2, 4))
    np.testing.assert_array_equal(other.forward(X), model.forward(X))
    assert repr(other) == repr(model)
    assert other.params.ctypes.data % 64 == 0
    other.params[:] = 0
    assert model.params.any()
