"""popgrad.MLP: formulas against NumPy, finite differences and PyTorch; bits, files, inputs, errors."""

from __future__ import annotations

import copy
import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, special

import popgrad as pg
from popgrad.model import ACTIVATIONS, INITS, LOSSES, METRICS, SCORES

DIFFERENTIABLE = [name for name, activation in ACTIVATIONS.items() if activation.differentiable]
NUMERIC_LOSSES = [name for name in LOSSES if not SCORES[name].labels]
DTYPES = ("float32", "float64")

every_activation = pytest.mark.parametrize("activation", ACTIVATIONS)
every_differentiable = pytest.mark.parametrize("activation", DIFFERENTIABLE)
every_loss = pytest.mark.parametrize("loss", LOSSES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
is_weighted = pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])


# --- The model in NumPy, float64 ----------------------------------------------------------------------------------

REFERENCE = {
    "identity": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "leaky_relu": lambda z: np.where(z > 0, z, 0.01 * z),
    "elu": lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
    "gelu": lambda z: z * special.ndtr(z),
    "silu": lambda z: z * special.expit(z),
    "tanh": np.tanh,
    "sigmoid": special.expit,
    "softplus": lambda z: np.logaddexp(z, 0),
    "sin": np.sin,
    "step": lambda z: (z > 0).astype(float),
}

REFERENCE_SCORES = {  # (z, y) to one value a sample
    "cross_entropy": lambda z, y: special.logsumexp(z, axis=1) - z[np.arange(len(z)), y.astype(int)],
    "binary_cross_entropy": lambda z, y: (np.logaddexp(z, 0) - z * y).mean(axis=1),
    "mse": lambda z, y: ((z - y) ** 2).mean(axis=1),
    "mae": lambda z, y: np.abs(z - y).mean(axis=1),
    "huber": lambda z, y: special.huber(1.0, z - y).mean(axis=1),
    "error_rate": lambda z, y: (z.argmax(axis=1) != y).astype(float),
    "binary_error_rate": lambda z, y: ((z > 0) != (y > 0.5)).mean(axis=1),
}


def hidden_and_outputs(model, params, X):
    """What goes into each activation, and the raw outputs, in float64."""
    layers = list(model.views(params).values())
    before, a = [], np.asarray(X, np.float64)
    for number, (weight, bias) in enumerate(zip(layers[::2], layers[1::2], strict=True)):
        z = a @ weight.T.astype(np.float64) + bias
        if 2 * number + 2 == len(layers):
            return before, z
        before.append(z)
        a = REFERENCE[model.activation](z)
    raise AssertionError("a model has at least one layer")


def reference(model, population, X, y, metric="loss", weight=None):
    """`MLP.evaluate` as a loop."""
    score = REFERENCE_SCORES[model.score_name("test", metric)]
    y = np.asarray(y) if SCORES[model.loss_name].labels else np.reshape(y, (len(X), -1))
    return np.array(
        [np.average(score(hidden_and_outputs(model, params, X)[1], y), weights=weight) for params in population]
    )


def targets(loss, samples, outputs, rng):
    if SCORES[loss].labels:
        return rng.integers(outputs, size=samples)
    spread = 1 if loss == "binary_cross_entropy" else 4
    return spread * (rng.random((samples, outputs)) - 0.5) + (0.5 if spread == 1 else 0)


def problem(model, samples, seed=0, members=3):
    """(population, X, y, weight) of a size that fits the model; the weights hold zeros."""
    rng = np.random.default_rng(seed)
    population = rng.normal(scale=0.7, size=(members, len(model.params))).astype(model.dtype)
    X = rng.normal(size=(samples, model.sizes[0]))
    weight = rng.integers(0, 4, samples) + (np.arange(samples) == 0)
    if model.activation == "step":  # sums without rounding, so that a unit cannot tip over
        population, X = np.round(4 * population) / 4, np.round(4 * X) / 4
        population = population.astype(model.dtype)
    return population, X.astype(model.dtype), targets(model.loss_name, samples, model.sizes[-1], rng), weight


