"""Around the steps: averages, looking ahead, flat minima, curvature, layers; and what `fit` makes of them."""

from __future__ import annotations

import copy
import dataclasses
import inspect

import numpy as np
import pytest

import popgrad as pg
from cases import OPTIMIZERS
from popgrad import optim

WRAPPERS = [
    optim.Lookahead(optim.Adam(0.01)),
    optim.Polyak(optim.Momentum(0.1)),
    optim.SAM(optim.SGD(0.02)),
    optim.Hypergradient(optim.Momentum(0.02), beta=1e-5),
]
WRAPPED = pytest.mark.parametrize("optimizer", WRAPPERS, ids=lambda o: type(o).__name__)
RULES = pytest.mark.parametrize("case", OPTIMIZERS, ids=lambda case: case.id)
CURVATURE = np.array([1, 5, 25.0])


def bowl(w):
    return CURVATURE * w


class Bowl(pg.Objective):
    """A bowl, whose gradient at a place can be made not finite."""

    layout = pg.Layout({"w": (3,)})
    dtype = np.dtype(np.float64)

    def __init__(self, gradient=bowl):
        self.slope = gradient

    def values(self, population, batch=None):
        return 0.5 * (CURVATURE * population**2).sum(axis=1)

    def gradient(self, w, batch, out):
        out[:] = self.slope(w)
        return float(self.values(w[None])[0]) if np.isfinite(out).all() else np.nan


def train(optimizer, w, steps, state=None):
    """Steps down a bowl; the state."""
    state = state or optimizer.init(w)
    here = optim.Descent(w, state, 0)
    for _ in range(steps):
        optimizer.advance(Bowl(), pg.Batch(), here)
    return state


# --- Wrappers -----------------------------------------------------------------------------------------------------


def test_lookahead_is_its_definition():
    inner = optim.HeavyBall(0.01, 0.8)
    optimizer = optim.Lookahead(inner, steps=3, alpha=0.3)
    w = np.array([1.0, -2.0, 0.5])
    fast, slow, kept = w.copy(), w.copy(), inner.init(w)
    state = optimizer.init(w)
    for t in range(1, 11):
        inner.step(fast, bowl(fast), kept)
        if t % 3 == 0:
            slow += 0.3 * (fast - slow)
            fast[:] = slow
        optimizer.step(w, bowl(w), state)
        np.testing.assert_array_equal(w, fast)
        np.testing.assert_array_equal(optimizer.solution(w, state), slow)


def test_polyak_is_the_mean():
    optimizer = optim.Polyak(optim.SGD(0.01), begin=4)
    w = np.array([1.0, -2.0, 0.5])
    state, seen = optimizer.init(w), []
    for t in range(1, 11):
        train(optimizer, w, 1, state)
        seen.append(w.copy())
        expected = w if t <= 4 else np.mean(seen[4:], axis=0)
        np.testing.assert_allclose(optimizer.solution(w, state), expected, rtol=1e-14)


@pytest.mark.parametrize(("begin", "every"), [(0, 3), (4, 2), (5, 4)])
def test_a_mean_once_in_a_while(begin, every):
    """SWA: the mean of the parameters at the ends of epochs or cycles."""
    optimizer = optim.Polyak(optim.SGD(0.01), begin=begin, every=every)
    w = np.array([1.0, -2.0, 0.5])
    state, seen = optimizer.init(w), []
    for t in range(1, 15):
        train(optimizer, w, 1, state)
        if t > begin and (t - begin) % every == 0:
            seen.append(w.copy())
        expected = np.mean(seen, axis=0) if seen else w
        np.testing.assert_allclose(optimizer.solution(w, state), expected, rtol=1e-14)


