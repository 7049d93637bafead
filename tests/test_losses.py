"""The losses of popgrad.losses: how they are written, kept, checked, and used by every kind of method."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from scipy import special, stats
from sklearn import metrics as sk

import popgrad as pg
from networks import LOSSES, every_loss, problem
from popgrad import losses
from popgrad.models import MLP


def fitted(loss, optimizer, samples=60, outputs=3, **options):
    model = pg.MLP([4, 6, outputs], "tanh", loss)
    _, X, y, weight = problem(model, samples)
    history = pg.fit(model, X, y, optimizer=optimizer, sample_weight=weight, **options)
    return model, history


# --- How losses are written -----------------------------------------------------------------------------------------


@every_loss
def test_a_model_is_printed_and_pickled_with_its_loss(loss):
    model = pg.MLP([3, 4, 3], "tanh", loss)
    namespace = {**vars(losses), "MLP": MLP}
    for other in (eval(repr(model), namespace), pickle.loads(pickle.dumps(model))):
        assert other.criterion == model.criterion == loss
        assert repr(other) == repr(model)


@every_loss
def test_a_file_keeps_the_loss(loss, tmp_path):
    model = pg.MLP([3, 4, 3], "tanh", loss)
    loaded = pg.MLP.load(model.save(tmp_path / "model.safetensors"))
    assert loaded.criterion == loss
    _, X, y, _ = problem(model, 20)
    assert loaded.loss(X, y) == model.loss(X, y)
    assert pg.MLP.load(tmp_path / "model.safetensors", loss="mse").criterion == losses.MeanSquared()


@pytest.mark.parametrize("name", losses.REGISTRY)
def test_a_name_is_the_default_setting(name):
    model = pg.MLP([3, 3], loss=name)
    assert model.criterion == losses.REGISTRY[name]()
    assert model.loss_name == name
    assert f"loss={name!r}" in repr(model)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: losses.CrossEntropy(label_smoothing=1),
            r"\[CrossEntropy\] label_smoothing must be in \[0, 1\), got 1",
        ),
        (lambda: losses.BinaryCrossEntropy(-0.1), r"label_smoothing must be in \[0, 1\), got -0.1"),
        (lambda: losses.Focal(gamma=-1), r"\[Focal\] gamma must be a finite number >= 0, got -1"),
        (lambda: losses.BinaryFocal(gamma=np.nan), "gamma must be a finite number >= 0"),
        (lambda: losses.Huber(delta=0), r"\[Huber\] delta must be a finite number > 0, got 0"),
        (lambda: losses.Quantile(tau=1), r"\[Quantile\] tau must be in \(0, 1\), got 1"),
        (lambda: pg.MLP([3, 2], loss=losses.Huber), r"\[MLP\] loss must be a name or an instance, such as Huber\(\)"),
        (lambda: pg.MLP([3, 2], loss="hubr"), r"\[MLP\] unknown loss 'hubr'. Did you mean 'huber'\?"),
        (lambda: pg.MLP([3, 2], loss=3), r"\[MLP\] unknown loss 3. Known: cross_entropy"),
        (lambda: pg.MLP([3, 2], loss={"name": "huber", "gamma": 2}), "unknown settings of the loss 'huber': gamma"),
        (lambda: pg.MLP([3, 1], loss="focal"), "focal needs at least two outputs; .* loss='binary_focal'"),
    ],
)
def test_bad_losses(make, message):
    with pytest.raises(pg.InputError, match=message):
        make()


def test_an_unknown_setting_is_suggested():
    with pytest.raises(TypeError, match=r"Huber\(\) has no argument 'delt'. Did you mean 'delta'\?"):
        losses.Huber(delt=1)


@pytest.mark.parametrize(
    ("loss", "y", "message"),
    [
        ("poisson", [[1], [-2]], "targets of poisson must be counts >= 0, got -2.0 in row 1"),
        ("binary_focal", [[0], [2]], r"targets of binary_focal must be in \[0, 1\], got 0.0 to 2.0"),
    ],
)
def test_bad_targets(loss, y, message):
    with pytest.raises(pg.InputError, match=message):
        pg.MLP([2, 1], loss=loss).loss(np.zeros((2, 2)), y)


# --- Values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("gamma", [0.25, 2.0])
def test_focal_loss_keeps_its_digits_where_a_label_is_sure(gamma, dtype):
    model = pg.MLP([1, 3], loss=losses.Focal(gamma=gamma), dtype=dtype)
    for margin in (1.0, 8.0, 20.0, -40.0):
        model.params = [0, 0, 0, margin, 0, 0.5]
        log_p = -np.log1p(np.exp(-margin) * (1 + np.exp(0.5)))
        q = -np.expm1(log_p)
        value, gradient = model.gradient([[1.0]], [0])
        assert value == pytest.approx(-(q**gamma) * log_p, rel=3e-5 if dtype == "float32" else 1e-10)
        slope = (gamma * np.exp(log_p) * log_p / q - 1) * q ** (gamma + 1)
        assert gradient[3] == pytest.approx(slope, rel=3e-5 if dtype == "float32" else 1e-10)


def test_smoothing_spreads_the_target():
    model = pg.MLP([1, 4], loss=losses.CrossEntropy(label_smoothing=0.2), dtype="float64")
    z = np.log([0.85, 0.05, 0.05, 0.05])  # the smoothed target itself: the loss is its entropy, and the slope zero
    model.params = [0, 0, 0, 0, *z]
    value, gradient = model.gradient([[1.0]], [0])
    assert value == pytest.approx(stats.entropy(np.exp(z)), rel=1e-12)
    np.testing.assert_allclose(gradient, 0, atol=1e-15)
    assert model.evaluate(model.params[None], [[1.0]], [0], "error_rate") == 0


def test_poisson_deviance_is_that_of_scikit_learn_and_zero_for_exact_predictions():
    y = np.array([[0.0], [1], [3], [1000]])
    model = pg.MLP([1, 1], loss="poisson", dtype="float64")
    model.params = [0.01, 0.3]
    X = 10 * np.arange(4.0)[:, None]
    expected = sk.mean_poisson_deviance(y, model.predict(X))
    assert model.evaluate(model.params[None], X, y, "poisson_deviance")[0] == pytest.approx(expected, rel=1e-12)
    model = pg.MLP([1, 1], loss="poisson")
    model.params = [0, np.log(1000)]
    assert abs(model.evaluate(model.params[None], X[:1], [1000], "poisson_deviance")[0]) < 1e-8


@pytest.mark.parametrize("metric", ["mse", "mae", "r2", "quantile", "error_rate", "auc"])
def test_a_model_of_counts_refuses_metrics_of_raw_outputs(metric):
    model = pg.MLP([1, 1], loss="poisson")
    with pytest.raises(pg.InputError, match=rf"{metric} compares raw outputs .* use poisson_deviance"):
        model.evaluate(model.params[None], [[1.0]], [1], metric)


def test_poisson_deviance_needs_counts():
    model = pg.MLP([1, 1], loss="mse")
    with pytest.raises(pg.InputError, match=r"poisson_deviance needs a model with loss 'poisson', got 'mse'"):
        model.evaluate(model.params[None], [[1.0]], [1], "poisson_deviance")


# --- Methods --------------------------------------------------------------------------------------------------------


@every_loss
def test_a_gradient_method_improves_the_loss(loss):
    _, history = fitted(loss, pg.optim.Adam(1e-2), epochs=20, record="full", validation=0.25)
    assert history.loss[-1] < history.loss[0]
    assert history.metric_name == loss.metric
    assert not history.diverged


@every_loss
def test_a_search_improves_the_loss(loss):
    _, history = fitted(loss, pg.search.DE(popsize=20), budget=pg.Budget(evaluations=1000))
    assert min(history.loss) < history.loss[0]


@every_loss
def test_populations_that_are_not_stored_have_the_same_loss(loss):
    for rank in (None, 2):
        model = pg.MLP([4, 6, 3], "tanh", loss)
        _, X, y, weight = problem(model, 70)
        population = pg.Perturbations(model.params, 0.3, 8, seed=1, rank=rank, layout=model.layout)
        stored = population[:]
        np.testing.assert_allclose(
            model.evaluate(population, X, y, sample_weight=weight),
            model.evaluate(stored, X, y, sample_weight=weight),
            rtol=1e-5,
        )


@every_loss
@pytest.mark.skipif(not pg._core.bfloat16(), reason="no products of bfloat16 here")
def test_bfloat16_has_nearly_the_same_loss(loss):
    model = pg.MLP([4, 6, 3], "tanh", loss)
    population, X, y, weight = problem(model, 70)
    exact = model.evaluate(population, X, y, sample_weight=weight)
    rough = model.evaluate(population, X, y, sample_weight=weight, precision="bfloat16")
    np.testing.assert_allclose(rough, exact, rtol=0.05)
    assert (rough != exact).any()


@every_loss
def test_an_optimizer_that_samples_targets(loss):
    """SophiaG's estimate of the curvature needs a likelihood; label smoothing does not stand in the way."""
    sophia = pg.optim.SophiaG(learning_rate=1e-2)
    if loss.unsmoothed is None:
        with pytest.raises(pg.InputError, match=f"not for the loss '{loss.name}'"):
            fitted(loss, sophia, epochs=2)
    else:
        _, history = fitted(loss, sophia, epochs=20)
        assert history.loss[-1] < history.loss[0]


