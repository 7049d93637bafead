"""popgrad.MLP: gradients, evaluation and predictions against NumPy, finite differences and PyTorch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

import popgrad as pg
from networks import (
    DTYPES,
    LOSSES,
    REFERENCE,
    every_activation,
    every_dtype,
    hidden_and_outputs,
    metrics_of,
    problem,
    sequential,
)
from popgrad import _core, losses
from popgrad.models.measures import METRICS, score_of
from popgrad.models.mlp import ACTIVATIONS

DIFFERENTIABLE = [name for name, activation in ACTIVATIONS.items() if activation.differentiable]


def pairs(activations):
    """Every activation with some losses, and every loss with one activation."""
    some = [
        loss
        for loss in LOSSES
        if loss.shown in ("'cross_entropy'", "'binary_cross_entropy'", "'mse'", "'mae'", "'huber'")
    ]
    return [pytest.param(a, loss, id=f"{a}-{loss}") for a in activations for loss in (LOSSES if a == "tanh" else some)]


every_pair = pytest.mark.parametrize(("activation", "loss"), pairs(ACTIVATIONS))
every_differentiable_pair = pytest.mark.parametrize(("activation", "loss"), pairs(DIFFERENTIABLE))

is_weighted = pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])

REFERENCE_SCORES = {  # (z, y, setting) to one value a sample
    "cross_entropy": lambda z, y, s: -(smoothed(y, z.shape[1], s) * special.log_softmax(z, axis=1)).sum(axis=1),
    "binary_cross_entropy": lambda z, y, s: (np.logaddexp(z, 0) - z * ((1 - s) * y + s / 2)).mean(axis=1),
    "focal": lambda z, y, s: (smoothed(y, z.shape[1], 0) * focal(special.log_softmax(z, axis=1), s)).sum(axis=1),
    "binary_focal": lambda z, y, s: (
        y * focal(special.log_expit(z), s) + (1 - y) * focal(special.log_expit(-z), s)
    ).mean(axis=1),
    "mse": lambda z, y, s: ((z - y) ** 2).mean(axis=1),
    "mae": lambda z, y, s: np.abs(z - y).mean(axis=1),
    "huber": lambda z, y, s: special.huber(s, z - y).mean(axis=1),
    "quantile": lambda z, y, s: np.maximum(s * (y - z), (s - 1) * (y - z)).mean(axis=1),
    "poisson": lambda z, y, s: (np.exp(z) - y * z).mean(axis=1),
    "poisson_deviance": lambda z, y, s: 2 * (special.xlogy(y, y) - y * z - y + np.exp(z)).mean(axis=1),
    "error_rate": lambda z, y, s: (z.argmax(axis=1) != y).astype(float),
    "binary_error_rate": lambda z, y, s: ((z > 0) != (y > 0.5)).mean(axis=1),
}


def smoothed(y, outputs, share):
    return (1 - share) * np.eye(outputs)[y.astype(int)] + share / outputs


def focal(log_p, gamma):
    return -((-np.expm1(log_p)) ** gamma) * log_p


def reference(model, population, X, y, metric="loss", weight=None):
    """`MLP.evaluate` as a loop."""
    score, (_, setting) = REFERENCE_SCORES[score_of("test", metric, model.criterion)], model.criterion.score
    y = np.asarray(y) if model.criterion.targets == "labels" else np.reshape(y, (len(X), -1))
    return np.array(
        [
            np.average(score(hidden_and_outputs(model, params, X)[1], y, setting), weights=weight)
            for params in population
        ]
    )


def relative(a, b):
    return np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b)


def test_every_activation_and_score_has_a_reference():
    assert set(REFERENCE) == set(ACTIVATIONS)
    assert set(REFERENCE_SCORES) == set(_core.scores())
    assert {name for name, score in _core.scores().items() if score.differentiable} == set(losses.REGISTRY)
    assert all(kind().score[0] == name for name, kind in losses.REGISTRY.items())


# --- Gradients ----------------------------------------------------------------------------------------------------


def smooth_case(activation, loss, margin=1e-3):
    """A small float64 problem in which no unit and no residual is near a kink (relu at 0, huber at 1, ...)."""
    for seed in itertools.count():
        model = pg.MLP([3, 5, 4, 3], activation=activation, loss=loss, dtype="float64", seed=seed)
        population, X, y, weight = problem(model, 7, seed, members=1)
        model.params = population[0]
        before, z = hidden_and_outputs(model, model.params, X)
        distances = [np.abs(z).min() for z in before]
        if loss.targets != "labels":
            distances += [np.abs(z - y).min(), np.abs(np.abs(z - y) - loss.score[1]).min()]
        if min(distances) > margin:
            return model, X, y, weight
    raise AssertionError


@is_weighted
@every_differentiable_pair
def test_gradient_equals_finite_differences(activation, loss, weighted):
    model, X, y, weight = smooth_case(activation, loss)
    weight = weight if weighted else None
    h = 1e-5
    steps = h * np.eye(len(model.params))
    values = model.evaluate(np.vstack([model.params + steps, model.params - steps]), X, y, sample_weight=weight)
    above, below = np.split(values, 2)
    value, gradient = model.gradient(X, y, weight)
    assert relative(gradient, (above - below) / (2 * h)) <= 1e-6
    assert value == pytest.approx(model.loss(X, y, weight), rel=1e-12)


@every_dtype
@pytest.mark.parametrize("samples", [1, 63, 64, 65, 256, 257, 1025, 5000])
def test_gradient_of_many_samples_is_the_mean_of_its_parts(samples, dtype):
    """Long batches are cut into parts of their own; the oracle takes samples one block at a time."""
    model = pg.MLP([5, 9, 3], activation="tanh", dtype=dtype)
    _, X, y, weight = problem(model, samples)
    value, gradient = model.gradient(X, y, weight)
    total, sums = 0.0, np.zeros(len(gradient))
    for first in range(0, samples, 50):
        part = slice(first, first + 50)
        if weight[part].any():
            one = model.gradient(X[part], y[part], weight[part])
            total += one[0] * weight[part].sum()
            sums += one[1].astype(np.float64) * weight[part].sum()
    tolerance = 1e-12 if dtype == "float64" else 2e-6
    assert relative(gradient, sums / weight.sum()) <= tolerance
    assert value == pytest.approx(total / weight.sum(), rel=tolerance)


def test_gradient_of_a_step_is_refused():
    model = pg.MLP([3, 4, 2], activation="step")
    with pytest.raises(pg.InputError, match=r"\[MLP.gradient\] activation 'step' has no gradient.*search"):
        model.gradient(np.zeros((2, 3)), [0, 1])


@is_weighted
@every_differentiable_pair
@every_dtype
def test_loss_and_gradient_equal_pytorch(activation, loss, dtype, weighted):
    torch = pytest.importorskip("torch", reason="PyTorch is the reference here")
    model = pg.MLP([4, 7, 6, 3], activation=activation, loss=loss, dtype=dtype)
    _, X, y, weight = problem(model, 70)
    module = sequential(torch, model)
    module.load_state_dict({name: torch.tensor(view) for name, view in model.views().items()})
    z = module(torch.tensor(X))
    target = torch.tensor(y) if loss.targets == "labels" else torch.tensor(y.astype(dtype))
    each = torch_loss(torch, loss)(z, target)
    each = each if each.ndim == 1 else each.mean(dim=1)
    w = torch.tensor(weight if weighted else np.ones(len(X))).to(z.dtype)
    expected = (each * w).sum() / w.sum()
    expected.backward()
    value, gradient = model.gradient(X, y, weight if weighted else None)
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    assert relative(value, expected.item()) <= tolerance
    assert relative(gradient, np.concatenate([p.grad.numpy().ravel() for p in module.parameters()])) <= tolerance
    np.testing.assert_allclose(model.forward(X), z.detach().numpy(), rtol=tolerance, atol=tolerance)


def torch_loss(torch, loss):
    functional, setting = torch.nn.functional, loss.score[1]

    def binary_focal(z, y):  # of mixed targets: the mean of the losses of both
        def one(target):
            each = functional.binary_cross_entropy_with_logits(z, torch.full_like(z, target), reduction="none")
            return (1 - torch.exp(-each)) ** setting * each

        return y * one(1.0) + (1 - y) * one(0.0)

    def focal(z, y):
        each = functional.cross_entropy(z, y, reduction="none")
        return (1 - torch.exp(-each)) ** setting * each

    def smoothed(z, y):
        return functional.binary_cross_entropy_with_logits(z, y * (1 - setting) + setting / 2, reduction="none")

    return {
        "cross_entropy": torch.nn.CrossEntropyLoss(label_smoothing=setting, reduction="none"),
        "binary_cross_entropy": smoothed,
        "focal": focal,
        "binary_focal": binary_focal,
        "mse": torch.nn.MSELoss(reduction="none"),
        "mae": torch.nn.L1Loss(reduction="none"),
        "huber": torch.nn.HuberLoss(delta=setting or 1.0, reduction="none"),
        "quantile": lambda z, y: torch.maximum(setting * (y - z), (setting - 1) * (y - z)),
        "poisson": torch.nn.PoissonNLLLoss(log_input=True, reduction="none"),
    }[loss.name]


@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_gradients_see_nothing_beyond_the_last_sample(activation):
    """A sample of zeros would be infinite in the second layer, where the real ones are not."""
    model = pg.MLP([1, 1, 1, 1], activation, "mse")
    model.params = [-1e20, 1e20, 1e20, 0, 1, 0]
    for samples in (1, 5, 16, 70):
        assert np.isfinite(model.gradient(np.ones((samples, 1)), np.zeros(samples))[1]).all()


# --- Evaluation ---------------------------------------------------------------------------------------------------


@every_dtype
@every_pair
def test_evaluate_equals_numpy_loop(activation, loss, dtype):
    model = pg.MLP([5, 8, 7, 3], activation=activation, loss=loss, dtype=dtype)
    population, X, y, weight = problem(model, 130)
    for metric in metrics_of(loss):
        for w in (None, weight):
            values = model.evaluate(population, X, y, metric=metric, sample_weight=w)
            assert values.dtype == np.float64
            expected = reference(model, population, X, y, metric, w)
            np.testing.assert_allclose(values, expected, rtol=1e-12 if dtype == "float64" else 1e-5)


def test_evaluate_knows_every_metric():
    assert {metric for loss in LOSSES for metric in metrics_of(loss)} == set(METRICS)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 37), min_size=2, max_size=5),
    samples=st.one_of(st.integers(1, 130), st.sampled_from([1023, 1024, 1025, 2049, 2500])),
    members=st.integers(1, 6),
    activation=st.sampled_from(list(ACTIVATIONS)),
    loss=st.sampled_from(LOSSES),
    dtype=st.sampled_from(DTYPES),
    weighted=st.booleans(),
)
def test_evaluate_and_forward_of_any_size(sizes, samples, members, activation, loss, dtype, weighted):
    sizes[-1] += loss.targets == "labels"
    model = pg.MLP(sizes, activation=activation, loss=loss, dtype=dtype)
    population, X, y, weight = problem(model, samples, seed=samples, members=members)
    population /= 4 if activation == "step" else np.sqrt(max(sizes)).astype(dtype)
    weight = weight if weighted else None
    tolerance = 1e-11 if dtype == "float64" else 2e-5
    values = model.evaluate(population, X, y, sample_weight=weight)
    np.testing.assert_allclose(values, reference(model, population, X, y, weight=weight), rtol=tolerance, atol=1e-6)
    model.params = population[-1]
    _, z = hidden_and_outputs(model, population[-1], X)
    np.testing.assert_allclose(model.forward(X), z, rtol=tolerance, atol=tolerance)
    assert model.loss(X, y, weight) == values[-1]  # the same kernel: the same bits


@every_dtype
def test_binary_targets_of_one_output_may_be_a_vector(dtype):
    model = pg.MLP([4, 5, 1], loss="binary_cross_entropy", dtype=dtype)
    population, X, _, _ = problem(model, 33)
    y = np.arange(33) % 2
    for metric in ("loss", "error_rate"):
        values = model.evaluate(population, X, y, metric=metric)
        np.testing.assert_array_equal(values, model.evaluate(population, X, y[:, None], metric=metric))
        np.testing.assert_allclose(values, reference(model, population, X, y, metric), rtol=1e-5)


def test_error_rate_of_equal_outputs_is_that_of_argmax():
    model = pg.MLP([2, 3])
    model.params = np.zeros(9)
    assert model.evaluate(model.params[None], np.ones((3, 2)), [0, 1, 2], metric="error_rate") == 2 / 3
    np.testing.assert_array_equal(model.predict(np.ones((3, 2))), [0, 0, 0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@every_dtype
@every_pair
def test_broken_candidates_are_infinitely_bad_and_leave_the_others_alone(activation, loss, dtype, bad):
    model = pg.MLP([3, 4, 3], activation=activation, loss=loss, dtype=dtype)
    population, X, y, _ = problem(model, 20, members=5)
    expected = population.copy()
    population[1] = bad  # all of it
    population[3, -1] = bad  # an output's bias
    for metric in metrics_of(loss):
        values = model.evaluate(population, X, y, metric=metric)
        np.testing.assert_array_equal(values[[1, 3]], np.inf)
        alone = model.evaluate(expected, X, y, metric=metric)
        np.testing.assert_array_equal(values[[0, 2, 4]], alone[[0, 2, 4]])


@every_dtype
@every_activation
def test_nan_in_a_hidden_weight_is_not_swallowed(activation, dtype):
    model = pg.MLP([3, 4, 4, 3], activation=activation, dtype=dtype)
    population, X, y, _ = problem(model, 20, members=2)
    population[0, 2] = np.nan
    for metric in ("loss", "error_rate"):
        values = model.evaluate(population, X, y, metric=metric)
        assert values[0] == np.inf
        assert np.isfinite(values[1])


def test_population_too_large_for_float32_is_infinitely_bad():
    model = pg.MLP([3, 4, 2])
    population = np.vstack([model.params.astype(np.float64), np.full(len(model.params), 1e300)])
    values = model.evaluate(population, np.ones((2, 3)), [0, 1])
    assert np.isfinite(values[0])
    assert values[1] == np.inf


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.targets != "counts"], ids=str)  # exp(z) is the mean
def test_large_outputs_do_not_overflow(loss):
    model = pg.MLP([3, 3], activation="identity", loss=loss)
    population, X, y, _ = problem(model, 50)
    population *= 1000
    np.testing.assert_allclose(model.evaluate(population, X, y), reference(model, population, X, y), rtol=1e-5)
    model.params = population[0]
    value, gradient = model.gradient(X, y)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_equal_weights_change_nothing_and_weights_repeat_samples():
    model = pg.MLP([4, 6, 3], activation="tanh", dtype="float64")
    population, X, y, weight = problem(model, 40)
    plain = model.evaluate(population, X, y)
    np.testing.assert_allclose(model.evaluate(population, X, y, sample_weight=np.full(40, 7)), plain, rtol=1e-14)
    repeated = model.gradient(np.repeat(X, weight, axis=0), np.repeat(y, weight))
    weighed = model.gradient(X, y, weight)
    assert weighed[0] == pytest.approx(repeated[0], rel=1e-13)
    np.testing.assert_allclose(weighed[1], repeated[1], rtol=1e-11, atol=1e-14)


# --- Predictions --------------------------------------------------------------------------------------------------


@every_dtype
def test_predictions_of_classes(dtype):
    model = pg.MLP([4, 5, 3], dtype=dtype)
    _, X, _, _ = problem(model, 30)
    z, probability, labels = model.forward(X), model.predict_proba(X), model.predict(X)
    assert z.dtype == probability.dtype == np.dtype(dtype)
    np.testing.assert_allclose(probability, special.softmax(z, axis=1), rtol=1e-6)
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-6)
    assert labels.shape == (30,)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, probability.argmax(axis=1))
    assert len(set(labels)) > 1
    model.params = 1e4 * model.params
    assert np.isfinite(model.predict_proba(X)).all()


@pytest.mark.parametrize("outputs", [1, 3])
def test_predictions_of_binary_targets(outputs):
    model = pg.MLP([4, 5, outputs], loss="binary_cross_entropy")
    _, X, _, _ = problem(model, 30)
    probability, labels = model.predict_proba(X), model.predict(X)
    assert probability.shape == (30, outputs)
    np.testing.assert_allclose(probability, special.expit(model.forward(X)), rtol=1e-5, atol=1e-7)
    assert labels.shape == ((30,) if outputs == 1 else (30, 3))
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels.reshape(30, -1), probability > 0.5)
    model.params = 1e4 * model.params
    assert np.isfinite(model.predict_proba(X)).all()


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.targets == "numbers"], ids=str)
def test_predictions_of_quantities(loss):
    X = np.random.default_rng(0).normal(size=(6, 4))
    one, several = pg.MLP([4, 5, 1], loss=loss), pg.MLP([4, 5, 2], loss=loss)
    np.testing.assert_array_equal(one.predict(X), one.forward(X)[:, 0])
    np.testing.assert_array_equal(several.predict(X), several.forward(X))
    with pytest.raises(pg.InputError, match=r"\[MLP.predict_proba\] .* does not predict probabilities; use predict"):
        one.predict_proba(X)