def metrics_of(loss):
    fits = {"cross_entropy": ("loss", "error_rate"), "binary_cross_entropy": ("loss", "error_rate")}
    return fits.get(loss, ("loss", "mse", "mae"))


def relative(a, b):
    return np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b)


def test_every_activation_and_score_has_a_reference():
    assert set(REFERENCE) == set(ACTIVATIONS)
    assert set(REFERENCE_SCORES) == set(SCORES)


# --- Gradients ----------------------------------------------------------------------------------------------------


def smooth_case(activation, loss, margin=1e-3):
    """A small float64 problem in which no unit and no residual is near a kink (relu at 0, huber at 1, ...)."""
    for seed in itertools.count():
        model = pg.MLP([3, 5, 4, 3], activation=activation, loss=loss, dtype="float64", seed=seed)
        population, X, y, weight = problem(model, 7, seed, members=1)
        model.params = population[0]
        before, z = hidden_and_outputs(model, model.params, X)
        distances = [np.abs(z).min() for z in before]
        if not SCORES[loss].labels:
            distances += [np.abs(z - y).min(), np.abs(np.abs(z - y) - 1).min()]
        if min(distances) > margin:
            return model, X, y, weight
    raise AssertionError


@is_weighted
@every_loss
@every_differentiable
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
@every_loss
@every_differentiable
@every_dtype
def test_loss_and_gradient_equal_pytorch(activation, loss, dtype, weighted):
    torch = pytest.importorskip("torch", reason="PyTorch is the reference here")
    model = pg.MLP([4, 7, 6, 3], activation=activation, loss=loss, dtype=dtype)
    _, X, y, weight = problem(model, 70)
    module = sequential(torch, model)
    module.load_state_dict({name: torch.tensor(view) for name, view in model.views().items()})
    z = module(torch.tensor(X))
    target = torch.tensor(y) if SCORES[loss].labels else torch.tensor(y.astype(dtype))
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


def sequential(torch, model):
    """The same network as a PyTorch Sequential, with weights of its own."""

    class Sin(torch.nn.Module):
        def forward(self, x):
            return torch.sin(x)

    names = {"relu": "ReLU", "leaky_relu": "LeakyReLU", "elu": "ELU", "gelu": "GELU", "silu": "SiLU"}
    names |= {"identity": "Identity", "tanh": "Tanh", "sigmoid": "Sigmoid", "softplus": "Softplus"}
    unit = Sin if model.activation == "sin" else getattr(torch.nn, names[model.activation])
    modules = []
    for inputs, outputs in itertools.pairwise(model.sizes):
        modules += [torch.nn.Linear(inputs, outputs), unit()]
        modules += [torch.nn.Dropout(model.dropout)] if model.dropout else []
    return torch.nn.Sequential(*modules[: -2 if model.dropout else -1]).to(getattr(torch, model.dtype.name)).eval()


def torch_loss(torch, loss):
    names = {"cross_entropy": "CrossEntropyLoss", "binary_cross_entropy": "BCEWithLogitsLoss", "mse": "MSELoss"}
    names |= {"mae": "L1Loss", "huber": "HuberLoss"}
    return getattr(torch.nn, names[loss])(reduction="none")


@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_gradients_see_nothing_beyond_the_last_sample(activation):
    """A sample of zeros would be infinite in the second layer, where the real ones are not."""
    model = pg.MLP([1, 1, 1, 1], activation, "mse")
    model.params = [-1e20, 1e20, 1e20, 0, 1, 0]
    for samples in (1, 5, 16, 70):
        assert np.isfinite(model.gradient(np.ones((samples, 1)), np.zeros(samples))[1]).all()


# --- Evaluation ---------------------------------------------------------------------------------------------------


@every_dtype
@every_loss
@every_activation
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
    sizes[-1] += loss == "cross_entropy"
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
@every_loss
@every_activation
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


@every_loss
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


