"""Settings per layer: `Groups` steps each tensor with the bits of an optimizer that has its settings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import popgrad as pg
from cases import OPTIMIZERS
from fitting import bits, small
from popgrad import optim, schedules
from test_native_loop import assert_same

LAYOUT = pg.Layout({"0.weight": (30, 20), "0.bias": (30,), "2.weight": (5, 30), "2.bias": (5,)})
NAMES = list(LAYOUT.shapes())
ONE_GRADIENT = [case for case in OPTIMIZERS if case.optimizer.is_plain]
ELEMENTWISE = [case for case in ONE_GRADIENT if not case.optimizer.native_rule.sums]
LAYERED = [case for case in ONE_GRADIENT if case.optimizer.native_rule.sums]


def by_id(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.id)


def walk(optimizer, layout=LAYOUT, steps=6, dtype="float32", part=slice(None), seed=0, **kwargs):
    """The parameters after some steps, and the state; the gradients are those of the whole vector."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=LAYOUT.size).astype(dtype)[part].copy()
    state = optimizer.init(w, layout)
    for _ in range(steps):
        optimizer.step(w, rng.normal(size=LAYOUT.size).astype(dtype)[part], state, **kwargs)
    return w, state


def places(*names):
    return np.concatenate([np.arange(t.offset, t.offset + t.size) for t in LAYOUT if t.name in names])


@by_id(ONE_GRADIENT)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_without_different_settings_the_bits_are_those_of_the_inner_optimizer(case, dtype):
    same = {"weight_decay": case.optimizer.weight_decay}
    for settings in ({}, {"*.bias": {}}, {"0.*": same, "*": same}):
        expected, plain = walk(case.optimizer, dtype=dtype)
        w, state = walk(optim.Groups(settings, case.optimizer), dtype=dtype)
        assert w.tobytes() == expected.tobytes()
        assert pg.state.flatten(state).keys() == pg.state.flatten(plain).keys()


@by_id(ELEMENTWISE)
def test_each_tensor_takes_the_steps_of_its_own_settings(case):
    inner = replace(case.optimizer, ema_decay=0.9, clip_value=1.5)
    other = {"learning_rate": 2e-3, "clip_value": 0.2, "l1": 0.01, "ema_decay": 0.5}
    groups = optim.Groups({"*.bias": other, "2.weight": {"clip_value": 1.0}}, inner)
    w, state = walk(groups, loss_scale=4.0)
    for names, settings in (
        (["0.weight"], {}),
        (["0.bias", "2.bias"], other),
        (["2.weight"], {"clip_value": 1.0}),
    ):
        alone, own = walk(replace(inner, **settings), loss_scale=4.0)
        where = places(*names)
        assert w[where].tobytes() == alone[where].tobytes()
        assert state.average[where].tobytes() == own.average[where].tobytes()
        assert state.slots[:, where].tobytes() == own.slots[:, where].tobytes()


@by_id(LAYERED)
def test_rules_by_layers_keep_their_sums(case):
    """A layer's norm is its own; sums over all tensors count every group."""
    groups = optim.Groups({"2.*": {"weight_decay": 0.1}}, case.optimizer)
    w, _ = walk(groups)
    plain, _ = walk(case.optimizer)
    decayed, _ = walk(replace(case.optimizer, weight_decay=0.1))
    first, last = places("0.weight", "0.bias"), places("2.weight", "2.bias")
    assert w[last].tobytes() != plain[last].tobytes()
    if not case.optimizer.native_rule.whole:
        assert w[first].tobytes() == plain[first].tobytes()
        assert w[last].tobytes() == decayed[last].tobytes()
        return
    rates = walk(groups)[1].kept
    assert (rates == rates[0]).all()  # all parts know the same distance


