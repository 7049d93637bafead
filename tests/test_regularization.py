"""Dropout per layer, input noise, mixup and class weights."""

from __future__ import annotations

import functools
import itertools
import pickle

import numpy as np
import pytest
from scipy import stats
from sklearn.utils.class_weight import compute_class_weight

import popgrad as pg
from fitting import bits, small
from networks import every_dtype, problem, sequential
from popgrad import optim, search
from popgrad.train.fit import divided

# Settings of the model, and arguments of pg.fit.
DRAWS = {
    "dropout": ({"dropout": [0.3]}, {}),
    "input_noise": ({"input_noise": 0.5}, {}),
    "mixup": ({}, {"mixup": 0.4}),
    "all": ({"dropout": 0.2, "input_noise": 0.1}, {"mixup": 1.0, "class_weight": "balanced"}),
}
every_draw = pytest.mark.parametrize(("settings", "options"), DRAWS.values(), ids=list(DRAWS))


def fitted(settings, options, optimizer=None, **chosen):
    model, X, y = small(50, **settings)
    optimizer = optimizer or optim.Adam(0.01)
    history = pg.fit(model, X, y, optimizer=optimizer, **{"batch_size": 16, "epochs": 6, **options, **chosen})
    return model, history


@pytest.fixture
def threads():
    """A setter whose effect ends with the test."""
    before = pg.get_num_threads()
    yield pg.set_num_threads
    pg.set_num_threads(before)


# --- All that is drawn ------------------------------------------------------------------------------------------------


@every_draw
def test_native_loops_have_the_bits_of_single_steps(settings, options):
    class Watching(pg.Callback):
        def on_batch_begin(self, *_):
            pass

    native = fitted(settings, options)
    single = fitted(settings, options, callbacks=[Watching()])
    plain = fitted({}, {})
    assert bits(native[1]) == bits(single[1])
    assert native[1].last.state.w.tobytes() == single[1].last.state.w.tobytes()
    assert bits(native[1]) != bits(plain[1])


@every_draw
def test_a_resumed_run_equals_an_uninterrupted_one(settings, options, tmp_path):
    whole = fitted(settings, options)[1]
    checkpoint = pg.Checkpoint(tmp_path, every_seconds=60)
    fitted(settings, options, epochs=3, checkpoint=checkpoint)
    resumed = fitted(settings, options, resume=tmp_path)[1]
    assert resumed.last.state.w.tobytes() == whole.last.state.w.tobytes()
    other = {**options, "mixup": 0.3}
    with pytest.raises(pg.InputError, match=r"another mixup"):
        fitted(settings, other, resume=tmp_path)


@every_draw
@pytest.mark.parametrize("batch_size", [100, 700])
def test_gradients_do_not_depend_on_the_number_of_threads(settings, options, batch_size, threads):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(700, 300)).astype(np.float32), rng.integers(0, 3, 700)
    settings = {**settings, "dropout": 0.3} if "dropout" in settings else settings

    def run(count, sizes):
        threads(count)
        model = pg.MLP(sizes, **settings)
        history = pg.fit(model, X, y, optimizer=optim.Adam(), batch_size=batch_size, epochs=2, **options)
        return bits(history)

    for sizes in ([300, 60, 3], [300, 8, 3]):
        assert run(1, sizes) == run(2, sizes) == run(5, sizes)


@every_draw
def test_nothing_is_drawn_outside_of_training(settings, options):
    model, X, y = small(50, **settings)
    plain = small(50)[0]
    plain.params = model.params
    data = model.objective(X, y)
    data = data.mixed(options["mixup"]) if "mixup" in options else data
    out, expected = np.empty_like(model.params), np.empty_like(model.params)
    value = data.gradient(model.params, pg.Batch(), out)
    assert value == plain.objective(X, y).gradient(plain.params, pg.Batch(), expected)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(data.values(model.params[None]), plain.objective(X, y).values(plain.params[None]))
    np.testing.assert_array_equal(model.gradient(X, y)[1], expected)


@every_draw
def test_line_searches_see_the_loss_of_the_gradient(settings, options):
    model, X, y = small(50, **settings)
    data = model.objective(X, y)
    data = data.mixed(options["mixup"]) if "mixup" in options else data
    batch, out = pg.Batch(np.arange(20), 3), np.empty_like(model.params)
    assert data.loss(model.params, batch) == data.gradient(model.params, batch, out)
    assert data.loss_cost(batch) == data.gradient_cost(batch)