@pytest.mark.parametrize("kind", [losses.CrossEntropy, losses.BinaryCrossEntropy])
def test_sampled_labels_are_not_smoothed(kind):
    found = []
    for loss in (kind(), kind(label_smoothing=0.3)):
        model = pg.MLP([4, 6, 3], "tanh", loss)
        _, X, y, _ = problem(model, 20)
        drawn = model.objective(X, y).sampled(model.params, pg.Batch(), np.random.default_rng(0))
        found.append(np.empty_like(model.params))
        drawn.gradient(model.params, pg.Batch(), found[-1])
    np.testing.assert_array_equal(*found)


def test_sampled_counts_have_the_mean_of_the_model():
    z = np.log([[0.5, 2.0], [10.0, 1000.0]])
    drawn = np.mean([losses.Poisson().sampled(z, np.random.default_rng(k)) for k in range(4000)], axis=0)
    np.testing.assert_allclose(drawn, np.exp(z), rtol=0.1)


def test_quantile_regression_finds_the_quantile():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (2000, 1))
    y = 2 * X[:, 0] + rng.normal(size=2000)
    for tau in (0.1, 0.9):
        model = pg.MLP([1, 1], loss=losses.Quantile(tau=tau))
        history = pg.fit(model, X, y, optimizer=pg.optim.Adam(0.02), epochs=30)
        assert np.mean(y <= model.predict(X)) == pytest.approx(tau, abs=0.02)
        np.testing.assert_allclose(model.params, [2, stats.norm.ppf(tau)], atol=0.2)
        assert history.metric == history.loss


