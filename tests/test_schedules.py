"""Schedules against those of PyTorch and optax, over arrays of steps, as settings of optimizers, and bad values."""

from __future__ import annotations

import dataclasses
import math
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import popgrad as pg
from popgrad import optim, schedules
from popgrad.schedules import (
    Chain,
    Constant,
    Cosine,
    CosineRestarts,
    Exponential,
    InverseSqrt,
    Linear,
    MultiStep,
    OneCycle,
    Polynomial,
    Schedule,
    Step,
    Trapezoid,
    Warmup,
    steps_of,
)
from popgrad.settings import settings_of
from references import INSTALLED, close, load, optax_schedule, process

STEPS = 120


def torch_values(make, value, steps):
    """What a scheduler of PyTorch sets the learning rate to, at its steps 0, 1, ..."""
    torch = load("torch")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=value)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    values = []
    for _ in range(steps):
        values.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        if len(values) < steps:  # OneCycleLR refuses a step after its last
            scheduler.step()
    return values


# A schedule, PyTorch's, optax's, and for how many steps they agree.
ROWS = [
    (Constant(0.3), lambda s, o: s.ConstantLR(o, 1.0), ("constant_schedule", [0.3]), STEPS),
    (Step(0.3, 7, 0.5), lambda s, o: s.StepLR(o, 7, 0.5), ("exponential_decay", [0.3, 7, 0.5, 0, True]), STEPS),
    (
        MultiStep(0.3, [5, 9, 60], 0.5),
        lambda s, o: s.MultiStepLR(o, [5, 9, 60], 0.5),
        ("piecewise_constant_schedule", [0.3, {5: 0.5, 9: 0.5, 60: 0.5}]),
        STEPS,
    ),
    (Exponential(0.3, 0.97), lambda s, o: s.ExponentialLR(o, 0.97), ("exponential_decay", [0.3, 1, 0.97]), STEPS),
    (Exponential(0.3, 0.5, every=30), None, ("exponential_decay", [0.3, 30, 0.5]), STEPS),
    (Polynomial(0.3, 70), lambda s, o: s.PolynomialLR(o, 70), ("polynomial_schedule", [0.3, 0.0, 1, 70]), STEPS),
    (
        Polynomial(0.3, 70, 2.5),
        lambda s, o: s.PolynomialLR(o, 70, 2.5),
        ("polynomial_schedule", [0.3, 0.0, 2.5, 70]),
        STEPS,
    ),
    (Polynomial(0.3, 70, 2.0, end=0.1), None, ("polynomial_schedule", [0.3, 0.1, 2.0, 70]), STEPS),
    (
        Linear(0.03, 0.3, 50),
        lambda s, o: s.LinearLR(o, 0.1, 1.0, 50),
        ("linear_schedule", [0.03, 0.3, 50]),
        STEPS,
    ),
    (
        Cosine(0.3, 100, end=0.01),
        lambda s, o: s.CosineAnnealingLR(o, 100, 0.01),
        ("cosine_decay_schedule", [0.3, 100, 0.01 / 0.3]),
        101,
    ),
    (Cosine(0.3, 80), None, ("cosine_decay_schedule", [0.3, 80]), STEPS),
    (CosineRestarts(0.3, 15, end=0.01), lambda s, o: s.CosineAnnealingWarmRestarts(o, 15, 1, 0.01), None, STEPS),
    (CosineRestarts(0.3, 8, growth=2), lambda s, o: s.CosineAnnealingWarmRestarts(o, 8, 2), None, STEPS),
    (CosineRestarts(0.3, 8, growth=3), lambda s, o: s.CosineAnnealingWarmRestarts(o, 8, 3), None, STEPS),
    (OneCycle(0.3, STEPS), lambda s, o: s.OneCycleLR(o, 0.3, STEPS), None, STEPS),
    (
        OneCycle(0.3, STEPS, 0.4, "linear", 10.0, 100.0),
        lambda s, o: s.OneCycleLR(
            o, 0.3, STEPS, pct_start=0.4, anneal_strategy="linear", div_factor=10, final_div_factor=100
        ),
        None,
        STEPS,
    ),
    *(
        (
            OneCycle(0.3, STEPS, 0.4, shape, three_phase=True),
            lambda s, o, shape=name: s.OneCycleLR(
                o, 0.3, STEPS, pct_start=0.4, anneal_strategy=shape, three_phase=True
            ),
            None,
            STEPS,
        )
        for shape, name in (("cosine", "cos"), ("linear", "linear"))
    ),
    (
        Warmup(0.3, 20, start=0.25),
        lambda s, o: s.LinearLR(o, 0.25, 1.0, 20),
        ("warmup_constant_schedule", [0.075, 0.3, 20]),
        STEPS,
    ),
    (
        Warmup(Cosine(0.3, 90, end=0.03), 20),
        None,
        ("warmup_cosine_decay_schedule", [0.0, 0.3, 20, 110, 0.03]),
        STEPS,
    ),
    (
        Trapezoid(0.3, 110, warmup=10, decay=40, end=0.03),
        None,
        (
            "join_schedules",
            [
                [
                    ("linear_schedule", [0.0, 0.3, 10]),
                    ("constant_schedule", [0.3]),
                    ("linear_schedule", [0.3, 0.03, 40]),
                ],
                [10, 70],
            ],
        ),
        STEPS,
    ),
    (
        Chain([(0.3, 10), (Exponential(0.3, 0.9), 30), (Polynomial(0.3, 20, 2.0), None)]),
        None,
        (
            "join_schedules",
            [
                [
                    ("constant_schedule", [0.3]),
                    ("exponential_decay", [0.3, 1, 0.9]),
                    ("polynomial_schedule", [0.3, 0.0, 2.0, 20]),
                ],
                [10, 40],
            ],
        ),
        STEPS,
    ),
    (
        Chain([(0.3, 10), (Exponential(0.3, 0.9), 30), (Polynomial(0.3, 20, 2.0), 20)]),
        lambda s, o: s.SequentialLR(
            o, [s.ConstantLR(o, 1.0, 1), s.ExponentialLR(o, 0.9), s.PolynomialLR(o, 20, 2.0)], [10, 40]
        ),
        None,
        40,  # in a sequence, PyTorch multiplies from where its schedulers were left
    ),
    (InverseSqrt(0.3, 25), None, None, STEPS),
    (MultiStep(0.3, ()), None, None, STEPS),
    (Trapezoid(0.3, 30, 0, 0), None, None, STEPS),
    (Trapezoid(0.3, 30, 10, 20), None, None, STEPS),
    (OneCycle(0.3, 10, 0.0), None, None, STEPS),
    (OneCycle(0.3, 10, 1.0), lambda s, o: s.OneCycleLR(o, 0.3, 10, pct_start=1.0), None, 10),
    (
        OneCycle(0.3, 10, 0.7, three_phase=True),
        lambda s, o: s.OneCycleLR(o, 0.3, 10, pct_start=0.7, three_phase=True),
        None,
        10,
    ),
]
ALL = pytest.mark.parametrize("schedule", [row[0] for row in ROWS], ids=repr)