@every_draw
def test_many_networks_have_the_bits_of_single_runs(settings, options):
    model, X, y = small(50, **settings)
    chosen = {"optimizer": optim.Adam(0.01), "epochs": 4, "batch_size": 16, **options}
    found = pg.fit_many(model, X, y, seeds=[0, 1], **chosen)
    for seed, run in enumerate(found):
        alone = small(50, **{**settings, "seed": seed})[0]
        assert bits(pg.fit(alone, X, y, seed=seed, **chosen)) == bits(run.history)


# --- Dropout per layer ------------------------------------------------------------------------------------------------


def test_every_layer_has_its_rate():
    model = pg.MLP([2, 500, 400, 300, 1], "sigmoid", "mae", dropout=[0.1, 0.0, 0.6])
    data, out = model.objective(np.ones((1, 2)), [-1000]), np.empty_like(model.params)
    data.gradient(model.params, pg.Batch(step=1), out)
    # A unit that is dropped has no gradient for the weights that leave it.
    weights = [view for name, view in model.views(out).items() if name.endswith("weight")]
    shares = [np.mean((weight == 0).all(axis=0)) for weight in weights[1:]]
    assert shares == pytest.approx([0.1, 0.0, 0.6], abs=0.1)
    assert shares[1] == 0


@pytest.mark.parametrize("rates", [[0.1, 0.5], [0.0, 0.5], [0.1, 0.0], [0, 0], (0.2, np.float32(0.5))])
def test_tensors_are_named_as_in_pytorch(rates, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is the reference here")
    model = pg.MLP([3, 5, 4, 2], dropout=rates)
    module = sequential(torch, model)
    module.load_state_dict({name: torch.tensor(view) for name, view in model.views().items()})
    loaded = pg.MLP.load(model.save(tmp_path / "model.safetensors"))
    assert repr(loaded) == repr(pickle.loads(pickle.dumps(model))) == repr(model)
    assert loaded.dropout == [float(rate) for rate in rates]
    np.testing.assert_array_equal(loaded.params, model.params)


def test_one_rate_is_the_same_rate_everywhere():
    for loop in ({}, {"callbacks": [lambda *_: None]}):
        one, several = (fitted({"dropout": rate}, {}, **loop)[1] for rate in (0.25, [0.25]))
        assert bits(one) == bits(several)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dropout": [0.1]}, r"dropout must be a number or a list of 2, one per hidden layer, got \[0.1\]"),
        ({"dropout": [0.1, 1]}, r"dropout must be in \[0, 1\), got 1"),
        ({"dropout": "much"}, r"dropout must be in \[0, 1\), got 'much'"),
        ({"input_noise": -1}, "input_noise must be a finite number >= 0, got -1"),
        ({"input_noise": np.inf}, "input_noise must be a finite number >= 0, got inf"),
    ],
)
def test_bad_settings_of_a_model(settings, message):
    with pytest.raises(pg.InputError, match=rf"\[MLP\] {message}"):
        pg.MLP([3, 4, 4, 2], **settings)


# --- Input noise --------------------------------------------------------------------------------------------------


def noisy_inputs(step, place=0, inputs=600, sigma=0.5, seed=0, dtype="float64"):
    """The inputs that a gradient saw of the sample at a place of a batch: the slope of a linear network."""
    model = pg.MLP([inputs, 1], loss="mae", input_noise=sigma, seed=seed, dtype=dtype)
    X, weight = np.full((70, inputs), 2.0), np.arange(70) == place
    data, out = model.objective(X, np.full(70, -1000), weight), np.empty_like(model.params)
    value = data.gradient(model.params, pg.Batch(step=step), out)
    # The forward pass and the weight gradient see the same noise.
    assert value == pytest.approx(model.params[:-1] @ out[:-1] + 1000, rel=1e-6)
    return out[:-1]