def test_poisson_regression_finds_the_rates():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (4000, 1))
    y = rng.poisson(np.exp(1 + 0.5 * X[:, 0]))
    model = pg.MLP([1, 1], loss="poisson")
    history = pg.fit(model, X, y, optimizer=pg.optim.Adam(0.02), epochs=20)
    np.testing.assert_allclose(model.params, [0.5, 1], atol=0.05)
    np.testing.assert_allclose(model.predict(X), np.exp(model.forward(X)[:, 0]), rtol=1e-6)
    assert history.metric_name == "poisson_deviance"
    assert history.metric[-1] == pytest.approx(1, abs=0.1)  # of a Poisson distribution, with mean e
    with pytest.raises(pg.InputError, match="does not predict probabilities"):
        model.predict_proba(X)


def test_a_run_with_negative_losses_is_judged_by_their_distance_from_the_least():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 2))
    y = rng.poisson(1000, 400)
    model = pg.MLP([2, 1], loss="poisson")
    model.params = [0, 0, np.log(1000)]  # nothing to gain
    kept = model.params.copy()
    history = pg.fit(model, X, y, optimizer=pg.optim.SGD(1e-7), epochs=3, record="full")
    assert history.loss[-1] < -5000
    assert not history.diverged
    model.params = kept
    history = pg.fit(model, X, y, optimizer=pg.optim.SGD(4e-3), epochs=3, record="full")
    assert history.diverged
    labels = rng.poisson(1000, (50, 1)).astype(float)
    z = np.log(labels)
    np.testing.assert_allclose(losses.Poisson().least(labels), np.exp(z) - labels * z, rtol=1e-12)


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.has_classes], ids=str)
def test_text_labels(loss):
    X = np.repeat(np.eye(2), 20, axis=0)
    y = np.repeat(["no", "yes"], 20)
    model = pg.MLP([2, 2 if loss.targets == "labels" else 1], loss=loss)
    history = pg.fit(model, X, y, optimizer=pg.optim.Adam(0.1), epochs=30)
    assert history.metric[history.best] == 0
    np.testing.assert_array_equal(model.predict(X), y)
    probability = model.predict_proba(X)
    assert probability.shape == (40, model.sizes[-1])
    assert (probability[20:, -1] > 0.5).all()


