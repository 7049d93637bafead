"""Frozen tensors: no gradient method moves them, and their gradients count as absent."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

import popgrad as pg
from cases import OPTIMIZERS
from fitting import every_optimizer, every_search, small
from popgrad import optim, search
from test_groups import LAYOUT, places
from test_native_loop import assert_same

FROZEN = LAYOUT.freeze("0.*")
FREE = pg.Layout({name: shape for name, shape in LAYOUT.shapes().items() if name.startswith("2.")})
STILL, MOVING = places("0.weight", "0.bias"), places("2.weight", "2.bias")

every_case = pytest.mark.parametrize("case", OPTIMIZERS, ids=lambda case: case.id)


def frozen_model(*patterns, **chosen):
    model, X, y = small(**chosen)
    model.params = np.random.default_rng(7).normal(size=model.layout.size)  # biases too
    model.freeze(*(patterns or ("0.*",)))
    return model, X, y


def still(model, params):
    """The frozen part of a parameter vector."""
    return b"".join(model.layout.views(params)[name].tobytes() for name in model.layout.frozen)


@every_case
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_step_is_that_of_the_trainable_part_alone(case, dtype):
    """Norms, joint sums, decay and averages know nothing of the frozen tensors."""
    options = {"ema_decay": 0.8, "clip_norm": 5.0, "l1": 0.001}
    if case.optimizer.decay_modes:
        options["weight_decay"] = 0.1
    optimizer, rng = replace(case.optimizer, **options), np.random.default_rng(0)
    w = rng.normal(size=LAYOUT.size).astype(dtype)
    part, start = w[MOVING].copy(), w.copy()
    state, alone = optimizer.init(w, FROZEN), optimizer.init(part, FREE)
    for _ in range(5):
        g = rng.normal(size=LAYOUT.size).astype(dtype)
        optimizer.step(w, g, state)
        optimizer.step(part, g[MOVING], alone)
    assert w[STILL].tobytes() == start[STILL].tobytes()
    assert w[MOVING].tobytes() == part.tobytes()
    solution = optimizer.solution(w, state)
    assert solution[STILL].tobytes() == start[STILL].tobytes()
    assert solution[MOVING].tobytes() == optimizer.solution(part, alone).tobytes()


@every_case
def test_solutions_keep_frozen_tensors(case):
    """Methods that compute the solution from their states."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=LAYOUT.size).astype(np.float32)
    start, state = w.copy(), case.optimizer.init(w, FROZEN)
    for _ in range(3):
        case.optimizer.step(w, rng.normal(size=LAYOUT.size).astype(np.float32), state)
    assert case.optimizer.solution(w, state)[STILL].tobytes() == start[STILL].tobytes()
    target = start + 1
    case.optimizer.restart(w, state, target)
    assert case.optimizer.solution(w, state)[STILL].tobytes() == target[STILL].tobytes()


@every_optimizer
def test_training_moves_only_what_is_trainable(name):
    model, X, y = frozen_model()
    start = model.params.copy()
    pg.fit(model, X, y, optimizer=optim.REGISTRY[name](), epochs=5, batch_size=7)
    assert still(model, model.params) == still(model, start)
    assert all((model.views()[n] != model.views(start)[n]).any() for n in ("2.weight", "2.bias"))


@every_optimizer
def test_the_native_loop_has_the_bits_of_single_steps(name):
    model, X, y = frozen_model()
    assert_same(X, y, optim.REGISTRY[name](), model=model, batch_size=7, epochs=6)


