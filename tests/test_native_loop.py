"""The native loop takes the steps that Python would take one by one, and records the same figures."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest

import popgrad as pg
from fitting import bits, every_optimizer, small
from popgrad import _core, optim


def one_by_one(trainer):
    """Has every step taken from Python."""
    trainer.before_step = lambda batch: None
    return trainer


def run(X, y, optimizer, *, model=None, python=False, weight=None, **chosen):
    """The bits of a history, and the state at the end."""
    model = model or small()[0]
    trainer = pg.Trainer(model.objective(X, y, weight), optimizer, model.params, **chosen)
    for _ in one_by_one(trainer) if python else trainer:
        pass
    state = trainer.state_dict()
    arrays = {
        name: value.tobytes() for name, value in state.items() if isinstance(value, np.ndarray) if "sec" not in name
    }
    numbers = {name: value for name, value in state.items() if not isinstance(value, np.ndarray) and "sec" not in name}
    return bits(trainer.history), arrays, numbers


def assert_same(X, y, optimizer, **chosen):
    native, python = (run(X, y, optimizer, python=python, **chosen) for python in (False, True))
    assert native == python
    return native


@every_optimizer
@pytest.mark.parametrize("batch_size", [7, None])
def test_the_native_loop_has_the_bits_of_single_steps(name, batch_size):
    _, X, y = small()
    assert_same(X, y, optim.REGISTRY[name](), batch_size=batch_size, epochs=9)
    assert_same(
        X, y, optim.REGISTRY[name](), batch_size=batch_size, budget=pg.Budget(forwards=1234.5), record_every=100
    )


OPTIONS = {
    "clip_norm": optim.SGD(0.1, clip_norm=0.3),
    "clip_value": optim.Adam(0.1, clip_value=0.05),
    "decay": optim.AdamW(lambda t: 0.1 / t, weight_decay=0.1),
    "average": optim.Momentum(ema_decay=0.9, l1=1e-3),
    "bfloat16": optim.Adam(0.01, state_dtype="bfloat16"),
    "max_norm": optim.Adam(0.1, max_norm=0.7, ema_decay=0.8),
    "noise": optim.Adam(0.1, gradient_noise=0.1, clip_norm=0.3, noise_seed=3),
    "noise by schedule": optim.Momentum(0.1, gradient_noise=lambda t: 0.1 / t, max_norm=1.0),
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_options_are_part_of_the_loop(option, dtype):
    if option == "bfloat16" and dtype == "float64":
        return
    model, X, y = small(dtype=dtype, dropout=0.2)
    weight = np.arange(20) % 3 + 0.5
    assert_same(X, y, OPTIONS[option], model=model, weight=weight, batch_size=6, epochs=8)


@pytest.mark.skipif(_core.bfloat16() is None, reason=f"{_core.isa()} has no products of bfloat16")
@pytest.mark.parametrize("sizes", [[4, 3], [4, 6, 3], [4, 130, 70, 3]])
def test_gradients_in_bfloat16_are_part_of_the_loop(sizes):
    _, X, y = small()
    weight = np.arange(20) % 3 + 0.5
    found = {}
    for precision in ("bfloat16", "float32"):
        model = pg.MLP(sizes, "tanh", dropout=0.1, input_noise=0.1)
        chosen = {"batch_size": 7, "epochs": 6, "precision": precision}
        found[precision] = assert_same(X, y, optim.Adam(0.01), model=model, weight=weight, **chosen)
    assert found["bfloat16"] != found["float32"]


@pytest.mark.parametrize("sizes", [[40, 150, 90, 3], [40, 3]])
def test_layers_that_threads_share(sizes):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(700, 40)).astype(np.float32), rng.integers(0, 3, 700)
    for batch_size, activation in itertools.product((1, 64, 100, 600), ("relu", "tanh")):
        model = pg.MLP(sizes, activation, dropout=0.1)
        assert_same(X, y, optim.Adam(), model=model, batch_size=batch_size, epochs=1)


def test_a_skipped_step_leaves_the_state_as_it_is():
    """Targets of 1e30 make gradients infinite while the loss stays finite in one of the minibatches."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 2)), rng.normal(size=30)
    X[3], y[3] = 1e19, 1e19
    model = pg.MLP([2, 1], loss="mae")
    optimizer = optim.Adam(0.01, skip_nonfinite=True)
    _, _, numbers = assert_same(X, y, optimizer, model=model, batch_size=5, epochs=4)
    assert 0 < numbers["method.optimizer.t"] <= numbers["run.step"]


