"""Options around the sweep of a step: limits on the weights of a unit, and noise that is added to gradients."""

from __future__ import annotations

import numpy as np
import pytest

import popgrad as pg
from fitting import small
from popgrad import optim
from test_groups import LAYOUT

N = 100_003


def noise(n=N, t=1, dtype=np.float64, layout=None, **options):
    """What a step of SGD along a gradient of zeros adds."""
    w, optimizer = np.zeros(n, dtype), optim.SGD(1.0, **{"gradient_noise": 1.0, **options})
    state = optimizer.init(w, layout)
    state.t = t - 1
    optimizer.step(w, np.zeros(n, dtype), state)
    return -w


@pytest.fixture
def threads():
    before = pg.get_num_threads()
    yield pg.set_num_threads
    pg.set_num_threads(before)


def rows_of(w):
    """The norms of the incoming weights of all units, and the biases."""
    views = LAYOUT.views(w)
    weights = [np.linalg.norm(views[name], axis=1) for name in ("0.weight", "2.weight")]
    return np.concatenate(weights), np.concatenate([views["0.bias"], views["2.bias"]])


# --- max_norm --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", [optim.Adam, optim.LAMB])
def test_units_keep_their_limit_and_biases_have_none(dtype, kind):
    rng = np.random.default_rng(0)
    w = rng.normal(size=LAYOUT.size).astype(dtype)
    LAYOUT.views(w)["0.weight"][::2] *= 0.1
    free, optimizer = w.copy(), kind(0.01, max_norm=2.0, ema_decay=0.5)
    state, plain = optimizer.init(w, LAYOUT), kind(0.01)
    other = plain.init(free, LAYOUT)
    g = rng.normal(size=LAYOUT.size).astype(dtype)
    optimizer.step(w, g, state)
    plain.step(free, g, other)
    norms, biases = rows_of(w)
    before, same = rows_of(free)
    np.testing.assert_allclose(norms, np.minimum(before, 2.0), rtol=1e-6)
    weights, unlimited = (LAYOUT.views(x)["0.weight"] for x in (w, free))
    assert weights[::2].tobytes() == unlimited[::2].tobytes()
    assert biases.tobytes() == same.tobytes()
    assert state.slots.tobytes() == other.slots.tobytes()  # the states know nothing of the limit
    assert state.average.tobytes() == w.tobytes()  # the average follows the limited weights


def test_the_average_is_that_of_limited_weights():
    rng = np.random.default_rng(0)
    w = rng.normal(size=LAYOUT.size)
    optimizer = optim.SGD(0.5, max_norm=1.0, ema_decay=0.75)
    state, expected = optimizer.init(w, LAYOUT), None
    for _ in range(5):
        optimizer.step(w, rng.normal(size=LAYOUT.size), state)
        expected = w.copy() if expected is None else 0.75 * expected + 0.25 * w
        np.testing.assert_allclose(state.average, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_limits_have_the_same_bits_for_any_number_of_threads(threads, dtype):
    layout, seen = pg.Layout({"0.weight": (700, 300), "0.bias": (700,), "2.weight": (3, 70_000)}), set()
    start = np.random.default_rng(0).normal(size=layout.size).astype(dtype)
    for count in (1, 2, 4):
        threads(count)
        w, optimizer = start.copy(), optim.Adam(max_norm=5.0, gradient_noise=0.1, clip_norm=1.0, ema_decay=0.5)
        state = optimizer.init(w, layout)
        for _ in range(3):
            optimizer.step(w, start, state)
        seen.add(w.tobytes() + state.average.tobytes())
    assert len(seen) == 1


def test_max_norm_needs_to_know_the_matrices():
    w = np.zeros(6)
    with pytest.raises(pg.InputError, match=r"\[Adam.init\] max_norm needs a layout, such as layout=model.layout"):
        optim.Adam(max_norm=1.0).init(w)
    with pytest.raises(pg.InputError, match=r"max_norm needs a weight matrix \(outputs, inputs\)"):
        optim.Adam(max_norm=1.0).init(w, pg.Layout.flat(6))
    with pytest.raises(pg.InputError, match="averages its parameters itself"):
        optim.ScheduleFreeSGD(max_norm=1.0)


def test_training_keeps_the_limit():
    model, X, y = small()
    pg.fit(model, X, y, optimizer=optim.Adam(0.1, max_norm=0.8), epochs=20)
    norms = np.concatenate([np.linalg.norm(model.views()[name], axis=1) for name in ("0.weight", "2.weight")])
    assert norms.max() <= 0.8 * (1 + 1e-6)
    assert norms.max() > 0.79


# --- gradient_noise --------------------------------------------------------------------------------------------------


def test_noise_is_normal_and_decays():
    for t in (1, 2, 100):
        z = noise(t=t, gradient_noise=0.3) / np.sqrt(0.3 / t**0.55)
        assert abs(z.mean()) < 0.02
        assert z.std() == pytest.approx(1, abs=0.01)
        assert (z**4).mean() == pytest.approx(3, abs=0.2)


def test_a_schedule_gives_eta():
    assert noise(t=9, gradient_noise=lambda t: 0.5 * t).tobytes() == noise(t=9, gradient_noise=4.5).tobytes()


def test_every_step_seed_and_place_has_its_own_noise():
    draws = [noise(t=1), noise(t=2), noise(noise_seed=1), noise(noise_seed=2**53)]
    for i, a in enumerate(draws):
        for b in draws[:i]:
            assert abs(np.corrcoef(a, b)[0, 1]) < 0.02
        assert abs(np.corrcoef(a[:-1], a[1:])[0, 1]) < 0.02
        assert len(np.unique(a)) > 0.99 * N
    assert noise().tobytes() == noise().tobytes()


def test_noise_depends_on_the_place_alone(threads):
    """Not on threads, on the type, or on how the vector is cut into parts."""
    whole = noise(LAYOUT.size)
    for count in (1, 2, 4):
        threads(count)
        assert noise(LAYOUT.size, layout=LAYOUT.freeze("2.bias"))[:-5].tobytes() == whole[:-5].tobytes()
        assert noise(LAYOUT.size, layout=LAYOUT, max_norm=1e9).tobytes() == whole.tobytes()
    np.testing.assert_allclose(noise(LAYOUT.size, dtype=np.float32), whole, rtol=1e-6)


def test_noise_is_added_after_clipping_and_leaves_the_gradient_alone():
    g = np.full(N, 5.0)
    before, w = g.copy(), np.zeros(N)
    optimizer = optim.SGD(1.0, clip_value=1.0, gradient_noise=0.25)
    optimizer.step(w, g, optimizer.init(w), loss_scale=2.0)
    assert g.tobytes() == before.tobytes()
    np.testing.assert_allclose(w, -1.0 - noise(gradient_noise=0.25), rtol=1e-14)


def test_zero_noise_is_none():
    w, v = np.ones(7), np.ones(7)
    for x, optimizer in ((w, optim.Adam(gradient_noise=0.0)), (v, optim.Adam())):
        optimizer.step(x, np.arange(7.0), optimizer.init(x))
    assert w.tobytes() == v.tobytes()
