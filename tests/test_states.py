"""States in sixteen and eight bits, and what a value that is not finite does to a step."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest

import popgrad as pg
from cases import OPTIMIZERS
from popgrad import optim
from variants import VARIANTS

N = 10_007  # no whole number of blocks
ELEMENTWISE = [case for case in OPTIMIZERS if case.optimizer.init(np.ones(3)).layers is None]
RULES = pytest.mark.parametrize("case", ELEMENTWISE, ids=lambda case: case.id)
IN_BYTES = [optim.Adam(0.01), optim.AdamW(0.01), optim.Lion(0.001), optim.Momentum(0.1), optim.HeavyBall(0.02)]
BYTES = pytest.mark.parametrize("optimizer", IN_BYTES, ids=lambda o: type(o).__name__)


def noisy_bowl(optimizer, steps, state_dtype, n=N, seed=0):
    """Parameters after `steps` steps down a bowl, along gradients with noise; the state."""
    rng = np.random.default_rng(seed)
    curvature = np.geomspace(0.01, 10, n).astype(np.float32)
    w = rng.normal(size=n).astype(np.float32)
    optimizer = dataclasses.replace(optimizer, state_dtype=state_dtype)
    state = optimizer.init(w)
    for _ in range(steps):
        noise = rng.normal(size=n).astype(np.float32)
        optimizer.step(w, curvature * w + 0.1 * curvature * noise, state)
    return w, state


def widened(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


@RULES
def test_bfloat16_is_float32_rounded_up_or_down(case):
    """One step from the same state: each number stored is one of the two nearest, and the parameters are the same."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=N).astype(np.float32)
    gradient = rng.normal(size=N).astype(np.float32)
    exact, packed = case.optimizer, dataclasses.replace(case.optimizer, state_dtype="bfloat16")
    one, two = exact.init(w), packed.init(w)
    assert two.slots.dtype == np.uint16
    other = w.copy()
    exact.step(w, gradient, one)
    packed.step(other, gradient, two)
    np.testing.assert_array_equal(w, other)
    low = one.slots.view(np.uint32) >> 16
    assert ((two.slots == low) | (two.slots == low + 1)).all()
    if low.any():
        share = (one.slots.view(np.uint32) & 0xFFFF) / 65536
        up = two.slots != low
        assert abs((up - share).mean()) < 5 * np.sqrt((share * (1 - share)).sum() + 1) / up.size  # right on average


@RULES
def test_bfloat16_reaches_what_float32_reaches(case):
    optimizer = dataclasses.replace(case.optimizer, learning_rate=lambda t: 0.01 / (1 + t / 50))
    if isinstance(optimizer, (optim.AdaDelta, optim.AdaGrad)):
        optimizer = dataclasses.replace(optimizer, learning_rate=0.3)
    if isinstance(optimizer, optim.Rprop):
        optimizer = dataclasses.replace(optimizer, learning_rate=0.01)
    start, _ = noisy_bowl(optimizer, 0, None)
    w, _ = noisy_bowl(optimizer, 60, None)
    other, _ = noisy_bowl(optimizer, 60, "bfloat16")
    moved = np.sqrt(((w - start) ** 2).mean())
    assert np.sqrt(((other - w) ** 2).mean()) < 0.1 * moved