@pytest.fixture(scope="module", autouse=True)
def end_process():
    yield
    close()


@pytest.mark.skipif(not INSTALLED["torch"], reason="torch is not installed")
@pytest.mark.parametrize(
    ("schedule", "make", "steps"),
    [pytest.param(row[0], row[1], row[3], id=repr(row[0])) for row in ROWS if row[1] is not None],
)
def test_same_as_pytorch(schedule, make, steps):
    expected = torch_values(make, 0.3, steps)
    np.testing.assert_allclose([schedule(t) for t in range(1, steps + 1)], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.skipif(not INSTALLED["optax"], reason="optax is not installed")
@pytest.mark.parametrize(
    ("schedule", "reference", "steps"),
    [pytest.param(row[0], row[2], row[3], id=repr(row[0])) for row in ROWS if row[2] is not None],
)
def test_same_as_optax(schedule, reference, steps):
    expected = process().submit(optax_schedule, *reference, steps).result()
    np.testing.assert_allclose([schedule(t) for t in range(1, steps + 1)], expected, rtol=1e-12, atol=1e-14)


def test_inverse_sqrt_is_the_formula_of_the_paper():
    width, warmup = 512, 40
    schedule = InverseSqrt((width * warmup) ** -0.5, warmup)
    for t in range(1, 200):
        assert schedule(t) == pytest.approx(width**-0.5 * min(t**-0.5, t * warmup**-1.5), rel=1e-12)


def test_one_cycle_without_warm_up_begins_at_the_top():
    assert OneCycle(0.3, 10, 0.0)(1) == 0.3
    assert OneCycle(0.3, 10, 0.0)(10) == pytest.approx(0.3 / 25 / 1e4)


def test_every_schedule_has_a_row():
    assert {type(row[0]).__name__ for row in ROWS} == set(schedules.fixed.__all__)


@ALL
def test_arrays_of_steps_have_the_same_bits(schedule):
    steps = np.array([*range(1, 400), 10**5, 10**6 + 1], float)
    values = schedule(steps)
    assert values.shape == steps.shape
    assert values.dtype == np.float64
    one_by_one = [schedule(int(t)) for t in steps]
    assert all(type(value) is float for value in one_by_one)
    assert values.tolist() == one_by_one
    assert schedule(np.arange(5, 9)).tolist() == one_by_one[4:8]
    assert (values >= 0).all()


@ALL
def test_a_schedule_is_a_plain_value(schedule):
    assert eval(repr(schedule), vars(schedules).copy()) == schedule
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert dataclasses.replace(schedule) == schedule
    assert hash(schedule) == hash(dataclasses.replace(schedule))
    assert schedule != Constant(0.123)
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.value = 1.0


@ALL
@pytest.mark.parametrize("kind", [optim.Adam, optim.ScheduleFreeSGD, optim.ASGD])
@pytest.mark.parametrize("library", [None, "first"])
def test_a_table_has_the_bits_of_the_plans(schedule, kind, library):
    library = library and next(iter(kind.presets))
    optimizer = kind(schedule, weight_decay=Linear(0.0, 0.2, 30), matches=library)
    numbers = dict(optimizer.first_numbers)
    table = optimizer.table(1, STEPS, numbers)
    for i in range(STEPS):
        plan = optimizer.plan(1 + i, numbers)
        assert dict(zip(table.rule.fields, table.fields[i], strict=True)) == plan.fields
        assert table.extras[i, 2] == plan.extras.l2
        assert {name: values[i] for name, values in table.numbers.items()} == numbers


def test_a_schedule_counts_from_1_whatever_the_optimizer_matches():
    for library in (None, "torch", "optax", "keras"):
        assert optim.SGD(Step(0.3, 2, 0.5), matches=library).table(1, 3, {}).fields[:, 0].tolist() == [0.3, 0.3, 0.15]


# --- Any hyper-parameter ----------------------------------------------------------------------------------------------


def schedulable():
    for kind in optim.REGISTRY.values():
        for name, setting in settings_of(kind).items():
            if setting.schedule and name != "learning_rate":
                yield pytest.param(kind, name, setting, id=f"{kind.command}-{name}")


@pytest.mark.parametrize(("kind", "name", "setting"), list(schedulable()))
def test_a_scheduled_setting_is_the_setting_of_each_step(kind, name, setting):
    """A step with a schedule equals the step of an optimizer that has the value of that step as a number."""
    first, second = (0.5, 0.25) if setting.high is not None else (0.01, 0.02)
    mode = {} if kind.decay_modes == () else {"weight_decay": 0.1}
    rate = {"learning_rate": 0.1}
    if name == "weight_decay":
        mode = {}
    changing = kind(**rate, **mode | {name: Linear(first, second, 2)})
    numbers = dict(changing.first_numbers)
    for t, value in ((1, first), (2, (first + second) / 2), (3, second), (4, second)):
        fixed, same = kind(**rate, **mode | {name: value}), dict(numbers)
        plan, expected = changing.plan(t, numbers), fixed.plan(t, same)
        assert plan.fields == expected.fields
        assert numbers == same
        for part in ("scale", "clip", "l2", "decay", "l1", "mix", "clip_norm", "max_norm", "noise"):
            mine, theirs = (getattr(p.extras, part) if p.extras else None for p in (plan, expected))
            assert mine == theirs
    table = changing.table(1, 4, dict(changing.first_numbers))
    assert table.fields[3].tolist() == list(plan.fields.values())


def test_the_settings_that_may_be_scheduled():
    names = {name for kind in optim.REGISTRY.values() for name, s in settings_of(kind).items() if s.schedule}
    expected = {"learning_rate", "beta", "beta1", "beta2", "beta3", "momentum", "dampening", "rho", "alpha", "trust"}
    expected |= {"epsilon", "epsilon_root", "epsilon_outside", "coefficient"}
    assert names == expected | {"weight_decay", "l1", "clip_value", "clip_norm", "gradient_noise", "ema_decay"}


def test_a_scheduled_norm_clips_each_step():
    optimizer, w = optim.SGD(1.0, clip_norm=Linear(2.0, 1.0, 1)), np.zeros(2)
    state = optimizer.init(w)
    optimizer.step(w, np.array([3.0, 4.0]), state)
    np.testing.assert_allclose(w, [-1.2, -1.6])
    optimizer.step(w, np.array([3.0, 4.0]), state)
    np.testing.assert_allclose(w, [-1.8, -2.4])


def test_a_fit_follows_schedules():
    model = pg.MLP([4, 8, 2], seed=0)
    X = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    y = (X[:, 0] > 0).astype(int)
    steps = steps_of(epochs=3, samples=64, batch_size=16)
    optimizer = optim.AdamW(Warmup(Cosine(0.05, steps - 4), 4), beta1=Linear(0.95, 0.85, steps), weight_decay=0.1)
    rates = iter(optimizer.table(1, steps, {}).fields)
    pg.fit(model, X, y, optimizer=optimizer, epochs=3, batch_size=16)
    other, state = pg.MLP([4, 8, 2], seed=0), None
    order = pg.train.batches.Batches(64, 16, 0)
    own = optim.AdamW(0.05, weight_decay=0.1)
    state, gradient = own.init(other.params), np.empty_like(other.params)
    objective = other.objective(X, y)
    for t in range(1, steps + 1):
        row = dict(zip(optimizer.native_rule.fields, next(rates), strict=True))
        objective.gradient(other.params, order.at(t), gradient)
        now = optim.AdamW(optimizer.learning_rate(t) or 1e-300, beta1=row["beta1"], weight_decay=0.1)
        now.step(other.params, gradient, state)
    final = pg.fit(pg.MLP([4, 8, 2], seed=0), X, y, optimizer=optimizer, epochs=3, batch_size=16)
    np.testing.assert_allclose(final.last.state.w, other.params, rtol=1e-5, atol=1e-7)


# --- Bad values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cosine(-0.1, 10), r"\[Cosine\] value must be a finite number >= 0, got -0.1"),
        (lambda: Cosine(0.1, 0), r"\[Cosine\] steps must be a whole number >= 1, got 0"),
        (lambda: Cosine(0.1, 2.5), "steps must be a whole number"),
        (lambda: Step(0.1, 5, 0), "factor must be a finite number > 0"),
        (lambda: Constant(math.nan), "value must be a finite number >= 0, got nan"),
        (lambda: MultiStep(0.1, [9, 5]), r"milestones must increase, got \(9, 5\)"),
        (lambda: MultiStep(0.1, [0]), "milestones must be a whole number >= 1, got 0"),
        (lambda: OneCycle(0.1, 10, anneal="cos"), "unknown anneal 'cos'. Did you mean 'cosine'"),
        (lambda: Trapezoid(0.1, 10, 6, 5), r"warmup \+ decay must be <= steps = 10, got 6 \+ 5"),
        (lambda: Warmup(lambda t: 0.1, 5), r"\[Warmup\] takes numbers and schedules of pg.schedules"),
        (lambda: Warmup(-0.5, 5), "value must be a finite number >= 0, got -0.5"),
        (lambda: Chain([]), r"\[Chain\] parts must have at least one pair"),
        (lambda: Chain([(0.1, None), (0.2, 5)]), "steps must be a whole number >= 1, got None"),
        (lambda: Chain([0.1, 0.2]), "parts must be pairs of a schedule and its steps, got 0.1"),
        (lambda: steps_of(0, 10), r"\[steps_of\] epochs must be a whole number >= 1, got 0"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(pg.InputError, match=message):
        make()


def test_an_unknown_argument_suggests_the_right_one():
    with pytest.raises(TypeError, match=r"has no argument 'step'\. Did you mean 'steps'"):
        Cosine(0.1, step=10)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("learning_rate", -0.1, r"\[Adam\] learning_rate must be a finite number >= 0 at step 3, got -0.1"),
        ("learning_rate", math.nan, "learning_rate must be a finite number >= 0 at step 3, got nan"),
        ("learning_rate", math.inf, "learning_rate must be a finite number >= 0 at step 3, got inf"),
        ("beta1", 1.0, r"beta1 must be in \[0, 1\) at step 3, got 1.0 from its schedule"),
        ("weight_decay", -1.0, "weight_decay must be a finite number >= 0 at step 3, got -1.0"),
        ("clip_value", -1.0, "clip_value must be a finite number >= 0 at step 3, got -1.0"),
        ("ema_decay", math.nan, r"ema_decay must be in \[0, 1\) at step 3, got nan"),
        ("learning_rate", "fast", r"\[schedule\] learning_rate must be a number at step 3, got 'fast'"),
        ("beta2", None, "beta2 must be a number at step 3, got None"),
    ],
)
@pytest.mark.parametrize("library", [None, "torch"])
def test_a_bad_value_names_the_step_before_the_step(name, value, message, library):
    first = 1 if library is None else 0
    optimizer, w = optim.Adam(**{name: lambda t: value if t - first == 2 else 0.5}, matches=library), np.ones(3)
    state = optimizer.init(w)
    for _ in range(2):
        optimizer.step(w, w.copy(), state)
    before = w.copy()
    with pytest.raises(pg.InputError, match=message):
        optimizer.step(w, w.copy(), state)
    assert state.t == 2
    assert w.tolist() == before.tolist()
    assert len(optimizer.table(1, 5, {}).fields) == 2
    with pytest.raises(pg.InputError, match=message):
        optimizer.table(3, 5, {})