def test_swa_is_that_of_pytorch():
    torch = pytest.importorskip("torch")
    from torch.optim.swa_utils import AveragedModel

    rng = np.random.default_rng(0)
    start = rng.normal(size=6)
    module = torch.nn.Linear(6, 1, bias=False, dtype=torch.float64)
    module.weight.data[:] = torch.tensor(start)
    mean, reference = AveragedModel(module), torch.optim.SGD(module.parameters(), lr=0.1)
    w, optimizer = start.copy(), optim.Polyak(optim.SGD(0.1), begin=4, every=3)
    state = optimizer.init(w)
    for t in range(1, 17):
        g = rng.normal(size=6)
        module.weight.grad = torch.tensor(g[None])
        reference.step()
        optimizer.step(w, g, state)
        if t > 4 and (t - 4) % 3 == 0:
            mean.update_parameters(module)
    np.testing.assert_allclose(optimizer.solution(w, state), mean.module.weight.detach().numpy()[0], rtol=1e-12)


def test_sam_is_its_definition():
    optimizer = optim.SAM(optim.SGD(0.01), rho=0.1)
    w = np.array([1.0, -2.0, 0.5])
    expected, state = w.copy(), optimizer.init(w)
    for _ in range(5):
        g = bowl(expected)
        expected = expected - 0.01 * bowl(expected + 0.1 * g / np.linalg.norm(g))
        train(optimizer, w, 1, state)
        np.testing.assert_allclose(w, expected, rtol=1e-14)


@pytest.mark.parametrize("gradient", [np.zeros(3), np.full(3, np.nan), np.full(3, np.inf)])
def test_sam_stays_where_there_is_no_way_up(gradient):
    optimizer, w = optim.SAM(optim.SGD(0.1)), np.ones(3)
    np.testing.assert_array_equal(optimizer.worst(w, gradient), w)
    assert optimizer.worst(w, gradient) is not w


def test_sam_in_a_users_own_loop():
    optimizer = optim.SAM(optim.Momentum(0.05), rho=0.1)
    ours, theirs = np.array([1.0, -2.0, 0.5]), np.array([1.0, -2.0, 0.5])
    state = optimizer.init(ours)
    train(optimizer, theirs, 5)
    for _ in range(5):
        optimizer.step(ours, bowl(optimizer.worst(ours, bowl(ours))), state)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("nest", [lambda sam: sam, optim.Lookahead, optim.Polyak])
def test_sam_never_leaves_w_displaced(nest):
    """Where the second loss is not finite, w is what it was."""
    start = np.array([1.0, -2.0, 0.5])
    optimizer = nest(optim.SAM(optim.SGD(0.1)))
    state = optimizer.prepare(Bowl(), start, 0)
    optimizer.advance(Bowl(lambda w: bowl(w) if np.array_equal(w, start) else np.full(3, np.nan)), pg.Batch(), state)
    np.testing.assert_array_equal(state.w, start)
    assert optimizer.finished(state) == "the loss is no longer finite"


@WRAPPED
def test_resumed_equals_uninterrupted(optimizer):
    w = np.array([1.0, -2.0, 0.5])
    whole = train(optimizer, w, 12)
    again = np.array([1.0, -2.0, 0.5])
    half = train(optimizer, again, 7)
    half = optim.State.from_dict(copy.deepcopy(half.to_dict()))
    rest = train(optimizer, again, 5, half)
    np.testing.assert_array_equal(w, again)
    np.testing.assert_array_equal(whole.slots, rest.slots)
    np.testing.assert_array_equal(optimizer.solution(w, whole), optimizer.solution(again, rest))


@WRAPPED
def test_wrappers_nest_and_print(optimizer):
    both = optim.Lookahead(optim.Polyak(optimizer))
    assert eval(repr(both), vars(optim).copy()) == both
    w = np.array([1.0, -2.0, 0.5])
    train(both, w, 2000)
    assert np.abs(w).max() < 0.2
    assert both.bytes_per_parameter > optimizer.bytes_per_parameter > 0
    for word in ("Reference:", ".. math::", "State:", "Raises:"):
        assert word in inspect.getdoc(type(optimizer))