WRAPPERS = {
    "Lookahead": optim.Lookahead(optim.Adam(0.05, weight_decay=0.1), steps=3),
    "Polyak": optim.Polyak(optim.Adam(0.05, weight_decay=0.1), begin=2),
    "SAM": optim.SAM(optim.SGD(0.1, weight_decay=0.1)),
    "Hypergradient": optim.Hypergradient(optim.SGD(0.1, weight_decay=0.1)),
    "SPS": optim.SPS(optim.SGD(0.1)),
    "LineSearch": optim.LineSearch(optim.SGD(0.1)),
    "Groups": optim.Groups({"2.bias": {"learning_rate": 0.5}}, optim.AdamW(0.05)),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_leave_frozen_tensors(name):
    model, X, y = frozen_model()
    start = model.params.copy()
    history = pg.fit(model, X, y, optimizer=WRAPPERS[name], epochs=6, batch_size=7)
    assert still(model, model.params) == still(model, start) == still(model, history.best_params)
    assert model.params.tobytes() != start.tobytes()


@pytest.mark.parametrize("name", ["SAM", "Hypergradient", "SPS", "LineSearch"])
def test_wrappers_see_no_gradient_of_frozen_tensors(name):
    """The same run, with a first layer whose gradients are ten thousand times as large, but frozen."""
    rng = np.random.default_rng(0)
    y = np.arange(30) % 3
    hidden = rng.normal(size=(30, 4)) + 2 * np.eye(4)[y]
    whole, part = pg.MLP([4, 4, 3], "identity", dtype="float64"), pg.MLP([4, 3], "identity", dtype="float64")
    whole.views()["0.weight"][:] = 1e-4 * np.eye(4)
    whole.views()["0.bias"][:] = 0
    whole.views()["2.weight"][:] = part.views()["0.weight"]
    whole.freeze("0.*")
    expected = pg.fit(part, hidden, y, optimizer=WRAPPERS[name], epochs=20, batch_size=30)
    got = pg.fit(whole, 1e4 * hidden, y, optimizer=WRAPPERS[name], epochs=20, batch_size=30)
    np.testing.assert_allclose(got.loss, expected.loss, rtol=1e-9)


def test_a_loop_of_ones_own_sees_no_gradient_of_frozen_tensors():
    model, X, y = frozen_model()
    model.unfreeze("0.bias")
    _, gradient = model.gradient(X, y)
    assert not model.layout.views(gradient)["0.weight"].any()
    assert all(model.layout.views(gradient)[name].any() for name in ("0.bias", "2.weight", "2.bias"))
    optimizer, start = optim.SAM(optim.SGD(0.1)), model.params.copy()
    state = optimizer.init(model.params, model.layout)
    worst = optimizer.worst(model.params, gradient)
    optimizer.step(model.params, gradient, state)
    assert still(model, worst) == still(model, start) == still(model, model.params)


def test_groups_and_frozen_tensors_are_parts_of_one_vector():
    layout = LAYOUT.freeze("2.weight")
    groups = optim.Groups({"*.bias": {"learning_rate": 0.5}}, optim.SGD(1.0))
    w = np.zeros(layout.size)
    groups.step(w, np.ones(layout.size), groups.init(w, layout))
    assert [set(x.ravel()) for x in layout.views(w).values()] == [{-1.0}, {-0.5}, {0.0}, {-0.5}]


def test_model_files_keep_frozen_tensors(tmp_path):
    model, _, _ = frozen_model("0.weight")
    assert model.layout.frozen == ("0.weight",)
    model.save(tmp_path / "model.safetensors")
    again = pg.MLP.load(tmp_path / "model.safetensors")
    assert again.layout == model.layout == pickle.loads(pickle.dumps(model)).layout
    assert again.params.tobytes() == model.params.tobytes()
    again.unfreeze("0.*")
    assert again.layout.frozen == ()
    again.save(tmp_path / "other.safetensors")
    assert pg.MLP.load(tmp_path / "other.safetensors").layout.frozen == ()


def test_a_run_goes_on_only_with_the_same_frozen_tensors(tmp_path):
    path = tmp_path / "run"
    model, X, y = frozen_model()
    pg.fit(model, X, y, optimizer=optim.Adam(), epochs=2, checkpoint=pg.Checkpoint(path))
    model.unfreeze()
    with pytest.raises(pg.InputError, match="is of a network with other tensors"):
        pg.fit(model, X, y, optimizer=optim.Adam(), epochs=4, checkpoint=pg.Checkpoint(path), resume=path)


def test_layouts_show_frozen_tensors_only_if_there_are_some():
    layout = pg.Layout({"a": (2, 3), "b": (2,)})
    assert repr(layout) == "Layout({'a': (2, 3), 'b': (2,)})"
    assert repr(layout.freeze("b")) == "Layout({'a': (2, 3), 'b': (2,)}, frozen=['b'])"
    assert layout.freeze("b") != layout == layout.freeze("*").unfreeze("a", "b")
    assert [tensor.trainable for tensor in layout.freeze("a")] == [False, True]
    assert layout.freeze("a").freeze("b").frozen == ("a", "b")
    assert pg.Layout(layout.shapes(), frozen=["a"]) == layout.freeze("a")


def test_what_cannot_be_frozen_is_an_error():
    model, X, y = small()
    with pytest.raises(pg.InputError, match=r"\[MLP.freeze\] '0.wight' matches no tensor. Did you mean '0.weight'"):
        model.freeze("0.*", "0.wight")
    assert model.layout.frozen == ()
    with pytest.raises(pg.InputError, match=r"\[MLP.freeze\] needs the names of tensors"):
        model.freeze()
    with pytest.raises(pg.InputError, match=r"\[MLP.unfreeze\] 'x' matches no tensor"):
        model.unfreeze("x")
    with pytest.raises(pg.InputError, match=r"frozen"):
        pg.Layout({"a": (2,)}, frozen=["b"])
    model.freeze("*")
    start = model.params.copy()
    with pytest.raises(pg.InputError, match="all tensors are frozen"):
        pg.fit(model, X, y, optimizer=optim.Adam())
    assert model.params.tobytes() == start.tobytes()


@every_search
def test_searches_refuse_frozen_tensors(name):
    model, X, y = frozen_model()
    with pytest.raises(pg.InputError, match=r"0.weight, 0.bias are frozen"):
        pg.fit(model, X, y, optimizer=search.REGISTRY[name](), epochs=1)
