"""Gradients with precision="bfloat16": what is rounded, how near they are to float32, and where they are refused."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import popgrad as pg
from fitting import bits, small
from networks import every_activation, every_loss, problem
from popgrad import _core, losses, optim, search
from popgrad.objective import ALL, Batch

here = pytest.mark.skipif(_core.bfloat16() is None, reason=f"{_core.isa()} has no products of bfloat16")


def gradient(objective, w, precision="bfloat16", batch=ALL):
    """(loss, gradient) in a precision."""
    out = np.full_like(w, np.nan)
    return objective.in_precision(precision).gradient(w, batch, out), out


def difference(objective, w, batch=ALL):
    """The norm of the difference of the gradients in bfloat16 and float32, relative to that in float32."""
    half, full = (gradient(objective, w, precision, batch)[1].astype(float) for precision in ("bfloat16", "float32"))
    return np.linalg.norm(half - full) / max(np.linalg.norm(full), 1e-30)


def regression(sizes, samples, activation="tanh", seed=0, **chosen):
    """(model, X, y): targets at a distance, so that the slopes of the loss do not cancel."""
    rng = np.random.default_rng(seed)
    model = pg.MLP(sizes, activation, loss="mse", seed=seed, **chosen)
    X = rng.normal(size=(samples, sizes[0])).astype(np.float32)
    return model, X, rng.normal(size=(samples, sizes[-1])).astype(np.float32) + 2


# --- The gradient -------------------------------------------------------------------------------------------------


def rounded(x):
    """The nearest bfloat16 numbers, ties to even."""
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64)


def reference(model, X, y):
    """The gradient of the mean squared error of a tanh network in NumPy, with the factors of all products rounded."""
    layers = list(model.views(model.params).values())
    weights, biases = layers[::2], layers[1::2]
    a, inputs = X.astype(float), []
    for k, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        inputs.append(a)
        z = rounded(a) @ rounded(weight).T + bias
        a = np.tanh(z) if k + 1 < len(weights) else z
    delta, parts = 2 * (a - y) / y.size, []
    for k in reversed(range(len(weights))):
        parts = [rounded(delta).T @ rounded(inputs[k]), delta.sum(axis=0), *parts]
        if k > 0:
            delta = rounded(delta) @ rounded(weights[k]) * (1 - inputs[k] ** 2)
    return np.concatenate([part.ravel() for part in parts])


@here
@pytest.mark.parametrize("sizes", [[1, 1], [2, 3], [7, 5], [130, 33], [3, 4, 2], [33, 17, 40, 3], [129, 50, 1, 2]])
@pytest.mark.parametrize("samples", [1, 2, 15, 17, 64, 65, 130, 200, 700])
def test_the_factors_of_products_are_rounded_and_nothing_else(sizes, samples):
    model, X, y = regression(sizes, samples)
    _, found = gradient(model.objective(X, y), model.params)
    expected = reference(model, X, y)
    # A hidden value or derivative at the middle of two bfloat16 numbers may be rounded to the other one.
    allowed = 1e-5 if len(sizes) == 2 else 2e-3
    assert np.linalg.norm(found - expected) <= allowed * np.linalg.norm(expected)


@here
@pytest.mark.parametrize("sizes", [[1, 1, 1], [5, 3, 2], [64, 32, 10], [17, 1, 130, 3], [101, 129, 65, 7], [300, 2]])
@pytest.mark.parametrize("samples", [1, 16, 33, 128, 200])
def test_the_gradient_is_near_that_of_float32(sizes, samples):
    model, X, y = regression(sizes, samples)
    assert 0 < difference(model.objective(X, y), model.params) <= 1e-2


@here
@every_activation
@every_loss
def test_every_activation_and_loss(activation, loss):
    if activation == "step":
        return  # has no gradient
    for samples in (5, 70):
        model = pg.MLP([13, 21, 18, 3], activation, loss=loss)
        population, X, y, weight = problem(model, samples)
        w = population[0] / 3
        if isinstance(loss, (losses.MeanAbsolute, losses.Quantile)):
            y = y + 10  # an output that changes sides would change its whole slope
        objective = model.objective(X, y, weight)
        for rows in (None, np.array([4, 1, 1])):
            assert difference(objective, w, Batch(rows, 0)) <= 2e-2
        full, half = (gradient(objective, w, precision)[0] for precision in ("float32", "bfloat16"))
        assert half == pytest.approx(full, rel=3e-2, abs=3e-2)


@here
@pytest.mark.parametrize("samples", [16, 64, 128])
def test_products_of_small_whole_numbers_are_exact(samples):
    rng = np.random.default_rng(samples)
    model = pg.MLP([9, 7, 5, 2], "relu", loss="mse")
    w = rng.integers(-1, 2, len(model.params)).astype(np.float32)
    X, y = (rng.integers(-2, 3, (samples, n)).astype(np.float32) for n in (9, 2))
    objective = model.objective(X, y)
    full, half = (gradient(objective, w, precision) for precision in ("float32", "bfloat16"))
    assert half[0] == full[0]
    assert np.array_equal(half[1], full[1])
    assert np.any(full[1] != 0)


@here
@pytest.mark.parametrize("drawn", ["dropout", "input_noise", "mixup"])
def test_what_a_gradient_draws_is_that_of_float32(drawn):
    chosen = {"dropout": {"dropout": [0.5, 0.2]}, "input_noise": {"input_noise": 0.5}, "mixup": {}}[drawn]
    model, X, y = regression([20, 70, 40, 3], 100, **chosen)
    objective, found = model.objective(X, y), []
    if drawn == "mixup":
        objective = objective.mixed(1.0)
    for step in (1, 2):
        assert difference(objective, model.params, Batch(None, step)) <= 1e-2
        found.append(gradient(objective, model.params, batch=Batch(None, step))[1])
    assert np.linalg.norm(found[0] - found[1]) > 0.1 * np.linalg.norm(found[0])


@here
@pytest.mark.parametrize("samples", [17, 64, 65, 129])
def test_padding_takes_no_part(samples):
    """Hidden values are infinite for a sample of zeros, which pads the vectors, but not for the real ones."""
    model, X, y = regression([2, 3, 5, 1], samples, "identity")
    X[:, 0] = 1
    views = model.views(model.params)
    first, bias, second = (views[name] for name in list(views)[:3])
    first[:], bias[:], second[:] = [-(2.0**127), 0], 2.0**127, 4
    found = [gradient(model.objective(X, y), model.params, precision) for precision in ("bfloat16", "float32")]
    assert np.isfinite(found[0][1]).all()
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-2)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=3e-2, atol=1e-2)


@here
@pytest.mark.parametrize("sizes", [[64, 32, 10], [300, 150, 90, 3]])
@pytest.mark.parametrize("samples", [1, 100, 600, 1500])
def test_any_number_of_threads_gives_the_same_bits(sizes, samples):
    model, X, y = regression(sizes, samples, dropout=0.2, input_noise=0.1)
    objective, before, seen = model.objective(X, y).mixed(0.4), _core.threads(), set()
    try:
        for threads in (1, 2, 3, 8):
            _core.set_threads(threads)
            loss, found = gradient(objective, model.params, batch=Batch(None, 3))
            seen.add((loss, found.tobytes()))
    finally:
        _core.set_threads(before)
    assert len(seen) == 1


# --- Training -----------------------------------------------------------------------------------------------------


@here
def test_fit_steps_along_bfloat16_gradients_and_records_in_float32():
    model, X, y = small(50)
    step, held = 0.5, small(30)[1:]
    start = model.params.copy()
    expected = start - np.float32(step) * gradient(model.objective(X, y), start)[1]
    first = model.loss(X, y)
    chosen = {"epochs": 1, "batch_size": None, "precision": "bfloat16", "validation": held}
    history = pg.fit(model, X, y, optimizer=optim.SGD(step), **chosen)
    np.testing.assert_allclose(model.params, expected, rtol=1e-6)
    assert not np.array_equal(expected, start - np.float32(step) * model.gradient(X, y)[1])
    assert history.loss == [first, model.loss(X, y)]
    assert history.validation_loss[1] == model.loss(*held)
    model.params = start
    assert pg.fit(model, X, y, optimizer=optim.SGD(step), **{**chosen, "precision": None}).loss != history.loss


@here
@pytest.mark.parametrize("batch_size", [7, None])
def test_the_precision_of_the_model_changes_no_bit(batch_size):
    runs = []
    for precision in (None, "float32", np.float32):
        model, X, y = small(30)
        chosen = {"epochs": 3, "batch_size": batch_size, "precision": precision}
        runs.append(bits(pg.fit(model, X, y, optimizer=optim.Adam(), **chosen)))
    assert runs[0] == runs[1] == runs[2]


@here
def test_many_networks_have_the_bits_of_single_runs():
    model, X, y = small(40)
    chosen = {"epochs": 4, "batch_size": 8, "precision": "bfloat16", "validation": 0.25}
    many = pg.fit_many(model, X, y, optimizer=optim.Adam(0.01), seeds=range(3), **chosen)
    for seed, run in enumerate(many):
        single = small(40)[0]
        single.reseed(seed)
        assert bits(run.history) == bits(pg.fit(single, X, y, optimizer=optim.Adam(0.01), seed=seed, **chosen))


@here
def test_samples_in_files_and_streams_are_trained_on_in_bfloat16(tmp_path):
    X, y = small(40)[1:]
    X = X.astype(np.float32)
    np.save(tmp_path / "X.npy", X)
    batches = [(X[k : k + 8], y[k : k + 8]) for k in range(0, 40, 8)]
    for source, chosen in (
        ((np.load(tmp_path / "X.npy", mmap_mode="r"), y), {"batch_size": 8}),
        ((batches,), {}),
    ):
        found = []
        for precision in ("bfloat16", "float32"):
            model = small()[0]
            pg.fit(model, *source, optimizer=optim.SGD(0.1), epochs=2, precision=precision, **chosen)
            found.append(model.params)
        assert 0 < np.linalg.norm(found[0] - found[1]) < 1e-2 * np.linalg.norm(found[1])
        if len(source) == 2:
            whole = small()[0]
            pg.fit(whole, X, y, optimizer=optim.SGD(0.1), epochs=2, precision="bfloat16", batch_size=8)
            assert np.array_equal(whole.params, found[0])


@here
def test_a_checkpoint_of_another_precision_is_refused(tmp_path):
    model, X, y = small()
    chosen = {"optimizer": optim.Adam(), "checkpoint": pg.Checkpoint(tmp_path, every_seconds=1000)}
    pg.fit(model, X, y, epochs=2, precision="bfloat16", **chosen)
    with pytest.raises(pg.InputError, match="of another precision: expected float32, got bfloat16"):
        pg.fit(model, X, y, epochs=4, resume=tmp_path, **chosen)
    assert pg.fit(model, X, y, epochs=4, resume=tmp_path, precision="bfloat16", **chosen).forwards[-1] == 240


# --- Refusals -----------------------------------------------------------------------------------------------------


class Bowl(pg.Objective):
    layout = pg.Layout({"w": (3,)})

    def values(self, population, batch=ALL):
        return (population**2).sum(axis=1)

    def gradient(self, w, batch, out):
        out[:] = 2 * w
        return float(w @ w)


@pytest.mark.parametrize(
    ("message", "dtype", "method", "precision"),
    [
        ("unknown precision 'half'", "float32", optim.Adam(), "half"),
        ("precision 'bfloat16' does not fit a model of dtype float64", "float64", optim.Adam(), "bfloat16"),
        ("precision 'float64' does not fit a model of dtype float32", "float32", optim.Adam(), "float64"),
        ("needs a method that follows gradients, but PSO does not", "float32", search.PSO(), "bfloat16"),
    ],
)
def test_a_precision_that_does_not_fit_is_refused_before_any_work(message, dtype, method, precision):
    model, X, y = small(dtype=dtype)
    before = model.params.copy()
    for call in (pg.fit, pg.fit_many):
        with pytest.raises(pg.InputError, match=rf"^\[fit\] .*{message}"):
            call(model, X, y, optimizer=method, epochs=1, precision=precision)
    with pytest.raises(pg.InputError, match=message):
        pg.Trainer(model.objective(X, y), method, model.params, precision=precision)
    assert np.array_equal(model.params, before)


def test_an_objective_without_another_precision_refuses_it():
    for precision in (None, "float32"):
        pg.Trainer(Bowl(), optim.SGD(), np.ones(3, np.float32), precision=precision)
    with pytest.raises(pg.InputError, match="precision must be 'float32', the only one of Bowl, got 'bfloat16'"):
        pg.Trainer(Bowl(), optim.SGD(), np.ones(3, np.float32), precision="bfloat16")


ELSEWHERE = """
import numpy as np, popgrad as pg
from popgrad import _core
model = pg.MLP([4, 3])
before = model.params.copy()
try:
    pg.fit(model, np.ones((5, 4)), np.arange(5) % 3, optimizer=pg.optim.Adam(), precision="bfloat16")
except pg.InputError as error:
    print(error, np.array_equal(model.params, before))
"""


def test_processors_without_instructions_refuse_it():
    environment = {**os.environ, "POPGRAD_ISA": "baseline"}
    done = subprocess.run([sys.executable, "-c", ELSEWHERE], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == (
        "[fit] precision='bfloat16': the instruction set in use, baseline, has no bfloat16 products; "
        "omit precision, and the gradients are in float32 True"
    ), done.stderr