@WRAPPED
def test_a_skipped_step_is_no_step(optimizer):
    optimizer = dataclasses.replace(optimizer, inner=dataclasses.replace(optimizer.inner, skip_nonfinite=True))
    w = np.array([1.0, -2.0, 0.5])
    state = train(optimizer, w, 4)
    before = copy.deepcopy((w, state))
    optimizer.step(w, np.full(3, np.nan), state)
    np.testing.assert_array_equal(w, before[0])
    np.testing.assert_array_equal(state.slots, before[1].slots)
    assert (state.t, state.inner.t) == (before[1].t, before[1].inner.t)


@pytest.mark.parametrize(
    "make",
    [
        lambda: optim.Lookahead(optim.SGD(), steps=0),
        lambda: optim.Lookahead(optim.SGD(), alpha=1.5),
        lambda: optim.Lookahead(pg.search.PSO()),
        lambda: optim.Polyak(optim.SGD(), begin=-1),
        lambda: optim.Polyak(optim.SGD(), every=0),
        lambda: optim.SAM(optim.SGD(), rho=0.0),
        lambda: optim.Polyak(optim.SGD()).step(np.ones(2), np.ones(2), optim.SGD().init(np.ones(2))),
    ],
)
def test_wrappers_refuse(make):
    with pytest.raises(pg.InputError):
        make()


@pytest.mark.parametrize(
    ("optimizer", "other"),
    [
        (optim.NAdam(), optim.Adam()),
        (optim.Adam(), optim.NAdam()),
        (optim.Adam(ema_decay=0.9), optim.Adam()),
        (optim.Adam(), optim.Adam(ema_decay=0.9)),
        (optim.LAMB(), optim.Adam()),
        (optim.SAM(optim.SGD()), optim.SGD()),
        (optim.Lookahead(optim.SGD()), optim.SGD()),
    ],
    ids=repr,
)
def test_a_state_of_another_optimizer_is_refused(optimizer, other):
    w = np.ones(3)
    with pytest.raises(pg.InputError):
        optimizer.step(w, np.ones(3), other.init(w))
    np.testing.assert_array_equal(w, 1)


# --- Averages, loss scale, decay ----------------------------------------------------------------------------------


@RULES
def test_average_of_the_weights(case):
    optimizer = dataclasses.replace(case.optimizer, ema_decay=0.75)
    rng = np.random.default_rng(0)
    w = rng.normal(size=1003)
    plain, kept, average = w.copy(), case.optimizer.init(w), None
    state = optimizer.init(w)
    assert optimizer.solution(w, state) is w
    for _ in range(5):
        gradient = rng.normal(size=len(w))
        case.optimizer.step(plain, gradient, kept)
        optimizer.step(w, gradient, state)
        np.testing.assert_allclose(w, plain, rtol=0, atol=1e-14 * np.abs(plain).max())
        average = plain.copy() if average is None else 0.75 * average + 0.25 * plain
        np.testing.assert_allclose(optimizer.solution(w, state), average, rtol=1e-12, atol=1e-13)