# --- Several targets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [pg.optim.Adam(0.02), pg.search.DE(popsize=30)], ids=str)
def test_several_labels_per_sample(optimizer):
    """error_rate is the mean over samples and labels; a share of samples with a wrong label is a function away."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 4))
    y = (X @ rng.normal(size=(4, 3)) > 0).astype(int)
    model = pg.MLP([4, 3], loss="binary_cross_entropy")
    budget = pg.Budget(forwards=320 * 3000)
    history = pg.fit(model, X, y, optimizer=optimizer, validation=0.2, budget=budget, select="loss")
    predicted = model.predict(X)
    assert predicted.shape == (400, 3)
    assert np.mean(predicted != y) < 0.1
    assert history.validation_metric[history.best] < 0.15

    def some_wrong(outputs, y):
        return ((outputs > 0) != (y > 0.5)).any(axis=2).mean(axis=1)

    value = model.evaluate(model.params[None], X, y, some_wrong)[0]
    assert value == pytest.approx(1 - sk.accuracy_score(y, predicted))
    rate = model.evaluate(model.params[None], X, y, "error_rate")[0]
    assert rate == pytest.approx(sk.hamming_loss(y, predicted), rel=1e-6)
    assert value > rate
    np.testing.assert_allclose(model.predict_proba(X), special.expit(model.forward(X)), rtol=1e-5)


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.targets in ("numbers", "counts")], ids=str)
def test_several_numbers_per_sample(loss):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3))
    z = X @ rng.normal(size=(3, 2)) * 0.5
    y = rng.poisson(np.exp(z)) if loss.targets == "counts" else z
    model = pg.MLP([3, 2], loss=loss)
    pg.fit(model, X, y, optimizer=pg.optim.Adam(0.05), epochs=30, validation=0.2)
    predicted = model.predict(X)
    assert predicted.shape == (300, 2)
    assert np.corrcoef(predicted.ravel(), (np.exp(z) if loss.targets == "counts" else z).ravel())[0, 1] > 0.95


def test_many_networks_have_one_loss():
    models = [pg.MLP([4, 3], loss=loss) for loss in ("cross_entropy", losses.CrossEntropy(label_smoothing=0.1))]
    _, X, y, _ = problem(models[0], 20)
    with pytest.raises(
        pg.InputError, match=r"\[fit_many\] models must have one loss, got 'cross_entropy' and CrossEnt"
    ):
        pg.fit_many(models, X, y, optimizer=pg.optim.Adam(), epochs=1)
