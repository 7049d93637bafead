"""Every optimizer: against its formula in float64, and in what it promises. Other libraries: test_references.py."""

from __future__ import annotations

import copy
import dataclasses
import inspect

import numpy as np
import pytest

import popgrad as pg
from cases import OPTIMIZERS
from popgrad import _core, optim
from search_cases import PROBLEMS
from variants import VARIANTS

RULES = pytest.mark.parametrize("case", OPTIMIZERS, ids=lambda case: case.id)
WITH_OPTIONS = pytest.mark.parametrize("case", OPTIMIZERS + VARIANTS, ids=lambda case: case.label)
N = 1000


def run(optimizer, steps, dtype, seed=0, n=N):
    """Parameters after `steps` steps along gradients that depend on the parameters, and those gradients."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=n).astype(dtype)
    pulls = rng.normal(size=(steps, n)).astype(dtype)
    state = optimizer.init(w)
    for pull in pulls:
        optimizer.step(w, (0.5 * w + pull).astype(dtype), state)
    return w, state


def test_registered():
    assert {type(case.optimizer) for case in OPTIMIZERS} == set(optim.REGISTRY.values())
    for_others = {"Curvature", "Average", "Lookback", "Progress"}  # beside the steps: test_wrappers.py, test_rates.py
    assert {case.optimizer.rule for case in OPTIMIZERS} == set(_core.step_rules()) - for_others
    assert {name for name in optim.__all__ if name[0].isupper()} >= {k.__name__ for k in optim.REGISTRY.values()}


@WITH_OPTIONS
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 2e-6)])
def test_formula(case, dtype, tolerance):
    rng = np.random.default_rng(1)
    w = rng.normal(size=N).astype(dtype)
    exact, kept = w.astype(np.float64), {}
    state = case.optimizer.init(w)
    for t in range(1, 11):
        gradient = rng.normal(size=N).astype(dtype)
        case.optimizer.step(w, gradient, state)
        exact = case.exact(exact, gradient.astype(np.float64), kept, t)
    assert state.t == 10
    assert w.dtype == dtype
    np.testing.assert_allclose(w, exact, rtol=0, atol=tolerance * np.abs(exact).max())
    for name, slot in zip(case.optimizer.state_names, state.slots, strict=True):
        np.testing.assert_allclose(slot, kept[name], rtol=20 * tolerance, atol=tolerance, err_msg=name)


@RULES
def test_solves_a_bowl(case):
    problem = PROBLEMS["ellipsoid"]
    curvature = 2 * np.array([1, 5, 25, 125.0])
    w = problem.x0.copy()
    # Steps that do not shrink with the gradient need a schedule to come to rest.
    optimizer = dataclasses.replace(case.optimizer, learning_rate=lambda t: 3e-3 / (1 + t / 500))
    if isinstance(optimizer, optim.AdaDelta):
        optimizer = dataclasses.replace(optimizer, learning_rate=1.0)
    elif isinstance(optimizer, optim.AdaGrad):
        optimizer = dataclasses.replace(optimizer, learning_rate=0.5)
    elif isinstance(optimizer, optim.LARS):
        optimizer = dataclasses.replace(optimizer, learning_rate=10.0)
    elif isinstance(optimizer, (optim.DoG, optim.Prodigy)):
        optimizer = dataclasses.replace(optimizer, learning_rate=1.0)
    if optimizer.weight_decay_mode is None:
        optimizer = dataclasses.replace(optimizer, weight_decay=0.0)
    state = optimizer.init(w)
    for _ in range(3000):
        optimizer.step(w, curvature * w, state)
    assert problem.f(w[None])[0] < 1e-2 * problem.f(problem.x0[None])[0]


@RULES
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_resumed_equals_uninterrupted(case, dtype):
    rng = np.random.default_rng(3)
    gradients = rng.normal(size=(9, N)).astype(dtype)
    start = rng.normal(size=N).astype(dtype)

    w, state = start.copy(), case.optimizer.init(start)
    for gradient in gradients:
        case.optimizer.step(w, gradient, state)

    again, first = start.copy(), case.optimizer.init(start)
    for gradient in gradients[:4]:
        case.optimizer.step(again, gradient, first)
    second = optim.State.from_dict(copy.deepcopy(first.to_dict()))
    for gradient in gradients[4:]:
        case.optimizer.step(again, gradient, second)
    np.testing.assert_array_equal(again, w)
    np.testing.assert_array_equal(second.slots, state.slots)


@RULES
@pytest.mark.parametrize("n", [0, 1, 7, 2410, 100_003])
def test_same_bits_for_any_number_of_threads(case, n):
    results = []
    before = pg.get_num_threads()
    try:
        for threads in (1, 2, 4):
            pg.set_num_threads(threads)
            results.append(run(case.optimizer, 3, "float32", n=n)[0])
    finally:
        pg.set_num_threads(before)
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


# --- What every optimizer can have done in its sweep ---------------------------------------------------------------


def around(optimizer, formula, w, g, kept, t):
    """A step with the shared options, from their definitions."""
    o = optimizer
    if o.clip_norm:
        g = g * min(1.0, o.clip_norm / np.linalg.norm(g))
    if o.clip_value:
        g = g.clip(-o.clip_value, o.clip_value)
    if o.gradient_noise:
        g = g + noise(len(w), o.gradient_noise, t, o.noise_seed)
    if o.decay_mode == "coupled":
        g = g + o.weight_decay * w
    w = formula(o, w, g, kept, t)
    if not (isinstance(o, optim.ADOPT) and t == 1):  # its first step leaves the weights alone
        w = np.sign(w) * np.maximum(np.abs(w) - o.learning_rate * o.l1, 0)
    if o.max_norm:
        rows = w.reshape(MATRIX.tensors[0].shape)
        w = (rows * np.minimum(1, o.max_norm / np.linalg.norm(rows, axis=1))[:, None]).ravel()
    return w


def noise(n, eta, t, seed):
    """The noise of a gradient, from a step of SGD along a gradient of zeros."""
    w, state = np.zeros(n), optim.State(np.empty((0, n)), t - 1)
    optim.SGD(1.0, gradient_noise=eta, noise_seed=seed).step(w, np.zeros(n), state)
    return -w


MATRIX = pg.Layout({"weight": (20, N // 20)})
OPTIONS = [
    {"max_norm": 6.0},
    {"gradient_noise": 0.3, "noise_seed": 7},
    {"max_norm": 7.0, "gradient_noise": 0.1, "clip_norm": 5.0, "clip_value": 0.4, "l1": 0.01, "weight_decay": 0.1},
    {"weight_decay": 0.1},
    {"l1": 0.5},
    {"clip_value": 0.3},
    {"clip_norm": 2.0},
    {"weight_decay": 0.2, "l1": 0.1, "clip_value": 0.5, "clip_norm": 10.0, "skip_nonfinite": True},
]


@RULES
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options))
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 4e-6)])
def test_options(case, options, dtype, tolerance):
    if not case.optimizer.allows_max_norm and "max_norm" in options:
        with pytest.raises(pg.InputError, match="max_norm must be None"):
            dataclasses.replace(case.optimizer, **options)
        return
    optimizer = dataclasses.replace(case.optimizer, **options)
    rng = np.random.default_rng(4)
    w = rng.normal(size=N).astype(dtype)
    exact, kept, state = w.astype(np.float64), {}, optimizer.init(w, MATRIX)
    discontinuous = dtype == "float32" and case.id in ("SignSGD", "Signum", "Lion", "Rprop", "Yogi", "SophiaG-Sophia")
    for t in range(1, 6):
        gradient = rng.normal(size=N).astype(dtype)
        optimizer.step(w, gradient, state)
        exact = around(optimizer, case.formula, exact, gradient.astype(np.float64), kept, t)
    error = np.abs(w - exact) / np.abs(exact).max()
    # Rounding may turn a sign that is nearly zero; then one step differs.
    assert (error > tolerance).mean() <= (0.01 if discontinuous else 0)
    if options.get("l1", 0) >= 0.5 and optimizer.learning_rate >= 0.1:
        assert (w == 0).any()


@RULES
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_step_with_a_gradient_that_is_not_finite_can_be_skipped(case, bad):
    optimizer = dataclasses.replace(case.optimizer, skip_nonfinite=True)
    w, gradient = np.ones(N), np.ones(N)
    state = optimizer.init(w)
    optimizer.step(w, gradient, state)
    before = w.copy(), state.slots.copy(), state.t, dict(state.numbers)
    gradient[N // 2] = bad
    optimizer.step(w, gradient, state)
    np.testing.assert_array_equal(w, before[0])
    np.testing.assert_array_equal(state.slots, before[1])
    assert (state.t, state.numbers) == before[2:]


def test_norm_does_not_depend_on_threads_or_size():
    before = pg.get_num_threads()
    try:
        for n in (0, 1, 15, 16, 17, 16_385, 1_000_003):
            x = np.random.default_rng(n).normal(size=n).astype(np.float32)
            found = set()
            for threads in (1, 2, 4):
                pg.set_num_threads(threads)
                found.add(_core.sum_squares(x))
            assert len(found) == 1
            assert found.pop() == pytest.approx((x.astype(float) ** 2).sum(), rel=1e-13)
    finally:
        pg.set_num_threads(before)


@pytest.mark.parametrize(
    "change",
    [
        {"weight_decay": -1},
        {"weight_decay": np.inf},
        {"l1": -0.1},
        {"clip_value": 0},
        {"clip_norm": np.nan},
        {"max_norm": 0},
        {"gradient_noise": -0.1},
        {"noise_seed": -1},
        {"noise_seed": 0.5},
    ],
)
def test_options_refuse(change):
    with pytest.raises(pg.InputError, match=next(iter(change))):
        optim.SGD(**change)


def test_decay_is_bounded_where_it_acts():
    """What a step takes of a weight is learning rate times decay: that must not be more than all of it."""
    w = np.ones(3, np.float32)
    for optimizer in (optim.AdamW(0.25, weight_decay=4.0), optim.ASGD(0.25, decay=4.0)):
        whole = w.copy()
        optimizer.step(whole, np.zeros(3, np.float32), optimizer.init(whole))
        assert (whole == 0).all()
    for make in (
        lambda: optim.AdamW(0.25, weight_decay=4.1),
        lambda: optim.ASGD(0.25, decay=4.1),
        lambda: optim.SGD(0.1, weight_decay=1.1, weight_decay_mode="independent"),
    ):
        with pytest.raises(pg.InputError, match=r"decay times the learning rate must be <= 1, .* got 1\.[01]"):
            make()
    late = optim.Lion(lambda t: 0.1 * t, weight_decay=6.0)
    state = late.init(w)
    late.step(w, w.copy(), state)
    before = w.copy()
    with pytest.raises(pg.InputError, match=r"\[Lion\] weight_decay times the learning rate must be <= 1, .* got 1\.2"):
        late.step(w, w.copy(), state)
    assert (w == before).all()
    assert state.t == 1


def test_values_at_the_end_of_their_range():
    """Momentum 1 (no friction), averages that never change, lengths down to zero."""
    w = np.zeros(2)
    rolling = optim.HeavyBall(0.1, momentum=1.0)
    state = rolling.init(w)
    for gradient in (1.0, 0.0, 0.0):
        rolling.step(w, np.full(2, gradient), state)
    np.testing.assert_allclose(w, -0.3)
    shrinking, w = optim.Rprop(0.1, shortest=0.0), np.zeros(2)
    state = shrinking.init(w)
    for t in range(40):
        shrinking.step(w, np.full(2, (-1.0) ** (t // 2)), state)  # every second agrees with none
    assert (state.slots[1] < 1e-6).all()
    for optimizer in (optim.Nesterov(momentum=1.0), optim.RMSprop(rho=1.0, momentum=1.0), optim.AdaDelta(rho=1.0)):
        optimizer.step(w, np.ones(2), optimizer.init(w))
        assert np.isfinite(w).all()
    for refused in (lambda: optim.HeavyBall(momentum=1.01), lambda: optim.RMSprop(rho=-0.1)):
        with pytest.raises(pg.InputError, match=r"must be in \[0, 1\]"):
            refused()


@pytest.mark.parametrize("name", ["bias_correction", "weight_decay_mode", "maximum"])
def test_choices_refuse(name):
    with pytest.raises(pg.InputError, match=rf"\[AMSGrad\] unknown {name} 'all'. Known: "):
        optim.AMSGrad(**{name: "all"})


def test_one_epsilon_at_least_keeps_from_dividing_by_zero():
    assert optim.Adam(epsilon=0.0, epsilon_root=1e-8)
    with pytest.raises(pg.InputError, match="epsilon must be > 0 if epsilon_root is 0"):
        optim.Adam(epsilon=0.0)
    with pytest.raises(pg.InputError, match="epsilon must be > 0 if epsilon_outside is 0"):
        optim.AdaMax(epsilon=0.0)


@RULES
def test_refuses(case):
    for name, value in case.refuses.items():
        with pytest.raises(pg.InputError, match=rf"\[{type(case.optimizer).__name__}\] {name} must be"):
            dataclasses.replace(case.optimizer, **{name: value})
    for value in (0.0, -1.0, float("nan"), float("inf"), "fast", None, True):
        with pytest.raises(pg.InputError, match="learning_rate must be"):
            dataclasses.replace(case.optimizer, learning_rate=value)


@RULES
def test_frozen_and_printable(case):
    assert eval(repr(case.optimizer), vars(optim).copy()) == case.optimizer
    with pytest.raises(dataclasses.FrozenInstanceError):
        case.optimizer.learning_rate = 1.0


@WITH_OPTIONS
def test_fields_are_those_of_the_native_rule(case):
    rule, numbers = case.optimizer.native_rule, dict(case.optimizer.first_numbers)
    assert rule is _core.step_rules()[case.optimizer.rule]
    for t in (1, 2):
        plan = case.optimizer.plan(t, numbers)  # which refuses any other fields
        assert plan.rule is rule
        assert tuple(plan.fields) == rule.fields
    assert rule.states == len(case.optimizer.state_names)
    assert rule.kept == len(case.optimizer.first_kept())


@RULES
def test_documented(case):
    text = inspect.getdoc(type(case.optimizer))
    shared = {f.name for f in dataclasses.fields(optim.NativeOptimizer)} - {"learning_rate"}
    own = [f.name for f in dataclasses.fields(case.optimizer) if f.name not in shared]
    for word in ("Reference:", ".. math::", "Raises:", *own):
        assert word in text, word
    assert "weight_decay" in text or case.optimizer.default_decay_mode == "coupled"
    for name in shared:
        assert name in inspect.getdoc(optim.NativeOptimizer)
    for name in case.optimizer.state_names:
        assert f"``{name}``" in text


@RULES
def test_schedule(case):
    if isinstance(case.optimizer, optim.AdamW):  # the decay follows the learning rate too: checked by its formula
        case = dataclasses.replace(case, optimizer=dataclasses.replace(case.optimizer, weight_decay=0.1))
    rates = {1: 0.1, 2: 0.02, 3: 0.5}
    scheduled = dataclasses.replace(case.optimizer, learning_rate=rates.__getitem__)
    w = np.ones(N)
    exact, kept, state = w.copy(), {}, scheduled.init(w)
    for t in (1, 2, 3):
        gradient = np.sin(np.arange(N) * t)
        scheduled.step(w, gradient, state)
        now = dataclasses.replace(case.optimizer, learning_rate=rates[t])
        exact = case.formula(now, exact, gradient, kept, t)
    np.testing.assert_allclose(w, exact, rtol=0, atol=1e-13 * np.abs(exact).max())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w, g, s: (w.astype(np.float32), g, s), "g must be float32"),
        (lambda w, g, s: (w, g[:-1], s), r"g must be of shape \(10,\)"),
        (lambda w, g, s: (w, g[::2], s), r"g must be of shape"),
        (lambda w, g, s: (np.zeros(20)[::2], g, s), "w must be C-contiguous"),
        (lambda w, g, s: (list(w), g, s), "w must be a NumPy array"),
        (lambda w, g, s: (w.astype(int), g, s), "w must be float32 or float64"),
        (lambda w, g, s: (w, g, optim.State(s.slots[:1].copy())), "state must be of shape"),
        (lambda w, g, s: (readonly(w), g, s), "w must be writable"),
    ],
)
def test_arrays_that_do_not_fit_change_nothing(change, message):
    optimizer = optim.Adam()
    w, gradient = np.ones(10), np.ones(10)
    arrays = change(w, gradient, optimizer.init(w))
    before = [np.array(arrays[0]), np.array(arrays[2].slots)]
    with pytest.raises(pg.InputError, match=message):
        optimizer.step(*arrays)
    np.testing.assert_array_equal(arrays[0], before[0])
    np.testing.assert_array_equal(arrays[2].slots, before[1])
    assert arrays[2].t == 0


def readonly(array):
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("params", [[1.0], np.ones((2, 2)), np.ones(3, int), None])
def test_init_refuses(params):
    with pytest.raises(pg.InputError, match=r"\[Adam.init\] params must be"):
        optim.Adam().init(params)


# --- Plans: what a native step is given ----------------------------------------------------------------------------


def calls_of(make):
    """The steps at which three steps of an optimizer call its schedule, 0.01 throughout."""
    asked = []

    def schedule(t):
        asked.append(t)
        return 0.01

    optimizer, w = make(schedule), np.ones(10)
    state = optimizer.init(w)
    for _ in range(3):
        optimizer.step(w, np.ones(10), state)
    return asked


@RULES
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1, "l1": 0.1, "clip_norm": 1.0, "ema_decay": 0.9}])
def test_a_schedule_is_called_once_a_step(case, options):
    asked = calls_of(lambda schedule: dataclasses.replace(case.optimizer, learning_rate=schedule, **options))
    assert asked == [1, 2, 3]


@pytest.mark.parametrize(
    ("kind", "library", "expected"),
    [
        (optim.Adam, "torch", [0, 1, 2]),
        (optim.AdEMAMix, "optax", [0, 1, 2]),
        # The exceptions that NativeOptimizer's documentation names.
        (optim.ASGD, "torch", [0, 0, 1, 0, 2, 1]),
        (optim.ScheduleFreeSGD, "optax", [0, 1, 1, 2, 2, 3]),
        (optim.ScheduleFreeAdamW, "optax", [0, 1, 1, 2, 2, 3]),
    ],
)
def test_where_a_schedule_is_called_to_match_a_library(kind, library, expected):
    assert calls_of(lambda schedule: kind(schedule, matches=library)) == expected


def test_every_schedule_is_called_once_a_step():
    assert calls_of(lambda schedule: optim.AdEMAMix(alpha=schedule)) == [1, 2, 3]
    assert calls_of(lambda schedule: optim.AdEMAMix(learning_rate=schedule, alpha=schedule)) == [1, 1, 2, 2, 3, 3]


def test_a_skipped_step_counts_for_no_schedule():
    asked: list[int] = []
    optimizer, w = optim.Adam(lambda t: asked.append(t) or 0.1, skip_nonfinite=True), np.ones(3)
    state = optimizer.init(w)
    for gradient in (np.full(3, np.nan), np.ones(3), np.ones(3)):
        optimizer.step(w, gradient, state)
    assert asked == [1, 1, 2]
    assert state.t == 2


@WITH_OPTIONS
def test_a_plan_is_a_step(case):
    """What `step` does is the native step of `plan`, and the state's own counters."""
    rng = np.random.default_rng(5)
    w, state = rng.normal(size=N), case.optimizer.init(np.zeros(N))
    other, same = w.copy(), case.optimizer.init(np.zeros(N))
    for t in (1, 2, 3):
        gradient = rng.normal(size=N)
        case.optimizer.step(w, gradient, state)
        _core.step(case.optimizer.plan(t, same.numbers), other, gradient, same)
    np.testing.assert_array_equal(other, w)
    np.testing.assert_array_equal(same.slots, state.slots)
    assert same.numbers == state.numbers