@BYTES
def test_bytes_reach_what_float32_reaches(optimizer):
    start, _ = noisy_bowl(optimizer, 0, None)
    w, _ = noisy_bowl(optimizer, 100, None)
    other, state = noisy_bowl(optimizer, 100, "8bit")
    assert state.slots.dtype == np.uint8
    assert state.scales.shape == (len(state.slots), -(-N // 256))
    moved = np.sqrt(((w - start) ** 2).mean())
    assert np.sqrt(((other - w) ** 2).mean()) < 0.15 * moved
    assert state.slots.nbytes + state.scales.nbytes < 0.26 * 4 * N * len(state.slots)


@pytest.mark.parametrize("state_dtype", ["bfloat16", "8bit"])
def test_a_slow_average_does_not_stand_still(state_dtype):
    """Its steps of a thousandth are smaller than half a code: rounded to the nearest it would never move."""
    optimizer = optim.Adam(beta2=0.999, state_dtype=state_dtype)
    w = np.zeros(4096, np.float32)
    state = optimizer.init(w)
    for _ in range(2000):
        optimizer.step(w, np.ones_like(w), state)
    if state_dtype == "bfloat16":
        v = widened(state.slots[1])
    else:
        v = (state.slots[1] / 255.0) ** 4 * np.repeat(state.scales[1], 256)
    assert v.mean() == pytest.approx(1 - 0.999**2000, rel=0.02)


@pytest.mark.parametrize("state_dtype", ["bfloat16", "8bit"])
@BYTES
def test_resume_and_threads(optimizer, state_dtype):
    whole, state = noisy_bowl(optimizer, 6, state_dtype, n=70_001)
    before = pg.get_num_threads()
    try:
        for threads in (1, 3):
            pg.set_num_threads(threads)
            again, other = noisy_bowl(optimizer, 6, state_dtype, n=70_001)
            np.testing.assert_array_equal(again, whole)
            np.testing.assert_array_equal(other.slots, state.slots)
    finally:
        pg.set_num_threads(before)
    optimizer = dataclasses.replace(optimizer, state_dtype=state_dtype)
    copied, second = whole.copy(), optim.State.from_dict(copy.deepcopy(state.to_dict()))
    optimizer.step(whole, whole.copy(), state)
    optimizer.step(copied, copied.copy(), second)
    np.testing.assert_array_equal(whole, copied)
    np.testing.assert_array_equal(state.slots, second.slots)


SAVED = [
    *[case.optimizer for case in OPTIMIZERS + VARIANTS],
    optim.Lookahead(optim.Adam(0.01)),
    optim.Polyak(optim.ScheduleFreeAdamW(0.01)),
    optim.SAM(optim.NAdam(0.01, ema_decay=0.9)),
    optim.Adam(0.01, state_dtype="8bit"),
    optim.AdamW(0.01, state_dtype="bfloat16", ema_decay=0.9),
]


@pytest.mark.parametrize("optimizer", SAVED, ids=lambda o: type(o).__name__)
def test_resumed_through_a_file_equals_uninterrupted(optimizer, tmp_path):
    """np.savez makes numbers arrays of shape (), whose powers are rounded otherwise."""

    def steps(w, state, count, seed):
        for gradient in np.random.default_rng(seed).normal(size=(count, len(w))).astype(w.dtype):
            optimizer.step(w, gradient, state)

    whole = np.linspace(-1, 1, 5000, dtype=np.float32)
    state, again = optimizer.init(whole), whole.copy()
    steps(whole, state, 23, 1)
    steps(whole, state, 14, 2)
    first = optimizer.init(again)
    steps(again, first, 23, 1)
    np.savez(tmp_path / "state.npz", **first.to_dict())
    with np.load(tmp_path / "state.npz") as file:
        second = optim.State.from_dict(file)
    steps(again, second, 14, 2)
    np.testing.assert_array_equal(again, whole)
    saved, expected = second.to_dict(), state.to_dict()
    assert saved.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(saved[name], value, err_msg=name)
        assert type(saved[name]) is type(value), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slots": [[0.0] * 3] * 2}, r"'slots' must be a NumPy array, got list"),
        ({"t": 1.5}, "'t' must be a whole number, got 1.5"),
        ({"t": "1"}, "'t' must be a number, got '1'"),
        ({"t": np.ones(1)}, "'t' must be a number"),
        ({"numbers.x": [1.0]}, "'numbers.x' must be a number"),
        ({"inner.slots": np.zeros((1, 3))}, "'t' is missing"),
    ],
)
def test_values_of_another_kind_are_refused(change, message):
    named = optim.Adam().init(np.zeros(3)).to_dict() | change
    with pytest.raises(pg.InputError, match=rf"\[State.from_dict\] {message}"):
        optim.State.from_dict(named)


def test_small_vectors_keep_float32():
    for n, stored in ((4095, np.float32), (4096, np.uint8)):
        assert optim.Adam(state_dtype="8bit").init(np.zeros(n, np.float32)).slots.dtype == stored


def test_refusals():
    for kind in (optim.AdaGrad, optim.LAMB, optim.Prodigy):
        with pytest.raises(pg.InputError, match="cannot be stored as 8bit"):
            kind(state_dtype="8bit")
    with pytest.raises(pg.InputError, match="cannot be stored as bfloat16"):
        optim.LAMB(state_dtype="bfloat16")
    with pytest.raises(pg.InputError, match="unknown state_dtype"):
        optim.Adam(state_dtype="int8")
    with pytest.raises(pg.InputError, match="needs float32 parameters"):
        optim.Adam(state_dtype="8bit").init(np.zeros(9))
    optimizer, w = optim.Adam(state_dtype="8bit"), np.zeros(5000, np.float32)
    state = optimizer.init(w)
    for broken in (
        dataclasses.replace(state, scales=state.scales[:, :3].copy()),
        dataclasses.replace(state, scales=None),
        dataclasses.replace(state, slots=state.slots[:1].copy()),
    ):
        with pytest.raises(pg.InputError, match=r"\[Adam.step\]"):
            optimizer.step(w, w, broken)


@pytest.mark.parametrize("state_dtype", [None, "bfloat16", "8bit"])
def test_training_does_not_suffer(state_dtype):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 30))
    y = (X[:, :3].sum(1) > 0).astype(int)
    model = pg.MLP([30, 200, 2], seed=0)
    history = pg.fit(model, X, y, optimizer=optim.Adam(3e-3, state_dtype=state_dtype), epochs=15)
    assert history.metric[-1] < 0.01