@every_dtype
@pytest.mark.parametrize("inputs", [1, 65, 300, 600])
def test_noise_is_normal_and_independent(inputs, dtype):
    parts = [
        noisy_inputs(step, place, inputs, dtype=dtype) for step in range(1, 1 + 1200 // inputs) for place in (0, 69)
    ]
    drawn = (np.array(parts) - 2) / 0.5
    assert stats.kstest(drawn.ravel(), "norm").pvalue > 1e-3
    assert len(np.unique(np.round(drawn, 5))) > 0.98 * drawn.size
    assert np.array_equal(noisy_inputs(1, 0, inputs, dtype=dtype), parts[0])
    assert not np.array_equal(noisy_inputs(1, 0, inputs, seed=1, dtype=dtype), parts[0])


# --- Mixup --------------------------------------------------------------------------------------------------------


@functools.cache
def mixture(step, samples, alpha, seed=0):
    """(neighbors, share) of a step: a mask of who is mixed with whom, in either direction, and the larger share."""
    model = pg.MLP([samples, 1], loss="mae", dtype="float64", seed=seed)
    seen, out = np.empty((samples, samples)), np.empty_like(model.params)
    for i in range(samples):
        # One-hot inputs, and weight for sample i alone: the slopes by the inputs are products of shares.
        data = model.objective(np.eye(samples), np.full(samples, -1000.0), np.arange(samples) == i).mixed(alpha)
        data.gradient(model.params, pg.Batch(step=step), out)
        seen[i] = out[:-1]
    others = seen - np.diag(np.diag(seen))
    product = others.sum(axis=1).max() / 2  # share * (1 - share), of a sample that is not its own partner
    return others > 1e-300, 0.5 + np.sqrt(max(0.0, 0.25 - product))


def cycles(neighbors):
    """The cycles of a permutation; the direction of a cycle is unknown."""
    left, found = set(range(len(neighbors))), []
    while left:
        at = min(left)
        found.append([])
        while at is not None:
            left.remove(at)
            found[-1].append(at)
            at = next((int(k) for k in np.flatnonzero(neighbors[at]) if k in left), None)
    return found


def permutations(neighbors):
    """Every permutation with these neighbors."""
    around = cycles(neighbors)
    for directions in itertools.product((-1, 1), repeat=len(around)):
        partner = np.arange(len(neighbors))
        for cycle, direction in zip(around, directions, strict=True):
            partner[cycle] = np.roll(cycle, direction)
        yield partner


@pytest.mark.parametrize("loss", ["cross_entropy", "focal", "mse"])
@pytest.mark.parametrize(("units", "samples"), [(40, 5), (40, 130), (700, 130), (40, 600), (700, 600)])
@every_dtype
def test_mixup_is_the_loss_of_both_targets_at_mixed_inputs(units, samples, loss, dtype):
    """Threads share the layers of the wider network, and the samples of the other one."""
    model = pg.MLP([6, units, 3], "tanh", loss, dtype=dtype)
    _, X, y, weight = problem(model, samples)
    weight, out, orders = weight + 1.0, np.empty_like(model.params), []
    steps = 3 if samples < 500 else 1
    for step in range(1, 1 + steps):
        seen = model.objective(X, y, weight).mixed(1.0).seen_gradient(model.params, pg.Batch(step=step), out)
        neighbors, share = mixture(step, samples, 1.0)
        errors = []
        for partner in permutations(neighbors):
            mixed = share * X + (1 - share) * X[partner]
            both = np.concatenate([share * weight, (1 - share) * weight[partner]])
            expected, gradient = model.gradient(np.tile(mixed, (2, 1)), np.concatenate([y, y[partner]]), both)
            relative = np.linalg.norm(out - gradient) / np.linalg.norm(gradient)
            # The metric is that of the sample's own target, which has either share.
            own = model.evaluate(model.params[None], mixed, y, model.metric_name, sample_weight=weight)
            other = model.evaluate(
                model.params[None], mixed, y[partner], model.metric_name, sample_weight=weight[partner]
            )
            metric = min(abs(own[0] - seen.metric), abs(other[0] - seen.metric))
            errors.append(max(abs(seen.loss - expected), relative, metric))
        assert min(errors) < (1e-5 if dtype == "float32" else 1e-9)
        orders.append(neighbors.tobytes())
        assert seen.weight == weight.sum()
    assert len(set(orders)) == steps


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_are_of_the_beta_distribution(alpha):
    shares = []
    for step in range(1, 1200):
        neighbors, share = mixture(step, 2, alpha)
        if neighbors.any():
            shares.append(share)
    assert 0.4 < len(shares) / 1200 < 0.6  # of two samples, each is its own partner in half of the steps
    beta = stats.beta(alpha, alpha)
    assert stats.kstest(shares, lambda x: beta.cdf(x) - beta.cdf(1 - x)).pvalue > 1e-3


def test_a_stream_of_batches_mixes_like_arrays():
    model, X, y = small(48)
    plain = pg.BatchStream([(X[k : k + 16], y[k : k + 16]) for k in (0, 16, 32)])
    history = pg.fit(model, plain, optimizer=optim.Adam(0.01), epochs=2, mixup=0.5)
    other = small(48)[0]
    out, state = np.empty_like(other.params), optim.Adam(0.01).init(other.params)
    for step in range(1, 7):
        rows = np.arange(16) + 16 * ((step - 1) % 3)
        other.objective(X, y).mixed(0.5).gradient(other.params, pg.Batch(rows, step), out)
        optim.Adam(0.01).step(other.params, out, state)
    assert history.last.state.w.tobytes() == other.params.tobytes()


@pytest.mark.parametrize(
    ("optimizer", "mixup", "message"),
    [
        (optim.Adam(), 0, "mixup must be a finite number > 0 or None, got 0"),
        (optim.Adam(), np.nan, "mixup must be a finite number > 0 or None, got nan"),
        (optim.Adam(), "yes", "mixup must be a finite number > 0 or None, got 'yes'"),
        (search.DE(), 0.2, "mixup needs a method that follows gradients, but DE does not"),
    ],
)
def test_bad_mixup(optimizer, mixup, message):
    model, X, y = small()
    kept = model.params.copy()
    with pytest.raises(pg.InputError, match=rf"\[fit\] {message}"):
        pg.fit(model, X, y, optimizer=optimizer, mixup=mixup)
    np.testing.assert_array_equal(model.params, kept)


class Own(pg.Model):
    """A model whose objective has a gradient, and neither classes nor a way to mix samples."""

    layout = pg.Layout({"w": (2,)})
    params = np.zeros(2, np.float32)

    def objective(self, X, y, sample_weight=None, *, metric="loss", operation="x"):
        class Bowl(pg.Objective):
            layout = self.layout
            samples = 4

            def values(self, population, batch=None):
                return (np.asarray(population[:]) ** 2).sum(axis=1).astype(float)

            def gradient(self, w, batch, out):
                out[:] = 2 * w
                return float(w @ w)

        return Bowl()


@pytest.mark.parametrize(("name", "value"), [("mixup", 0.2), ("class_weight", "balanced")])
def test_an_objective_that_cannot(name, value):
    with pytest.raises(pg.InputError, match=rf"\[fit\] {name}: Bowl does not define"):
        pg.fit(Own(), np.zeros((4, 1)), np.zeros(4), optimizer=optim.SGD(), **{name: value})


# --- Class weights ------------------------------------------------------------------------------------------------

NAMES = np.array(["ash", "elm", "oak"])


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("given", ["balanced", {"oak": 3.0, "ash": 0.5}, {"elm": 0}])
@pytest.mark.parametrize("weighted", [False, True])
def test_class_weights_multiply_sample_weights(given, text, weighted):
    model, X, _ = small(60)
    index = np.random.default_rng(0).choice(3, size=60, p=[0.6, 0.3, 0.1])
    names = NAMES.tolist() if text else [0, 1, 2]
    y = NAMES[index] if text else index
    if isinstance(given, dict):
        given = {names[NAMES.tolist().index(name)]: weight for name, weight in given.items()}
    weight = np.random.default_rng(1).uniform(1, 2, 60) if weighted else None
    if given == "balanced":
        factors = compute_class_weight("balanced", classes=np.arange(3), y=index)
    else:
        factors = np.array([given.get(name, 1) for name in names])
    expected = factors[index] * (1 if weight is None else weight)
    chosen = {"optimizer": optim.Adam(0.01), "epochs": 3, "record": "full"}
    by_class = pg.fit(model, X, y, sample_weight=weight, class_weight=given, **chosen)
    by_sample = pg.fit(small(60)[0], X, index, sample_weight=expected, **chosen)
    np.testing.assert_allclose(by_class.loss, by_sample.loss, rtol=1e-5)
    assert by_class.samples == by_sample.samples == np.count_nonzero(expected)


def test_class_weights_of_two_classes_with_one_output():
    X = np.random.default_rng(0).normal(size=(40, 3))
    y = np.repeat(["no", "yes"], [30, 10])
    model = pg.MLP([3, 1], loss="binary_cross_entropy")
    history = pg.fit(model, X, y, optimizer=optim.Adam(0.05), epochs=40, class_weight="balanced")
    assert 0.3 < np.mean(model.predict(X) == "yes") < 0.7  # without inputs that tell, the classes are even
    assert history.loss[0] == pytest.approx(small_loss(X, y == "yes", np.where(y == "yes", 40 / 20, 40 / 60)), rel=1e-5)


def small_loss(X, y, weight):
    return pg.MLP([3, 1], loss="binary_cross_entropy").loss(X, y, weight)


@pytest.mark.parametrize("validation", [0.3, "samples"])
def test_validation_figures_are_not_weighted_by_class(validation):
    model, X, y = small(60)
    given = (X[:20], y[:20]) if validation == "samples" else validation
    train, held = divided(model, X, y, None, given, 0, "loss", {0: 5.0})
    assert held.weight is None
    np.testing.assert_array_equal(train.weight, np.where(train.y[:, 0] == 0, 5.0, 1.0))
    history = pg.fit(model, X, y, optimizer=optim.SGD(0.01), epochs=1, validation=given, class_weight={0: 5.0})
    assert history.validation_loss[0] == small(60)[0].loss(held.X, held.y[:, 0])


def test_balanced_counts_the_training_samples(tmp_path):
    model, X, _ = small(61)
    y = np.minimum(np.arange(61) % 5, 2)
    train, _ = divided(model, X, y, None, 0.3, 0, "loss", "balanced")
    expected = compute_class_weight("balanced", classes=np.arange(3), y=train.y[:, 0].astype(int))
    np.testing.assert_allclose(train.weight, expected[train.y[:, 0].astype(int)], rtol=1e-6)
    np.save(tmp_path / "X.npy", X.astype(np.float32))
    mapped, _ = divided(model, np.load(tmp_path / "X.npy", mmap_mode="r"), y, None, 0.3, 0, "loss", "balanced")
    assert type(mapped).__name__ == "MappedObjective"
    batch = pg.Batch(np.arange(10))
    np.testing.assert_array_equal(mapped.values(model.params[None], batch), train.values(model.params[None], batch))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("even", "class_weight must be 'balanced', a weight per label, or None, got 'even'"),
        ([1, 2, 3], r"class_weight must be 'balanced', a weight per label, or None, got \[1, 2, 3\]"),
        ({0: 1, 7: 2}, r"class_weight holds the label 7, which is not among the classes \[0, 1, 2\]"),
        ({"0": 1}, "class_weight holds the label '0'"),
        ({0: -1}, "class_weight must hold finite numbers >= 0, got -1 for 0"),
        ({1: np.nan}, "class_weight must hold finite numbers >= 0, got nan for 1"),
        ({0: 0, 1: 0, 2: 0}, "class_weight is zero for all classes that occur in y"),
    ],
)
def test_bad_class_weights(given, message):
    model, X, y = small()
    with pytest.raises(pg.InputError, match=rf"\[fit\] {message}"):
        pg.fit(model, X, y, optimizer=optim.Adam(), class_weight=given)


@pytest.mark.parametrize(("loss", "outputs"), [("mse", 1), ("binary_cross_entropy", 2), ("poisson", 1)])
def test_class_weights_need_classes(loss, outputs):
    with pytest.raises(pg.InputError, match=r"\[fit\] class_weight needs one class label per sample"):
        pg.fit(
            pg.MLP([2, outputs], loss=loss),
            np.zeros((4, 2)),
            np.ones((4, outputs)),
            optimizer=optim.Adam(),
            class_weight="balanced",
        )


def test_class_weights_need_all_samples():
    model, X, y = small()
    with pytest.raises(pg.InputError, match=r"\[fit\] class_weight needs all samples"):
        pg.fit(model, [(X, y)], optimizer=optim.Adam(), class_weight="balanced")
