"""Learning rates that follow the run: by definition, resumed, within a budget; and schedules that react to records."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest

import popgrad as pg
from popgrad import optim
from popgrad.schedules import Constant, ReduceOnPlateau, Warmup
from references import INSTALLED, load

CURVATURE = np.array([1, 5, 25.0])
RATED = [
    optim.Hypergradient(optim.SGD(0.01), beta=1e-5),
    optim.Hypergradient(optim.Adam(0.01), beta=1e-4, lowest=1e-3, highest=0.1),
    optim.SPS(optim.SGD(0.5), lower_bound=0.0),
    optim.LineSearch(optim.SGD(1.0)),
    optim.LineSearch(optim.Momentum(1.0), shrink=0.5),
]
EACH = pytest.mark.parametrize("optimizer", RATED, ids=repr)


def bowl(w):
    return CURVATURE * w


def height(w):
    return float(0.5 * (CURVATURE * w**2).sum())


class Bowl(pg.Objective):
    """A bowl over two samples, each with its own share of the curvature."""

    layout = pg.Layout({"w": (3,)})
    dtype = np.dtype(np.float64)
    samples = 2

    def values(self, population, batch=None):
        return 0.5 * (CURVATURE * population**2).sum(axis=1)

    def gradient(self, w, batch, out):
        out[:] = bowl(w)
        return height(w)


def begin(optimizer):
    return optimizer.prepare(Bowl(), np.array([1.0, -2.0, 0.5]), 0)


def test_hypergradient_is_its_definition():
    """Algorithm 4 of the paper: the product is that of two gradients in a row."""
    optimizer = optim.Hypergradient(optim.SGD(0.01), beta=1e-5)
    state, w = begin(optimizer), np.array([1.0, -2.0, 0.5])
    rate, before = 0.01, None
    for step in range(1, 12):
        g = bowl(w)
        if before is not None:
            rate += 1e-5 * (g * before).sum()
        w, before = w - rate * g, g
        optimizer.advance(Bowl(), pg.Batch(step=step), state)
        np.testing.assert_allclose(state.w, w, rtol=1e-12)
        assert state.optimizer.numbers["rate"] == pytest.approx(rate, rel=1e-12)
    assert rate > 0.011


def test_hypergradient_of_adam_follows_its_direction():
    beta, rate, w = 1e-4, 0.01, np.array([1.0, -2.0, 0.5])
    optimizer = optim.Hypergradient(optim.Adam(rate), beta=beta)
    state, m, v, before = begin(optimizer), 0, 0, None
    for t in range(1, 12):
        g = bowl(w)
        if before is not None:
            rate += beta * (g * before).sum()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        before = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        w = w - rate * before
        optimizer.advance(Bowl(), pg.Batch(step=t), state)
        np.testing.assert_allclose(state.w, w, rtol=1e-10)


def test_hypergradient_stays_within_its_limits():
    for beta, expected in ((1e3, 0.02), (1e3, 0.005)):
        optimizer = optim.Hypergradient(optim.SGD(0.01), beta=beta, lowest=0.005, highest=0.02)
        state, w = optimizer.init(np.ones(3)), np.ones(3)
        optimizer.step(w, np.ones(3), state)
        optimizer.step(w, np.ones(3) * (1 if expected == 0.02 else -1), state)
        assert state.numbers["rate"] == expected


@pytest.mark.parametrize("scale", [1.0, 128.0])
def test_hypergradient_divides_by_the_loss_scale(scale):
    optimizer, w = optim.Hypergradient(optim.SGD(0.01), beta=1e-5), np.array([1.0, -2.0, 0.5])
    state = optimizer.init(w)
    for _ in range(5):
        optimizer.step(w, scale * bowl(w), state, loss_scale=scale)
    plain = begin(optimizer)
    for step in range(1, 6):
        optimizer.advance(Bowl(), pg.Batch(step=step), plain)
    np.testing.assert_allclose(w, plain.w, rtol=1e-12)


def test_sps_is_its_definition():
    optimizer = optim.SPS(optim.SGD(0.05), c=0.7, growth=1.5, lower_bound=-0.1)
    state, w, rate = begin(optimizer), np.array([1.0, -2.0, 0.5]), 0.05
    rows, limited = np.array([1]), 0
    for step in range(1, 30):
        g = bowl(w)
        polyak = (height(w) + 0.1) / (0.7 * (g @ g) + 1e-8)
        limited += polyak > rate * 1.5**0.5
        rate = min(polyak, rate * 1.5**0.5)
        w = w - rate * g
        optimizer.advance(Bowl(), pg.Batch(rows, step), state)
        np.testing.assert_allclose(state.w, w, rtol=1e-10)
    assert 0 < limited < 29


def test_sps_goes_on_after_a_loss_at_its_bound():
    optimizer, w = optim.SPS(optim.SGD(1.0)), np.ones(3)
    state = optimizer.init(w)
    optimizer.step(w, np.ones(3), state, loss=0.0)
    assert w.tolist() == [1.0] * 3
    assert state.numbers["rate"] == 1.0
    optimizer.step(w, np.ones(3), state, loss=0.3)
    assert w[0] == pytest.approx(1 - 0.3 / (0.5 * 3))


def test_line_search_is_its_definition():
    optimizer = optim.LineSearch(optim.SGD(1.0), c=0.3, shrink=0.8, growth=1.7, tries=30)
    state, w, rate, calls = begin(optimizer), np.array([1.0, -2.0, 0.5]), 1.0, 0
    meter = pg.objective.Metered(Bowl())
    for step in range(1, 30):
        g = bowl(w)
        rate *= 1.7**0.5
        calls += 1
        while height(w - rate * g) > height(w) - 0.3 * rate * (g @ g):
            rate *= 0.8
            calls += 1
        w = w - rate * g
        batch = pg.Batch(np.array([0]), step)
        bound, before = optimizer.cost(meter, batch, state), meter.evaluations
        optimizer.advance(meter, batch, state)
        np.testing.assert_allclose(state.w, w, rtol=1e-10)
        assert meter.evaluations - before <= bound.evaluations == 31
    assert meter.evaluations == 29 + calls


def test_line_search_stays_where_no_try_is_accepted():
    optimizer, w = optim.LineSearch(optim.SGD(1.0), tries=3, shrink=0.5), np.ones(3)
    state = optimizer.init(w)
    optimizer.step(w, np.ones(3), state, loss=1.0, losses=lambda w: 2.0)
    assert w.tolist() == [1.0] * 3
    assert [state.t, state.numbers["rate"]] == [0, 2.0 * 0.5**3]
    optimizer.step(w, np.ones(3), state, loss=1.0, losses=lambda w: math.nan)
    assert w.tolist() == [1.0] * 3


@EACH
def test_the_loss_falls(optimizer):
    state = begin(optimizer)
    for step in range(1, 400):
        optimizer.advance(Bowl(), pg.Batch(step=step), state)
    assert height(optimizer.recommend(state)) < 1e-2 * height(np.array([1.0, -2.0, 0.5]))


@EACH
def test_resumed_equals_uninterrupted(optimizer):
    whole, half = begin(optimizer), begin(optimizer)
    for step in range(1, 13):
        optimizer.advance(Bowl(), pg.Batch(step=step), whole)
    for step in range(1, 8):
        optimizer.advance(Bowl(), pg.Batch(step=step), half)
    saved = optim.State.from_dict(copy.deepcopy(half.optimizer.to_dict()))
    rest = optim.Descent(half.w.copy(), saved, 0)
    for step in range(8, 13):
        optimizer.advance(Bowl(), pg.Batch(step=step), rest)
    assert rest.w.tolist() == whole.w.tolist()
    assert saved.numbers == whole.optimizer.numbers


def data(seed=0, count=96):
    X = np.random.default_rng(seed).normal(size=(count, 5)).astype(np.float32)
    return X, (X[:, 0] > X[:, 1]).astype(int)


@EACH
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_fit_resumes_and_keeps_its_budget(optimizer, dropout):
    X, y = data()

    def trainer():
        model = pg.MLP([5, 8, 2], dropout=dropout, seed=0)
        w = model.params
        return pg.Trainer(model.objective(X, y), optimizer, w, epochs=12, batch_size=16, record_every=400)

    whole, begun, rest = trainer(), trainer(), trainer()
    histories = list(whole)
    for _ in range(4):
        next(begun)
    rest.load_state_dict(begun.state_dict())
    again = list(rest)
    assert whole.params.tobytes() == rest.params.tobytes()
    assert histories[-1].loss == again[-1].loss
    assert histories[-1].forwards[-1] <= 12 * 3 * 96
    assert histories[-1].loss[-1] < 0.7 * histories[-1].loss[0]


@EACH
def test_a_loss_that_is_not_finite_ends_the_run(optimizer):
    state = begin(optimizer)
    state.w[:] = np.inf
    optimizer.advance(Bowl(), pg.Batch(step=1), state)
    assert optimizer.finished(state) == "the loss is no longer finite"


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_loss_alone_is_that_of_the_gradient(dropout):
    X, y = data()
    model = pg.MLP([5, 8, 2], dropout=dropout, seed=0)
    objective = pg.objective.Metered(model.objective(X, y, metric="error_rate"))
    for batch in (pg.Batch(step=3), pg.Batch(np.arange(7), 5), pg.Batch(np.arange(7), 0)):
        expected = objective.gradient(model.params, batch, np.empty_like(model.params))
        before = objective.forwards
        assert objective.loss(model.params, batch) == pytest.approx(expected, rel=1e-6)
        assert objective.forwards - before == objective.loss_cost(batch).forwards
        cheap = dropout == 0 or batch.step == 0
        assert objective.loss_cost(batch).forwards == objective.size(batch) * (1 if cheap else 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optim.SPS(optim.SGD(lambda t: 0.1)), r"\[SPS\] inner must have a number as learning_rate"),
        (lambda: optim.SPS(optim.SophiaG()), r"\[SPS\] inner must be an optimizer that steps along one gradient"),
        (lambda: optim.LineSearch(optim.Lookahead(optim.SGD())), "inner must be an optimizer that steps along one"),
        (lambda: optim.LineSearch(optim.SGD(), shrink=1.0), r"shrink must be in \(0, 1\), got 1.0"),
        (lambda: optim.Hypergradient(optim.SGD(), beta=0), "beta must be a finite number > 0"),
        (lambda: optim.SPS("sgd"), "inner must be an optimizer of popgrad.optim"),
        (
            lambda: step(optim.SPS(optim.SGD())),
            r"\[SPS.step\] needs the loss of the batch, .* got loss=nan",
        ),
        (lambda: step(optim.SPS(optim.SGD()), loss=1.0, share=0), r"share must be in \(0, 1\], got 0"),
        (lambda: step(optim.LineSearch(optim.SGD()), loss=1.0), r"\[LineSearch.step\] needs the loss of the batch"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(pg.InputError, match=message):
        make()


def step(optimizer, **arguments):
    w = np.ones(3)
    optimizer.step(w, w.copy(), optimizer.init(w), **arguments)


# --- DoG ------------------------------------------------------------------------------------------------------------


def test_dog_needs_no_learning_rate():
    """From the same start, two initial distances that differ by 10^4 lead to about the same place."""
    ends = []
    for start in (1e-8, 1e-4):
        optimizer = optim.DoG(start=start)
        state = begin(optimizer)
        for k in range(1, 2000):
            optimizer.advance(Bowl(), pg.Batch(step=k), state)
        ends.append(height(optimizer.recommend(state)))
        assert optimizer.recommend(state).tolist() == state.optimizer.slots[1].tolist()
    assert max(ends) < 1e-3 * height(np.array([1.0, -2.0, 0.5]))


def test_dog_restarts_its_average():
    optimizer = optim.DoG()
    state = begin(optimizer)
    for k in range(1, 20):
        optimizer.advance(Bowl(), pg.Batch(step=k), state)
    start = state.optimizer.slots[0].copy()
    optimizer.move_to(state, np.array([3.0, 2.0, 1.0]))
    assert optimizer.recommend(state).tolist() == [3.0, 2.0, 1.0]
    assert state.optimizer.slots[0].tolist() == start.tolist() == [1.0, -2.0, 0.5]


# --- Schedules that react to records ----------------------------------------------------------------------------------


LOSSES = [1.0, 0.9, 0.91, 0.92, 0.9, 0.8, 0.85, 0.86, 0.87, math.nan, 0.88, 0.7999999, 0.9, 0.9, 0.9, 0.9, 0.9, 0.1] * 3


@pytest.mark.skipif(not INSTALLED["torch"], reason="torch is not installed")
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"patience": 2, "factor": 0.5},
        {"patience": 0, "cooldown": 3, "factor": 0.7},
        {"patience": 1, "threshold": 0.05, "relative": False, "lowest": 0.02},
        {"patience": 1, "epsilon": 1e-3},
    ],
)
def test_reduce_on_plateau_is_that_of_pytorch(settings):
    torch = load("torch")
    names = {"lowest": "min_lr", "epsilon": "eps"}
    given = {names.get(name, name): value for name, value in settings.items() if name != "relative"}
    given["threshold_mode"] = "rel" if settings.get("relative", True) else "abs"
    theirs = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **given)
    optimizer, w = optim.SGD(ReduceOnPlateau(0.3, **settings)), np.zeros(1)
    state = optimizer.init(w)
    rates = []
    for loss in LOSSES:
        scheduler.step(loss)
        optimizer.notice(state, loss)
        w[:] = 0
        optimizer.step(w, np.ones(1), state)
        rates.append(-w[0])
        assert rates[-1] == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-12)
    assert len(set(rates)) > 1 or not settings


def test_reduce_on_plateau_follows_the_records_of_a_fit():
    X, y = data()
    schedule = ReduceOnPlateau(0.5, factor=0.5, patience=0, threshold=0.2)

    def trainer():
        model = pg.MLP([5, 8, 2], seed=0)
        train, held = model.objective(X[:64], y[:64]), model.objective(X[64:], y[64:])
        optimizer = optim.Lookahead(optim.NAdam(schedule))
        return pg.Trainer(train, optimizer, model.params, held=held, epochs=12, batch_size=16)

    whole, begun, rest = trainer(), trainer(), trainer()
    for history in whole:
        last = history
    numbers = dict(schedule.first_numbers)
    for value in last.objective[1:]:  # not that of the untrained network
        schedule.notice(value, numbers)
    inner = whole.state.optimizer.inner
    assert {name: inner.numbers[f"learning_rate_{name}"] for name in numbers} == numbers
    assert numbers["value"] < 0.5
    for _ in range(5):
        next(begun)
    rest.load_state_dict(begun.state_dict())
    list(rest)
    assert rest.params.tobytes() == whole.params.tobytes()


def test_a_table_holds_the_value_until_the_next_record():
    optimizer = optim.NAdam(ReduceOnPlateau(0.3, patience=0), weight_decay=ReduceOnPlateau(0.1, factor=0.5, patience=0))
    state = optimizer.init(np.ones(2))
    for value in (1.0, 1.0):
        optimizer.notice(state, value)
    numbers = dict(state.numbers)
    table = optimizer.table(1, 4, numbers)
    for i in range(4):
        plan = optimizer.plan(1 + i, numbers)
        assert dict(zip(table.rule.fields, table.fields[i], strict=True)) == plan.fields
        assert table.extras[i, 2] == plan.extras.l2 == 0.05
        assert {name: values[i] for name, values in table.numbers.items()} == numbers
    assert numbers["learning_rate_value"] == pytest.approx(0.03)


def test_schedules_that_react_are_plain_values():
    schedule = ReduceOnPlateau(0.3, patience=2)
    assert eval(repr(schedule)) == schedule == dataclasses.replace(schedule)
    assert schedule(1) == schedule(100) == 0.3
    assert optim.SGD(schedule) == optim.SGD(schedule)
    with pytest.raises(pg.InputError, match=r"\[Warmup\] takes numbers and schedules .* that do not react"):
        Warmup(schedule, 5)
    with pytest.raises(pg.InputError, match=r"factor must be in \(0, 1\), got 1"):
        ReduceOnPlateau(0.3, factor=1)
    assert Warmup(0.1, 5).schedule == Constant(0.1)


def test_a_state_of_another_schedule_is_refused():
    optimizer, w = optim.SGD(ReduceOnPlateau(0.3)), np.ones(3)
    with pytest.raises(pg.InputError, match="state must come from this optimizer's init"):
        optimizer.step(w, w.copy(), optim.SGD(0.1).init(w))