@RULES
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_spoils_its_own_element_alone(case, bad):
    rng = np.random.default_rng(0)
    w = rng.normal(size=1003)
    good, gradient = w.copy(), rng.normal(size=1003)
    one, two = case.optimizer.init(w), case.optimizer.init(w)
    spoilt = gradient.copy()
    spoilt[500] = bad
    for _ in range(2):
        case.optimizer.step(good, gradient, one)
        case.optimizer.step(w, spoilt, two)
    others = np.arange(1003) != 500
    np.testing.assert_array_equal(w[others], good[others])
    if np.isnan(bad) and not isinstance(case.optimizer, (optim.ADOPT, optim.SophiaG)):
        assert np.isnan(w[500])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_spoils_its_own_block_of_bytes_alone(bad):
    optimizer, w = optim.Adam(state_dtype="8bit"), np.zeros(5000, np.float32)
    state, gradient = optimizer.init(w), np.ones(5000, np.float32)
    gradient[300] = bad
    for _ in range(2):
        optimizer.step(w, gradient, state)
    assert np.isnan(w[256:512]).all()
    assert np.isfinite(w[:256]).all()
    assert np.isfinite(w[512:]).all()


# Steps that do not depend on the gradient's size: what the least of squares stand for must not be lost.
@pytest.mark.parametrize(
    "optimizer",
    [
        optim.Adam(1.0, epsilon=1e-30),
        optim.AMSGrad(1.0, epsilon=1e-30),
        optim.NAdam(1.0, epsilon=1e-30, momentum_decay=None, beta1=0.0),
        optim.RMSprop(1.0, epsilon=1e-30, rho=0.0),
        optim.ADOPT(1.0, epsilon=1e-30, beta1=0.0),
    ],
    ids=lambda o: type(o).__name__,
)
def test_denormal_squares_are_numbers(optimizer):
    w = np.zeros(1003, np.float32)
    state = optimizer.init(w)
    steps = 6 if isinstance(optimizer, optim.ADOPT) else 5  # its first does not move
    for _ in range(steps):
        optimizer.step(w, np.full(1003, 1e-19, np.float32), state)
    np.testing.assert_allclose(w, -5.0, rtol=2e-3)  # a denormal number has few digits


def test_denormal_gradients_are_numbers():
    for optimizer in (optim.SGD(1.0), optim.HeavyBall(1.0), optim.ASGD(1.0)):
        w = np.zeros(1003, np.float32)
        optimizer.step(w, np.full(1003, 1e-40, np.float32), optimizer.init(w))
        np.testing.assert_array_equal(w, -np.float32(1e-40))


@RULES
def test_averages_fade_to_zero(case):
    """Rounding keeps a decaying float from ever getting below 1e-45, and denormal floats are slow: they end at zero."""
    optimizer = dataclasses.replace(case.optimizer, weight_decay=0.0)
    w = np.ones(1003, np.float32)
    state = optimizer.init(w)
    for _ in range(3):
        optimizer.step(w, np.full(1003, 1e-36, np.float32), state)
    for _ in range(1500):
        optimizer.step(w, np.zeros_like(w), state)
    linear = {"m", "d", "fast", "slow", "mean", "velocity"}
    if optimizer.rule in ("Momentum", "Nesterov", "Signum"):
        linear.add("v")
    if optimizer.rule == "AdaDelta":
        linear.remove("d")
    for name, row in zip(optimizer.state_names, state.slots, strict=True):
        assert name not in linear or (row == 0).all(), name


def test_denormal_doubles_are_numbers():
    w = np.zeros(9)
    optim.SGD(1.0).step(w, np.full(9, -1e-310), optim.SGD(1.0).init(w))
    assert (w == 1e-310).all()


@RULES
def test_bytes_per_parameter_are_counted(case):
    """What a step reads and writes of arrays of float32; each array once, and w and the states both ways."""
    plain = case.optimizer
    states = len(plain.state_names)
    assert plain.bytes_per_parameter == 12 + 8 * states
    assert dataclasses.replace(plain, state_dtype="bfloat16").bytes_per_parameter == 12 + 4 * states
    assert dataclasses.replace(plain, ema_decay=0.9).bytes_per_parameter == 20 + 8 * states
    assert dataclasses.replace(plain, clip_norm=1.0).bytes_per_parameter == 16 + 8 * states


def test_bytes_per_parameter_of_two_sweeps():
    expected = {optim.LARS: 28, optim.LAMB: 40, optim.NovoGrad: 24, optim.DoG: 40, optim.Prodigy: 56}
    assert {kind: kind().bytes_per_parameter for kind in expected} == expected
    assert optim.Adam(state_dtype="8bit").bytes_per_parameter == 16 + 4 * 4 / 256