def test_the_first_pattern_counts():
    groups = optim.Groups({"0.bias": {"learning_rate": 0.5}, "*.bias": {"learning_rate": 0.25}}, optim.SGD(1.0))
    w, g = np.zeros(LAYOUT.size), np.ones(LAYOUT.size)
    groups.step(w, g, groups.init(w, LAYOUT))
    assert {name: set(x.ravel()) for name, x in LAYOUT.views(w).items()} == {
        "0.weight": {-1.0},
        "0.bias": {-0.5},
        "2.weight": {-1.0},
        "2.bias": {-0.25},
    }


@pytest.mark.parametrize(
    "rate",
    [0.5, schedules.Step(0.5, every=2, factor=0.5), lambda t: 0.5 / t],
    ids=["number", "schedule", "function"],
)
def test_a_factor_scales_the_learning_rate(rate):
    groups = optim.Groups({"0.*": {"learning_rate_factor": 0.25}}, optim.SGD(rate))
    w, g = np.zeros(LAYOUT.size), np.ones(LAYOUT.size)
    state = groups.init(w, LAYOUT)
    for _ in range(4):
        groups.step(w, g, state)
    assert w[0] == 0.25 * w[-1]
    assert w[-1] < 0


def test_the_norm_for_clipping_is_that_of_all_gradients():
    inner = optim.SGD(1.0, clip_norm=1.0)
    groups = optim.Groups({"2.*": {"learning_rate": 0.5}}, inner)
    start = np.zeros(LAYOUT.size)
    w, alone, g = start.copy(), start.copy(), np.random.default_rng(0).normal(size=LAYOUT.size)
    groups.step(w, g, groups.init(w, LAYOUT))
    inner.step(alone, g, inner.init(alone, LAYOUT))
    later = places("2.weight", "2.bias")
    alone[later] *= 0.5
    np.testing.assert_allclose(w, alone, rtol=1e-14)
    bad = g.copy()
    bad[0] = np.nan
    careful = optim.Groups({"2.*": {"learning_rate": 0.5}}, optim.SGD(1.0, skip_nonfinite=True))
    state = careful.init(w, LAYOUT)
    before = w.copy()
    careful.step(w, bad, state)
    assert w.tobytes() == before.tobytes()
    assert state.t == 0


@pytest.mark.parametrize("stored", ["bfloat16", "8bit"])
def test_packed_states_are_those_of_the_parts(stored):
    layout = pg.Layout({"0.weight": (100, 41), "0.bias": (100,), "2.weight": (10, 100)})
    groups = optim.Groups({"0.bias": {"learning_rate": 0.5}}, optim.Adam(0.1, state_dtype=stored))
    rng = np.random.default_rng(0)
    w = rng.normal(size=layout.size).astype(np.float32)
    exact = optim.Groups({"0.bias": {"learning_rate": 0.5}}, optim.Adam(0.1))
    other = w.copy()
    state, plain = groups.init(w, layout), exact.init(other, layout)
    if stored == "8bit":
        assert state.scales.shape == (2, 17 + 1 + 4)
    for _ in range(5):
        g = rng.normal(size=layout.size).astype(np.float32)
        groups.step(w, g, state)
        exact.step(other, g, plain)
    assert np.abs(w - other).mean() < 0.02
    assert np.abs(layout.views(w)["0.bias"] - layout.views(other)["0.bias"]).mean() < 0.1


# --- In training -----------------------------------------------------------------------------------------------------

IN_TRAINING = {
    "decay": optim.Groups({"*.bias": {"weight_decay": 0.0}}, optim.AdamW(0.01, weight_decay=0.1)),
    "schedules": optim.Groups(
        {"0.*": {"learning_rate": schedules.Cosine(0.1, 30)}, "2.bias": {"learning_rate": lambda t: 0.1 / t}},
        optim.Adam(schedules.Exponential(0.05, 0.9)),
    ),
    "numbers": optim.Groups({"0.*": {"beta1": 0.8, "momentum_decay": 0.01}}, optim.NAdam(0.05)),
    "clip_norm": optim.Groups({"0.*": {"learning_rate_factor": 0.1}}, optim.Momentum(0.5, clip_norm=0.3)),
    "average": optim.Groups({"2.*": {"ema_decay": 0.5}}, optim.Adam(0.05, ema_decay=0.9)),
    "layers": optim.Groups({"*.bias": {"learning_rate": 0.01}}, optim.LARS(1.0, weight_decay=0.1)),
    "whole": optim.Groups({"*.bias": {"weight_decay": 0.0}}, optim.Prodigy(weight_decay=0.1)),
    "noise": optim.Groups({"*.bias": {"gradient_noise": None}}, optim.Adam(0.05, gradient_noise=0.1)),
    "max_norm": optim.Groups({"0.*": {"max_norm": 0.5}}, optim.Adam(0.05)),
    "free": optim.Groups({"0.*": {"learning_rate": 0.1}}, optim.ScheduleFreeAdamW(0.05)),
}


