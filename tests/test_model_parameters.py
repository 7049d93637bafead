"""popgrad.MLP: parameters, files, threads and dropout."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import special

import popgrad as pg
from networks import every_activation, every_dtype, hidden_and_outputs, metrics_of, problem, sequential
from popgrad.models.mlp import INITS

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
def test_default_initialization_suits_the_activation(activation):
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
    model.initialize(1)
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
    data, out = model.objective(X, y, weight), np.empty_like(model.params)

    def everything():
        loss_of_step = data.gradient(model.params, pg.Batch(step=3), out)
        return [
            model.forward(X),
            model.evaluate(population, X, y, sample_weight=weight),
            *(model.evaluate(population[k::3], X, y, sample_weight=weight) for k in range(3)),
            model.evaluate(population, X, y, metric=metrics_of(model.criterion)[1]),
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
    return model, model.objective(X, np.full(5, -1000))


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_dropout_gradient_is_right_on_average(rate):
    model, data = dropout_model(rate)
    steps = 3000
    gradients, losses = np.empty((steps, len(model.params))), np.empty(steps)
    for t in range(steps):
        losses[t] = data.gradient(model.params, pg.Batch(step=t + 1), gradients[t])
    exact = np.empty_like(model.params)
    loss = data.gradient(model.params, pg.Batch(), exact)
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
    data, out = model.objective(X, [-1000]), np.empty_like(model.params)
    a = special.expit(hidden_and_outputs(model, model.params, X)[0][0])[0]
    dropped = []
    for step in range(1, 21):
        data.gradient(model.params, pg.Batch(step=step), out)
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
        data.gradient(model.params, pg.Batch(step=step), out)
        return out.tobytes()

    assert gradient(1) == gradient(1)
    assert len({gradient(1), gradient(2), gradient(1, seed=1), gradient(0)}) == 4
    assert gradient(0) == gradient(1, rate=0.0)


def test_dropout_is_for_training_alone():
    with_dropout, without = pg.MLP([4, 6, 3], dropout=0.5), pg.MLP([4, 6, 3])
    population, X, y, _ = problem(without, 20)
    np.testing.assert_array_equal(with_dropout.forward(X), without.forward(X))
    np.testing.assert_array_equal(with_dropout.evaluate(population, X, y), without.evaluate(population, X, y))
    np.testing.assert_array_equal(with_dropout.gradient(X, y)[1], without.gradient(X, y)[1])