def test_what_a_plan_is_told_beside_the_step():
    plan = optim.AdamW(0.1, weight_decay=0.5, l1=0.25).plan(2, {}, learning_rate=-3.0, maximize=True, loss_scale=4.0)
    extras = plan.extras
    assert (extras.scale, extras.decay, extras.l1, extras.l2, extras.mix) == (-0.25, -1.5, -0.75, 0.0, 0.0)
    assert extras.clip == np.inf
    assert plan.fields["rate"] == -3.0 / (1 - 0.9**2)
    clipped = optim.SGD(clip_norm=2.0, clip_value=5.0, ema_decay=0.75)
    assert clipped.plan(1, {}).extras.clip_norm == 2.0
    assert not clipped.plan(1, {}).extras.skip_nonfinite
    assert [clipped.plan(t, {}).extras.mix for t in (1, 2)] == [1.0, 0.25]
    assert clipped.plan(1, {}).extras.clip == 5.0
    assert optim.SGD().plan(1, {}).extras is None
    rests = optim.ADOPT(0.1, weight_decay=0.5, l1=0.1)
    assert [rests.plan(t, {}).extras.decay for t in (1, 2)] == [0.0, 0.05]
    assert [rests.plan(t, {}).extras.l1 for t in (1, 2)] == [0.0, 0.1 * 0.1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: {}, r"the fields of Sgd are \('learning_rate',\), got \(\)"),
        (lambda fields: {"lr": 0.1}, r"got \('lr',\)"),
        (lambda fields: fields | {"beta": 0.1}, r"got \('learning_rate', 'beta'\)"),
    ],
)
def test_a_plan_has_the_fields_of_its_rule(change, message):
    rule = _core.step_rules()["Sgd"]
    with pytest.raises(ValueError, match=message):
        _core.StepPlan(rule, change({"learning_rate": 0.1}))
    with pytest.raises(TypeError, match="real number"):
        _core.StepPlan(rule, {"learning_rate": "fast"})
    with pytest.raises(TypeError, match="extras must be StepExtras or None"):
        _core.StepPlan(rule, {"learning_rate": 0.1}, (1.0, 2.0))


def test_plain_rules_have_as_many_states_as_their_number():
    for k, rule in enumerate(_core.plain_rules()):
        assert (rule.name, rule.states, rule.sums, rule.kept, rule.fields) == (f"plain{k}", k, 0, 0, ("factor",))
        w, state = np.zeros(9), optim.State(np.zeros((k, 9)))
        _core.step(_core.StepPlan(rule, {"factor": 0.5}), w, np.ones(9), state)
        assert (w == 0.5).all()
        assert (state.slots == 0.5).all()