@pytest.mark.parametrize("name", IN_TRAINING)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_native_loop_has_the_bits_of_single_steps(name, dtype):
    _, X, y = small()
    assert_same(X, y, IN_TRAINING[name], model=small(dtype=dtype)[0], batch_size=7, epochs=9)


@pytest.mark.parametrize("name", IN_TRAINING)
def test_a_stopped_run_goes_on_with_the_same_bits(name, tmp_path):
    optimizer, histories = IN_TRAINING[name], []
    for stops in ([8], [3, 8]):
        path = tmp_path / str(len(stops))
        for epochs in stops:
            again = path if path.exists() else None
            model, X, y = small()
            chosen = {"epochs": epochs, "batch_size": 6, "checkpoint": pg.Checkpoint(path), "resume": again}
            history = pg.fit(model, X, y, optimizer=optimizer, **chosen)
        histories.append((bits(history), model.params.tobytes()))
    assert histories[0] == histories[1]


@pytest.mark.parametrize(
    "wrap", [optim.Lookahead, optim.Polyak, optim.SAM, lambda inner: optim.Lookahead(optim.Polyak(inner))]
)
def test_wrappers_go_around_groups(wrap):
    model, X, y = small()
    history = pg.fit(model, X, y, optimizer=wrap(IN_TRAINING["decay"]), epochs=40, batch_size=5)
    assert history.loss[-1] < 0.7 * history.loss[0]


def test_schedules_of_groups_react_to_records():
    plateau = schedules.ReduceOnPlateau(0.1, patience=0)
    groups = optim.Groups({"0.*": {"learning_rate": plateau}}, optim.SGD(replace(plateau, factor=0.5)))
    w = np.zeros(LAYOUT.size)
    state = groups.init(w, LAYOUT)
    for value in (1.0, 2.0):
        groups.notice(state, value)
    groups.step(w, np.ones(LAYOUT.size), state)
    np.testing.assert_allclose([w[0], w[-1]], [-0.01, -0.05])


def test_a_schedule_of_a_group_that_fails_ends_the_run_at_its_step():
    model, X, y = small()
    settings = {"0.*": {"learning_rate": lambda t: 0.1 if t < 7 else -1.0}, "2.*": {"weight_decay": 0.1}}
    optimizer = optim.Groups(settings, optim.AdamW(0.01))
    trainer = pg.Trainer(model.objective(X, y), optimizer, model.params, batch_size=5, epochs=10)
    with pytest.raises(pg.InputError, match=r"learning_rate must be a finite number >= 0 at step 7, got -1.0"):
        for _ in trainer:
            pass
    assert trainer.step == 6
    assert [len(fields) for fields, _ in optimizer.tables(3, 10, {}).plans] == [4, 4, 4]