def test_other_schedules_are_checked_beside_a_given_learning_rate():
    optimizer = optim.Adam(lambda t: -1.0, beta1=lambda t: 1.5 - 0.5 * (t < 3))
    with pytest.raises(pg.InputError, match=r"beta1 must be in .* at step 3, got 1\.5"):
        optimizer.plan(3, {}, learning_rate=0.1)
    steady = optim.Adam(0.5)
    plans = [steady.plan(1, {}, learning_rate=rate).fields["rate"] for rate in (0.1, 0.2, 0.2, -0.1)]
    np.testing.assert_allclose(plans, [1.0, 2.0, 2.0, -1.0])


@dataclass(frozen=True)
class Mine(Schedule):
    """A schedule of a user."""

    scale: float = 0.5

    def value_at(self, t: Any) -> Any:
        return self.scale / (1 + t) - 0.02 * (t > 20)


def test_a_schedule_of_a_user():
    optimizer = optim.SGD(Warmup(Mine(), 3))
    assert optimizer.table(1, 5, {}).fields[:, 0].tolist() == [optimizer.learning_rate(t) for t in range(1, 6)]
    with pytest.raises(pg.InputError, match=r"learning_rate must be .* at step 27, got -0.00"):
        optim.SGD(Chain([(Mine(), None)])).table(27, 3, {})
    assert len(optim.SGD(Mine()).table(1, 100, {}).fields) < 100