def test_running_figures_are_the_means_over_the_steps():
    model, X, y = small(dtype="float64")
    weight = np.arange(20) % 3 + 0.5
    other = small(dtype="float64")[0]
    history = pg.fit(model, X, y, optimizer=optim.SGD(0.1), epochs=1, batch_size=8, sample_weight=weight)
    batches = pg.Trainer(other.objective(X, y, weight), optim.SGD(), other.params, batch_size=8).batches
    losses, errors, weights = [], [], []
    for step in (1, 2, 3):
        rows = batches.at(step).rows
        losses.append(other.loss(X[rows], y[rows], weight[rows]))
        errors.append(other.evaluate(other.params[None], X[rows], y[rows], "error_rate", sample_weight=weight[rows])[0])
        weights.append(weight[rows].sum())
        other.params -= 0.1 * other.gradient(X[rows], y[rows], weight[rows])[1]
    assert history.loss[1] == pytest.approx(np.average(losses, weights=weights), rel=1e-12)
    assert history.metric[1] == pytest.approx(np.average(errors, weights=weights), rel=1e-12)
    np.testing.assert_allclose(model.params, other.params, rtol=1e-12)


def test_full_batches_and_other_objectives_are_measured_anew():
    for chosen in (
        {"batch_size": None},
        {"objective": "f1_macro", "batch_size": 4},
        {"record": "full", "batch_size": 4},
    ):
        model, X, y = small()
        history = pg.fit(model, X, y, optimizer=optim.Adam(0.05), epochs=5, **chosen)
        assert model.loss(X, y) == history.loss[history.best]


def test_short_spans_share_a_table(monkeypatch):
    """Plans of many steps cost as much as those of a few; a function of the user is not called ahead of its step."""
    asked, table = [], optim.NativeOptimizer.table

    def watched(self, first, count, numbers):
        asked.append((first, count))
        return table(self, first, count, numbers)

    monkeypatch.setattr(optim.NativeOptimizer, "table", watched)
    _, X, y = small()
    for optimizer in (optim.NAdam(0.01), optim.Adam(pg.schedules.Cosine(0.01, 500))):
        assert_same(X, y, optimizer, batch_size=4, epochs=20)
        assert asked == [(1, 1024)]
        asked.clear()
    steps = []
    run(X, y, optim.SGD(lambda t: steps.append(t) or 0.1), batch_size=4, epochs=3, record_every=24)
    assert steps == list(range(1, 16))
    assert [first for first, _ in asked] == [1, 3, 5, 7, 9, 11, 13, 15]


def test_a_schedule_that_fails_ends_the_run_at_its_step():
    model, X, y = small()

    def schedule(t):
        return 0.1 if t < 5 else -1.0

    trainer = pg.Trainer(model.objective(X, y), optim.SGD(schedule), model.params, batch_size=10, epochs=10)
    with pytest.raises(pg.InputError, match=r"learning_rate must be a finite number >= 0 at step 5, got -1.0"):
        for _ in trainer:
            pass
    assert trainer.step == 4