# --- Errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "inner", "message"),
    [
        ({"*": {"weight_decy": 0}}, optim.Adam(), r"\[Groups\] Adam has no setting 'weight_decy'.*'weight_decay'"),
        ({"*": {"weight_decay": -1}}, optim.Adam(), r"weight_decay must be a finite number >= 0, got -1"),
        ({"*": {"clip_norm": 1}}, optim.Adam(), r"clip_norm cannot differ"),
        ({"*": {"skip_nonfinite": True}}, optim.Adam(), r"skip_nonfinite cannot differ"),
        ({"*": {"state_dtype": "8bit"}}, optim.Adam(), r"state_dtype cannot differ"),
        ({"*": {"matches": "torch"}}, optim.Adam(), r"matches cannot differ"),
        ({"*": {"ema_decay": 0.9}}, optim.Adam(), r"either all tensors have an ema_decay or none"),
        ({"*": {"momentum": 0.9}}, optim.RMSprop(), r"need other states than inner: momentum"),
        ({"*": {"learning_rate": 0.1}}, optim.Prodigy(), r"learning_rate of Prodigy cannot differ"),
        ({"*": {"beta": 0.5}}, optim.ScheduleFreeSGD(), r"beta of ScheduleFreeSGD cannot differ"),
        ({"*": {"learning_rate_factor": 0}}, optim.Adam(), r"learning_rate_factor must be a finite number > 0, got 0"),
        ({"*": {"learning_rate_factor": 1, "learning_rate": 1}}, optim.Adam(), r"both learning_rate and"),
        (
            {"*": {"learning_rate_factor": 0.1}},
            optim.SGD(schedules.ReduceOnPlateau(0.1)),
            r"cannot scale ReduceOnPlateau",
        ),
        ({"*": {}}, optim.Lookahead(optim.Adam()), r"wrap the groups instead: Lookahead\(Groups\(\.\.\.\)\)"),
        ({"*": {}}, optim.SophiaG(), r"SophiaG needs more than one gradient"),
        ({"*": {}}, "adam", r"inner must be an optimizer such as pg.optim.Adam\(\), got 'adam'"),
        ({1: {}}, optim.Adam(), r"expected a pattern and a mapping of settings"),
        ([], optim.Adam(), r"settings must be a mapping"),
    ],
)
def test_refuses(settings, inner, message):
    with pytest.raises(pg.InputError, match=message):
        optim.Groups(settings, inner)


def test_init_names_what_is_missing():
    groups, w = optim.Groups({"0.wieght": {"weight_decay": 0}}, optim.Adam()), np.zeros(LAYOUT.size)
    with pytest.raises(pg.InputError, match=r"\[Groups.init\] '0.wieght' matches no tensor. Did you mean '0.weight'"):
        groups.init(w, LAYOUT)
    with pytest.raises(pg.InputError, match=r"pass layout=model.layout"):
        groups.init(w)
    model, X, y = small()
    with pytest.raises(pg.InputError, match=r"'0.wieght' matches no tensor"):
        pg.fit(model, X, y, optimizer=groups)


def test_a_state_of_another_optimizer_is_refused():
    groups = optim.Groups({"0.*": {"momentum_decay": 0.1}}, optim.NAdam())
    w = np.zeros(LAYOUT.size)
    with pytest.raises(pg.InputError, match="state must come from this optimizer's init"):
        groups.step(w, w.copy(), optim.NAdam().init(w, LAYOUT))


def test_references_of_parameter_groups():
    """PyTorch's param groups do the same."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=shape) for name, shape in LAYOUT.shapes().items()}
    params = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in values.items()}
    decayed, rest = [params[name] for name in NAMES if "weight" in name], [params["0.bias"], params["2.bias"]]
    reference = torch.optim.AdamW([{"params": decayed}, {"params": rest, "weight_decay": 0.0, "lr": 0.1}], lr=0.01)
    w = np.concatenate([values[name].ravel() for name in NAMES])
    groups = optim.Groups({"*.bias": {"weight_decay": 0.0, "learning_rate": 0.1}}, optim.AdamW(0.01, matches="torch"))
    state = groups.init(w, LAYOUT)
    for _ in range(10):
        g = rng.normal(size=LAYOUT.size)
        for name, part in LAYOUT.views(g).items():
            params[name].grad = torch.tensor(part.copy())
        reference.step()
        groups.step(w, g, state)
    for name, part in LAYOUT.views(w).items():
        np.testing.assert_allclose(part, params[name].detach().numpy(), rtol=1e-12)