@RULES
def test_loss_scale(case):
    """Powers of two: unscaled in the sweep, not a bit differs."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=1003).astype(np.float32)
    optimizer = dataclasses.replace(case.optimizer, clip_norm=20.0, clip_value=1.0)
    other, one, two = w.copy(), optimizer.init(w), optimizer.init(w)
    for _ in range(3):
        gradient = rng.normal(size=len(w)).astype(np.float32)
        optimizer.step(w, gradient, one)
        optimizer.step(other, gradient * np.float32(1024), two, loss_scale=1024.0)
        np.testing.assert_array_equal(w, other)
    for bad in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(pg.InputError, match="loss_scale"):
            optimizer.step(w, w, one, loss_scale=bad)


def test_weight_decay_modes():
    w = np.linspace(-1, 1, 101)
    rates = lambda t: 0.1 / t  # noqa: E731
    for mode, options, share in (
        ("decoupled", {}, lambda t: 0.05 * rates(t)),
        ("independent", {"max_learning_rate": 0.1}, lambda t: 0.05 * rates(t) / 0.1),
    ):
        for kind in (optim.Adam, optim.AdamW, optim.HeavyBall, optim.Lion):
            plain = kind(rates, weight_decay=0.0)
            optimizer = kind(rates, weight_decay=0.05, weight_decay_mode=mode, **options)
            ours, theirs = w.copy(), w.copy()
            state, other = optimizer.init(w), plain.init(w)
            for t in range(1, 6):
                gradient = np.cos(w * t)
                optimizer.step(ours, gradient, state)
                theirs *= 1 - share(t)
                plain.step(theirs, gradient, other)
                np.testing.assert_allclose(ours, theirs, rtol=1e-14, atol=1e-15)
    # A constant rate is its own largest.
    ours = w.copy()
    optimizer = optim.SGD(0.1, weight_decay=0.5, weight_decay_mode="independent")
    optimizer.step(ours, np.zeros(101), optimizer.init(ours))
    np.testing.assert_allclose(ours, w / 2)
    for bad in (
        {"weight_decay_mode": "both"},
        {"weight_decay_mode": "independent", "learning_rate": rates},
        {"weight_decay_mode": "decoupled", "weight_decay": 11.0},
        {"max_learning_rate": 0.0},
        {"ema_decay": 1.0},
    ):
        with pytest.raises(pg.InputError):
            optim.SGD(**bad)
    with pytest.raises(pg.InputError, match="defines its weight decay itself"):
        optim.LAMB(weight_decay_mode="coupled")


# --- Layers -------------------------------------------------------------------------------------------------------

LAYERED = [case for case in OPTIMIZERS if case.optimizer.init(np.ones(3)).layers is not None]
LAYOUT = pg.Layout({"0": (3, 5), "1": (5,), "2": (5, 40), "3": (40,), "4": (0, 7)})


@pytest.mark.parametrize(
    "case",
    [case for case in LAYERED if not isinstance(case.optimizer, (optim.DoG, optim.Prodigy))],
    ids=lambda case: case.id,
)
def test_layers_are_stepped_one_by_one(case):
    rng = np.random.default_rng(0)
    sizes = [tensor.size for tensor in LAYOUT]
    cuts = np.cumsum(sizes)[:-1]
    w = rng.normal(size=sum(sizes))
    parts = [part.copy() for part in np.split(w, cuts)]
    state, states = case.optimizer.init(w, LAYOUT), [case.optimizer.init(part) for part in parts]
    for _ in range(4):
        gradient = rng.normal(size=len(w))
        case.optimizer.step(w, gradient, state)
        for part, piece, own in zip(parts, np.split(gradient, cuts), states, strict=True):
            case.optimizer.step(part, piece.copy(), own)
        np.testing.assert_array_equal(w, np.concatenate(parts))


def test_prodigy_does_not_depend_on_layers():
    rng = np.random.default_rng(0)
    optimizer = optim.Prodigy()
    w = rng.normal(size=260)
    other = w.copy()
    one, two = optimizer.init(w), optimizer.init(w, LAYOUT)
    for _ in range(5):
        gradient = rng.normal(size=260)
        optimizer.step(w, gradient, one)
        optimizer.step(other, gradient, two)
        np.testing.assert_allclose(w, other, rtol=1e-13)
    assert (two.kept == two.kept[0]).all()


@pytest.mark.parametrize("kind", [optim.LARS, optim.LAMB])
def test_vectors_may_stay_without_a_ratio(kind):
    rng = np.random.default_rng(0)
    w, gradient = rng.normal(size=260), rng.normal(size=260)
    both, only = w.copy(), w.copy()
    kind(0.1).step(both, gradient, kind(0.1).init(w, LAYOUT))
    optimizer = kind(0.1, adapt_vectors=False)
    optimizer.step(only, gradient, optimizer.init(w, LAYOUT))
    np.testing.assert_array_equal(both[:15], only[:15])
    np.testing.assert_array_equal(both[20:220], only[20:220])
    if kind is optim.LARS:
        np.testing.assert_allclose(only[15:20], w[15:20] - 0.1 * gradient[15:20], rtol=1e-14)
    assert not np.isclose(both[15:20], only[15:20]).any()


@pytest.mark.parametrize("kind", [optim.LARS, optim.LAMB, optim.NovoGrad])
def test_layout_must_fit(kind):
    with pytest.raises(pg.InputError, match="layout must add up to 7"):
        kind().init(np.ones(7), pg.Layout({"w": (2, 3)}))
    state = kind().init(np.ones(7), pg.Layout({"w": (2, 3), "b": (1,)}))
    state.layers[0, 0] = 9
    w = np.ones(7)
    with pytest.raises(pg.InputError, match="add up"):
        kind().step(w, np.ones(7), state)
    np.testing.assert_array_equal(w, 1)


# --- Schedule-Free and Sophia -------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [optim.ScheduleFreeSGD(0.02), optim.ScheduleFreeAdamW(0.02)], ids=repr)
def test_schedule_free_solution_is_the_average(optimizer):
    w = np.array([1.0, -2.0, 0.5])
    state, z = optimizer.init(w), []
    assert optimizer.solution(w, state) is w
    for _ in range(20):
        train(optimizer, w, 1, state)
        z.append(state.slots[0].copy())
        x = np.mean(z, axis=0)  # at a constant rate all have the same weight
        np.testing.assert_allclose(optimizer.solution(w, state), x, rtol=1e-12)
        np.testing.assert_allclose(w, 0.1 * z[-1] + 0.9 * x, rtol=1e-12)


def test_sophia_averages_the_curvature():
    optimizer = optim.SophiaG(0.01, rho=0.5, interval=3)
    w = np.array([1.0, -2.0, 0.5])
    state, h, m, expected = optimizer.init(w), np.zeros(3), np.zeros(3), w.copy()
    for t in range(7):
        if state.t % 3 == 0:
            drawn = np.array([1.0, 2.0, 0.0]) * (t + 1)
            optimizer.observe(w, drawn, state, samples=8)
            np.testing.assert_array_equal(w, expected)
            h = 0.99 * h + 0.01 * 8 * drawn**2
        m = 0.965 * m + 0.035 * bowl(w)
        optimizer.step(w, bowl(w), state)
        expected = expected - 0.01 * np.clip(m / (0.5 * h + 1e-15), -1, 1)
        np.testing.assert_allclose(w, expected, rtol=1e-13)
        np.testing.assert_allclose(state.slots[1], h, rtol=1e-13)
        expected = w.copy()
    for arguments in ((w[:2], w[:2], state, 8), (w, w, state, 0)):
        with pytest.raises(pg.InputError, match=r"SophiaG\.observe"):
            optimizer.observe(*arguments)


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "mse"])
def test_targets_drawn_from_the_model_have_its_distribution(loss):
    """So the mean gradient of drawn targets is zero, and its square is the Gauss-Newton diagonal."""
    outputs = 1 if loss == "binary_cross_entropy" else 3
    model = pg.MLP([2, outputs], loss=loss, dtype="float64", seed=1)
    X = np.tile(np.array([[1.0, 0.5]]), (20_000, 1))
    y = np.zeros(len(X), int) if "entropy" in loss else np.zeros((len(X), outputs))
    data = model.objective(X, y, None, operation="test")
    drawn = data.sampled(model.params, pg.Batch(), np.random.default_rng(0))
    gradient = np.empty_like(model.params)
    drawn.gradient(model.params, pg.Batch(), gradient)
    bias = gradient[-outputs:]
    f = model.forward(X[:1])[0]
    if loss == "cross_entropy":
        p = np.exp(f) / np.exp(f).sum()
        variance = p * (1 - p)
    elif loss == "binary_cross_entropy":
        p = 1 / (1 + np.exp(-f))
        variance = p * (1 - p)
    else:
        variance = np.full(outputs, 2 / outputs)  # the second derivative of the mean of squares
    assert (np.abs(bias) < 4 * np.sqrt(variance / len(X))).all()
    each = np.empty((2000, outputs))
    for i in range(len(each)):
        one = data.sampled(model.params, pg.Batch(np.array([0])), np.random.default_rng(i))
        one.gradient(model.params, pg.Batch(), gradient)
        each[i] = gradient[-outputs:]
    np.testing.assert_allclose((each**2).mean(axis=0), variance, rtol=0.15)


def test_sophia_refuses_a_loss_without_a_distribution():
    model = pg.MLP([2, 1], loss="mae")
    with pytest.raises(pg.InputError, match="not for the loss 'mae'"):
        pg.fit(model, np.ones((4, 2)), np.ones(4), optimizer=optim.SophiaG())


# --- fit ----------------------------------------------------------------------------------------------------------


def data(seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(60, 4))
    return X, (X[:, 0] + X[:, 1] > 0).astype(int)


@pytest.mark.parametrize(
    "optimizer",
    [
        *WRAPPERS,
        optim.SPS(optim.SGD(0.1)),
        optim.ScheduleFreeAdamW(0.01),
        optim.SGD(0.1, ema_decay=0.9),
        optim.SophiaG(0.01),
        optim.LAMB(),
    ],
    ids=lambda o: type(o).__name__,
)
def test_fit_evaluates_and_keeps_the_solution(optimizer):
    X, y = data()
    model = pg.MLP([4, 8, 2], seed=0)
    seen = []
    chosen = {"epochs": 60, "record": "full", "callbacks": lambda m, h: seen.append(m.loss(X, y))}
    history = pg.fit(model, X, y, optimizer=optimizer, **chosen)
    np.testing.assert_allclose(seen, history.loss, rtol=1e-5)
    assert history.loss[history.best] < 0.75 * history.loss[0]
    assert model.loss(X, y) == pytest.approx(history.loss[history.best], rel=1e-5)


@pytest.mark.parametrize("batch", [None, 7])
@pytest.mark.parametrize("limit", [{"forwards": 6001}, {"evaluations": 401}])
def test_every_gradient_is_paid_for(batch, limit):
    X, y = data()
    sizes = [60] if batch is None else [7] * 8 + [4]
    for optimizer, price in (
        (optim.SAM(optim.SGD()), lambda t: (6, 2)),
        (optim.SophiaG(interval=4), lambda t: (7, 2) if t % 4 == 0 else (3, 1)),
    ):
        budget, forwards, evaluations = pg.Budget(**limit), 0, 0
        for t in range(10_000):
            each, candidates = price(t)
            cost = each * sizes[t % len(sizes)]
            if not budget.allows(forwards + cost, evaluations + candidates, 0):
                break
            forwards, evaluations = forwards + cost, evaluations + candidates
        history = pg.fit(pg.MLP([4, 8, 2]), X, y, optimizer=optimizer, batch_size=batch, budget=budget)
        assert (history.forwards[-1], history.evaluations[-1]) == (forwards, evaluations)


@pytest.mark.parametrize("optimizer", [optim.SAM(optim.Adam()), optim.SophiaG()], ids=["SAM", "SophiaG"])
def test_same_seed_same_run(optimizer):
    X, y = data()
    runs = []
    for _ in range(2):
        model = pg.MLP([4, 8, 2], seed=0, dropout=0.2)
        pg.fit(model, X, y, optimizer=optimizer, epochs=5)
        runs.append(model.params.copy())
    np.testing.assert_array_equal(*runs)