@pytest.mark.parametrize("loss", [loss for loss in NUMERIC_LOSSES if loss != "binary_cross_entropy"])
def test_predictions_of_quantities(loss):
    X = np.random.default_rng(0).normal(size=(6, 4))
    one, several = pg.MLP([4, 5, 1], loss=loss), pg.MLP([4, 5, 2], loss=loss)
    np.testing.assert_array_equal(one.predict(X), one.forward(X)[:, 0])
    np.testing.assert_array_equal(several.predict(X), several.forward(X))
    with pytest.raises(pg.InputError, match=r"\[MLP.predict_proba\] .* has no probabilities; use predict"):
        one.predict_proba(X)


# --- Parameters ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_views_are_named_and_shaped_as_in_pytorch(dropout):
    torch = pytest.importorskip("torch", reason="PyTorch is the reference here")
    model = pg.MLP([4, 7, 6, 3], dropout=dropout)
    state = sequential(torch, model).state_dict()
    assert {name: view.shape for name, view in model.views().items()} == {k: tuple(v.shape) for k, v in state.items()}
    assert list(model.views()) == list(state)


def test_views_share_memory_with_the_parameters():
    model = pg.MLP([2, 3, 1], loss="mse", activation="identity")
    model.params = np.arange(13)
    views = model.views()
    assert list(views) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    np.testing.assert_array_equal(views["0.weight"], [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(views["0.bias"], [6, 7, 8])
    np.testing.assert_array_equal(views["2.weight"], [[9, 10, 11]])
    np.testing.assert_array_equal(views["2.bias"], [12])
    for view in views.values():
        assert np.shares_memory(view, model.params)
        view[:] = 1
    np.testing.assert_array_equal(model.params, 1)
    np.testing.assert_array_equal(model.forward([[1, 1]]), [[10]])
    other = np.zeros(13)
    model.views(other)["2.bias"][:] = 5
    assert other[12] == 5


def test_setting_parameters_copies_in_place():
    model = pg.MLP([2, 3, 2])
    params, values = model.params, np.arange(17.0)
    model.params = values
    assert model.params is params
    assert not np.shares_memory(model.params, values)
    np.testing.assert_array_equal(params, values)


@every_dtype
def test_parameters_are_aligned_to_cache_lines(dtype):
    for inputs, outputs in itertools.product(range(1, 40, 3), (2, 3, 7)):
        model = pg.MLP([inputs, outputs], dtype=dtype)
        gradient = model.gradient(np.ones((1, inputs)), [0])[1]
        assert model.params.ctypes.data % 64 == 0
        assert gradient.ctypes.data % 64 == 0
        assert model.params.shape == gradient.shape == ((inputs + 1) * outputs,)
        assert model.params.dtype == gradient.dtype == np.dtype(dtype)
        assert model.params.flags.writeable
        assert model.params.flags.c_contiguous


def test_parameters_go_through_dlpack_without_a_copy():
    model = pg.MLP([2, 3, 2])
    assert np.shares_memory(np.from_dlpack(model.params), model.params)
    torch = pytest.importorskip("torch", reason="the other side of the exchange")
    torch.from_dlpack(model.params)[3] = 42.0
    assert model.params[3] == 42


@pytest.mark.parametrize("init", INITS)
@every_dtype
def test_initial_weights_have_the_named_distribution(init, dtype):
    model = pg.MLP([200, 300, 100], init=init, dtype=dtype, seed=3)
    scheme, shape = init.split("_")
    for name, view in model.views().items():
        if name.endswith("bias"):
            np.testing.assert_array_equal(view, 0)
            continue
        outputs, inputs = view.shape
        variance = {"he": 2 / inputs, "glorot": 2 / (inputs + outputs), "lecun": 1 / inputs}[scheme]
        unit = view.astype(np.float64).ravel() / np.sqrt(variance)
        # Five standard errors of a sample's mean, variance and fourth moment.
        fourth = {"normal": 3, "uniform": 1.8}[shape]
        assert abs(unit.mean()) < 5 / np.sqrt(unit.size)
        assert unit.var() == pytest.approx(1, abs=5 * np.sqrt((fourth - 1) / unit.size))
        assert (unit**4).mean() == pytest.approx(fourth, abs=0.35)
        if shape == "uniform":
            assert np.abs(unit).max() <= np.sqrt(3) * (1 + 1e-6)
        # Every unit draws numbers of its own.
        assert np.abs(np.corrcoef(view[:50]) - np.eye(50)).max() < 0.5


@every_activation
def test_default_initialisation_suits_the_activation(activation):
    rectifiers = ("relu", "leaky_relu", "elu", "gelu", "silu", "softplus")
    linear_at_zero = ("identity", "tanh", "sigmoid")
    scheme = "he" if activation in rectifiers else "glorot" if activation in linear_at_zero else "lecun"
    expected = f"{scheme}_uniform"
    model = pg.MLP([30, 20, 2], activation=activation, seed=5)
    assert model.init == expected
    named = pg.MLP([30, 20, 2], activation=activation, seed=5, init=expected)
    assert model.params.tobytes() == named.params.tobytes()


@pytest.mark.parametrize("init", INITS)
@every_dtype
def test_seed_decides_the_initial_weights(init, dtype):
    def params(seed):
        return pg.MLP([9, 8, 7], init=init, dtype=dtype, seed=seed).params

    seeds = (0, 1, 2**32, 2**64 - 1)
    for a, b in itertools.product(seeds, repeat=2):
        assert (params(a).tobytes() == params(b).tobytes()) == (a == b)
    model = pg.MLP([9, 8, 7], init=init, dtype=dtype, seed=0)
    model.initialise(1)
    assert model.params.tobytes() == params(1).tobytes()


# --- Files --------------------------------------------------------------------------------------------------------

SETTINGS = [
    {},
    {"activation": "sin", "loss": "mse", "dtype": "float64", "seed": 7, "init": "lecun_normal"},
    {"activation": "step", "loss": "binary_cross_entropy", "dropout": 0.3, "seed": 2**64 - 1},
    {"loss": "huber", "dropout": np.float32(0.5), "seed": np.int64(4)},
]


@pytest.mark.parametrize("chosen", SETTINGS)
def test_load_restores_settings_and_bits(chosen, tmp_path):
    model = pg.MLP([4, 5, 6, 3], **chosen)
    model.params[:] = np.random.default_rng(0).normal(size=len(model.params))
    path = model.save(tmp_path / "model.safetensors")
    loaded = pg.MLP.load(path)
    assert repr(loaded) == repr(model)
    assert loaded.params.tobytes() == model.params.tobytes()
    assert loaded.params.dtype == model.params.dtype
    assert loaded.params.ctypes.data % 64 == 0


def test_arguments_of_load_replace_the_settings_in_the_file(tmp_path):
    path = pg.MLP([4, 5, 3], dropout=0.5).save(tmp_path / "m")
    loaded = pg.MLP.load(str(path), dropout=0.0, dtype="float64", activation="tanh")
    assert (loaded.dropout, loaded.dtype, loaded.activation) == (0.0, np.float64, "tanh")
    np.testing.assert_array_equal(loaded.params, pg.MLP.load(path).params)


@pytest.mark.parametrize("dropout", [0.0, 0.25])
@every_dtype
def test_pytorch_reads_what_save_wrote(dtype, dropout, tmp_path):
    torch = pytest.importorskip("torch", reason="it is the reader")
    from safetensors.torch import load_file

    model = pg.MLP([4, 7, 6, 3], activation="gelu", dropout=dropout, dtype=dtype)
    module = sequential(torch, model)
    module.load_state_dict(load_file(model.save(tmp_path / "m.safetensors")))
    X = np.random.default_rng(0).normal(size=(9, 4)).astype(dtype)
    np.testing.assert_allclose(model.forward(X), module(torch.tensor(X)).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prefix", ["", "net.body."])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
@every_dtype
def test_load_reads_what_pytorch_wrote(dtype, dropout, prefix, tmp_path):
    torch = pytest.importorskip("torch", reason="it is the writer")
    from safetensors.torch import save_file

    # Twelve layers: sorted as text, "10.weight" would come before "2.weight".
    like = pg.MLP([4, *[5] * 11, 3], activation="tanh", dropout=dropout, dtype=dtype)
    module = sequential(torch, like)
    save_file({prefix + name: value for name, value in module.state_dict().items()}, tmp_path / "t.safetensors")
    model = pg.MLP.load(tmp_path / "t.safetensors", activation="tanh", loss="mse", dropout=dropout)
    assert (model.sizes, model.loss_name, model.dtype) == (like.sizes, "mse", np.dtype(dtype))
    X = np.random.default_rng(0).normal(size=(9, 4)).astype(dtype)
    np.testing.assert_allclose(model.forward(X), module(torch.tensor(X)).detach(), rtol=1e-5, atol=1e-6)


# --- Threads ------------------------------------------------------------------------------------------------------


@pytest.fixture
def threads():
    """A setter whose effect ends with the test."""
    before = pg.get_num_threads()
    yield pg.set_num_threads
    pg.set_num_threads(before)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@every_dtype
def test_results_do_not_depend_on_the_number_of_threads(dtype, loss, threads):
    model = pg.MLP([20, 32, 16, 5], activation="tanh", loss=loss, dtype=dtype, dropout=0.3)
    population, X, y, weight = problem(model, 3001, members=7)
    data, out = model.data(X, y, weight), np.empty_like(model.params)

    def everything():
        loss_of_step = data.gradient(model.params, out, step=3)
        return [
            model.forward(X),
            model.evaluate(population, X, y, sample_weight=weight),
            *(model.evaluate(population[k::3], X, y, sample_weight=weight) for k in range(3)),
            model.evaluate(population, X, y, metric=metrics_of(loss)[1]),
            *model.gradient(X, y, weight),
            loss_of_step,
            out.copy(),
        ]

    threads(1)
    whole, *parts = everything()[1:5]
    assert all(np.array_equal(part, whole[k::3]) for k, part in enumerate(parts))
    expected = [np.asarray(value).tobytes() for value in everything()]
    for count in (2, 3, 4, 8, 8):
        threads(count)
        assert [np.asarray(value).tobytes() for value in everything()] == expected


# --- Dropout ------------------------------------------------------------------------------------------------------


def dropout_model(rate, seed=0, dtype="float64"):
    """A network whose loss is linear in each mask: mean absolute error far above the targets, no activation."""
    model = pg.MLP([3, 8, 6, 1], activation="identity", loss="mae", dropout=rate, dtype=dtype, seed=seed)
    X = np.random.default_rng(1).normal(size=(5, 3))
    return model, model.data(X, np.full(5, -1000))


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_dropout_gradient_is_right_on_average(rate):
    model, data = dropout_model(rate)
    steps = 3000
    gradients, losses = np.empty((steps, len(model.params))), np.empty(steps)
    for t in range(steps):
        losses[t] = data.gradient(model.params, gradients[t], step=t + 1)
    exact = np.empty_like(model.params)
    loss = data.gradient(model.params, exact)
    error = 5 / np.sqrt(steps)
    assert (np.abs(gradients.mean(axis=0) - exact) <= error * gradients.std(axis=0) + 1e-12).all()
    assert abs(losses.mean() - loss) <= error * losses.std()
    # Units are dropped at that rate, and what is left is scaled up: the last bias alone never varies.
    assert gradients[:, -1] == pytest.approx(np.ones(steps))
    assert (gradients[:, :-1].std(axis=0) > 0).all()


@every_dtype
def test_dropout_drops_at_its_rate_and_scales_the_rest(dtype):
    model = pg.MLP([2, 500, 1], activation="sigmoid", loss="mae", dropout=0.3, dtype=dtype)
    X = np.ones((1, 2))
    data, out = model.data(X, [-1000]), np.empty_like(model.params)
    a = special.expit(hidden_and_outputs(model, model.params, X)[0][0])[0]
    dropped = []
    for step in range(1, 21):
        data.gradient(model.params, out, step=step)
        last = model.views(out)["3.weight"][0]
        kept = last != 0
        np.testing.assert_allclose(last[kept], a[kept] / 0.7, rtol=1e-5)
        dropped.append(~kept)
    assert np.mean(dropped) == pytest.approx(0.3, abs=5 * np.sqrt(0.21 / 10_000))
    assert np.mean(dropped, axis=0).max() < 1  # no unit is dropped for good


def test_dropout_masks_are_a_function_of_seed_and_step():
    def gradient(step, seed=0, rate=0.5):
        model, data = dropout_model(rate, seed)
        model.params = np.linspace(-1, 1, len(model.params))
        out = np.empty_like(model.params)
        data.gradient(model.params, out, step=step)
        return out.tobytes()

    assert gradient(1) == gradient(1)
    assert len({gradient(1), gradient(2), gradient(1, seed=1), gradient(None)}) == 4
    assert gradient(None) == gradient(1, rate=0.0)


def test_dropout_is_for_training_alone():
    with_dropout, without = pg.MLP([4, 6, 3], dropout=0.5), pg.MLP([4, 6, 3])
    population, X, y, _ = problem(without, 20)
    np.testing.assert_array_equal(with_dropout.forward(X), without.forward(X))
    np.testing.assert_array_equal(with_dropout.evaluate(population, X, y), without.evaluate(population, X, y))
    np.testing.assert_array_equal(with_dropout.gradient(X, y)[1], without.gradient(X, y)[1])


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
    "initialise": (lambda: network().initialise(-1), r"\[MLP.initialise\] seed must be a whole number >= 0"),
    "one_class": (lambda: pg.MLP([4, 1]), r"at least two outputs; for one use loss='binary_cross_entropy'"),
    # X.
    "X_columns": (lambda: network().forward(X4[:, :3]), r"\[MLP.forward\] X must have 4 columns, got 3"),
    "X_vector": (lambda: network().predict(X4[0]), r"X must have shape \(samples, 4\), got \(4,\)"),
    "X_cube": (lambda: network().predict_proba(X4[None]), r"X must have shape \(samples, 4\), got \(1, 5, 4\)"),
    "X_number": (lambda: network().forward(3.0), r"X must have shape \(samples, 4\), got \(\)"),
    "X_empty": (lambda: network().forward(X4[:0]), r"X has no rows; at least one sample is needed"),
    "X_empty_list": (lambda: network().forward([]), r"X must have shape \(samples, 4\), got \(0,\)"),
    "X_nan": (lambda: network().gradient(NAN, Y3), r"\[MLP.gradient\] X holds NaN.*first in row 2.*impute or drop"),
    "X_infinite": (lambda: network().forward(X4 + np.inf), r"X holds NaN, infinity.*first in row 0"),
    "X_large": (lambda: network().forward(X4 + 1e300), r"X holds .*more than float32 holds"),
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
    "target_large": (lambda: pg.MLP([4, 1], loss="mae").loss(X4, Y3 - 1e300), r"y holds .*more than float32 holds"),
    "target_range": (
        lambda: pg.MLP([4, 1], loss="binary_cross_entropy").loss(X4, Y3),
        r"targets of binary_cross_entropy must be in \[0, 1\], got 0.0 to 2.0",
    ),
    # Weights.
    "weight_length": (lambda: network().loss(X4, Y3, Y3[:3]), r"sample_weight must have shape \(5,\), got \(3,\)"),
    "weight_number": (lambda: network().loss(X4, Y3, 1.0), r"sample_weight must have shape \(5,\), got \(\)"),
    "weight_negative": (lambda: network().loss(X4, Y3, Y3 - 1), r"sample_weight must be finite, none below zero"),
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