def test_an_exception_of_a_signal_leaves_a_whole_step(interrupting):
    """The state after Ctrl-C is the state after the steps that are counted."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(4000, 30)).astype(np.float32), rng.integers(0, 3, 4000)
    model = pg.MLP([30, 64, 3])
    trainer = pg.Trainer(
        model.objective(X, y), optim.Adam(), model.params, epochs=10**6, batch_size=50, record_every=10**12
    )
    next(trainer)
    with interrupting(0.3), pytest.raises(KeyboardInterrupt):
        next(trainer)
    assert trainer.step == trainer.state.optimizer.t > 0
    again = pg.Trainer(
        model.objective(X, y), optim.Adam(), model.params, batch_size=50, budget=pg.Budget(evaluations=trainer.step)
    )
    for _ in again:
        pass
    assert again.state.w.tobytes() == trainer.state.w.tobytes()
    assert again.objective.forwards == trainer.objective.forwards


@pytest.mark.parametrize("record_every", [10**12, 60_000])
def test_the_model_is_usable_after_ctrl_c(interrupting, record_every):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4000, 30)).astype(np.float32)
    y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 1)
    model = pg.MLP([30, 64, 3])
    before = model.loss(X, y)
    with interrupting(0.5), pytest.raises(KeyboardInterrupt):
        pg.fit(model, X, y, optimizer=optim.Adam(), epochs=10**6, record_every=record_every)
    assert model.loss(X, y) < 0.5 * before


@pytest.fixture
def interrupting():
    """A block of code, interrupted as by Ctrl-C after some seconds."""
    import contextlib
    import signal

    @contextlib.contextmanager
    def interrupt(seconds):
        timer = threading.Timer(seconds, signal.raise_signal, [signal.SIGINT])
        timer.start()
        try:
            yield
        finally:
            timer.join()

    return interrupt


def test_other_threads_of_python_run_meanwhile():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(2000, 30)).astype(np.float32), rng.integers(0, 3, 2000)
    counted, stop = [0], threading.Event()

    def count():
        while not stop.is_set():
            counted[0] += 1
            time.sleep(0)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        pg.fit(pg.MLP([30, 64, 3]), X, y, optimizer=optim.Adam(), budget=pg.Budget(seconds=0.3), record_every=10**12)
    finally:
        stop.set()
        thread.join()
    assert counted[0] > 100


WRAPPED = {
    "lookahead": optim.Lookahead(optim.Adam(0.05), steps=4),
    "every step": optim.Lookahead(optim.Adam(0.05), steps=1),
    "mean": optim.Polyak(optim.Momentum(0.1), begin=5, every=3),
    "mean of all": optim.Polyak(optim.Momentum(0.1), begin=7),
    "nested": optim.Lookahead(optim.Polyak(optim.Adam(0.05, clip_norm=0.5), begin=3, every=4), steps=6),
    "groups": optim.Polyak(optim.Groups({"0.*": {"learning_rate": 0.1}}, optim.AdamW(0.05)), every=5),
    "without": optim.SAM(optim.SGD(0.1)),
    "curvature": optim.Lookahead(optim.SophiaG()),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_interrupt_the_native_loop(name):
    _, X, y = small()
    for options in ({"epochs": 7}, {"budget": pg.Budget(forwards=1500.0), "record_every": 100}):
        assert_same(X, y, WRAPPED[name], batch_size=7, **options)


def test_wrappers_take_most_steps_natively(monkeypatch):
    """Between two updates of the wrapper, no step is taken from Python."""
    taken = []
    monkeypatch.setattr(optim.Adam, "step", lambda *args, **kwargs: taken.append(1))
    model, X, y = small()
    pg.fit(model, X, y, optimizer=optim.Lookahead(optim.Adam(), steps=2), epochs=5, batch_size=5)
    assert not taken
    pg.fit(model, X, y, optimizer=optim.Polyak(optim.Adam(), begin=18), epochs=5, batch_size=5)
    assert len(taken) == 1  # step 20; the span before it ends with 19, the first one averaged


def test_a_failed_step_ends_a_wrapped_run():
    model, X, y = small()
    for optimizer in (optim.Lookahead(optim.SGD(3e38)), optim.Polyak(optim.SGD(3e38), every=3)):
        history = pg.fit(model, X, y, optimizer=optimizer, epochs=50, batch_size=5)
        assert "no longer finite" in history.reason
        assert np.isfinite(model.params).all()


def test_skipped_steps_do_not_count_for_wrappers():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 2)), rng.normal(size=30)
    X[3], y[3] = 1e19, 1e19
    inner = optim.Adam(0.01, skip_nonfinite=True)
    for optimizer in (optim.Lookahead(inner, steps=4), optim.Polyak(inner, every=4)):
        _, _, numbers = assert_same(X, y, optimizer, model=pg.MLP([2, 1], loss="mae"), batch_size=5, epochs=5)
        assert 0 < numbers["method.optimizer.t"] <= numbers["run.step"]
