"""Layouts, objectives and methods: what a user's own model needs, what is asked of it, and what that is charged."""

from __future__ import annotations

import copy
import importlib
import json
from dataclasses import dataclass

import numpy as np
import pytest

import popgrad as pg
from fitting import bits, small
from popgrad import optim, search
from popgrad.objective import Metered
from popgrad.state import flatten, restored

# --- Layouts ------------------------------------------------------------------------------------------------------


def test_a_layout_is_that_of_the_network():
    model = pg.MLP([3, 4, 2], dropout=0.1)
    assert [(t.name, t.shape, t.offset) for t in model.layout] == [
        ("0.weight", (4, 3), 0),
        ("0.bias", (4,), 12),
        ("3.weight", (2, 4), 16),
        ("3.bias", (2,), 24),
    ]
    assert model.layout.size == len(model.params) == 26
    views = model.layout.views(model.params)
    views["3.bias"][1] = 7
    assert model.params[25] == 7
    assert model.layout == pg.Layout(model.layout.shapes())
    population = np.arange(52).reshape(2, 26)
    np.testing.assert_array_equal(model.layout.tensors[3].of(population), [[24, 25], [50, 51]])


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({}, "shapes must be a mapping such as"),
        ([(2, 3)], "shapes must be a mapping such as"),
        ({"w": 3}, "expected a name and a shape for each tensor, got 'w': 3"),
        ({"w": (2, -1)}, "each size of 'w' must be a whole number >= 0, got -1"),
        ({1: (2,)}, "expected a name and a shape"),
    ],
)
def test_layouts_refuse(shapes, message):
    with pytest.raises(pg.InputError, match=rf"\[Layout\] {message}"):
        pg.Layout(shapes)


# --- A user's own model --------------------------------------------------------------------------------------------


class Line(pg.Model):
    """y = slope x + intercept, without anything of this package."""

    layout = pg.Layout({"slope": (1,), "intercept": (1,)})

    def __init__(self):
        self._params = np.zeros(2)

    @property
    def params(self):
        return self._params

    @params.setter
    def params(self, values):
        self._params[:] = values

    def objective(self, X, y, sample_weight=None, *, metric="loss", operation="Line.objective"):
        return SquaredErrors(np.asarray(X, float)[:, 0], np.asarray(y, float))


class SquaredErrors(pg.Objective):
    layout, dtype = Line.layout, np.dtype(np.float64)

    def __init__(self, x, y):
        self.x, self.y, self.samples = x, y, len(x)

    def _errors(self, w, batch):
        rows = slice(None) if batch.rows is None else batch.rows
        return self.x[rows], w[..., :1] * self.x[rows] + w[..., 1:] - self.y[rows]

    def values(self, population, batch):
        return (self._errors(population, batch)[1] ** 2).mean(axis=1)

    def gradient(self, w, batch, out):
        x, error = self._errors(w, batch)
        out[:] = 2 * (error * x).mean(), 2 * error.mean()
        return float((error**2).mean())

    def subset(self, rows):
        return SquaredErrors(self.x[rows], self.y[rows])


class WithoutGradient(SquaredErrors):
    gradient = pg.Objective.gradient


def line():
    X = np.random.default_rng(0).uniform(-1, 1, (64, 1))
    return Line(), X, 3 * X[:, 0] - 1


@pytest.mark.parametrize(
    "method",
    [
        optim.Adam(0.05),
        optim.SAM(optim.SGD(0.2)),
        search.PSO(),
        search.OpenAIES(popsize=32, sigma=0.2, optimizer=optim.Adam(0.1)),
        search.DE(init_sigma=1.0),
    ],
    ids=lambda method: method.described(),
)
@pytest.mark.parametrize("chosen", [{}, {"validation": 0.25, "batch_size": 16}])
def test_a_users_own_model_is_trained(method, chosen):
    model, X, y = line()
    history = pg.fit(model, X, y, optimizer=method, budget=pg.Budget(forwards=200_000), **chosen)
    assert history.loss[history.best] < 0.01 * history.loss[0]
    np.testing.assert_allclose(model.params, [3, -1], atol=0.2)
    assert history.metric_name == history.objective_name == "loss"


def test_what_an_objective_lacks_is_named():
    model, X, y = line()
    model.objective = lambda X, y, *rest, **chosen: WithoutGradient(X[:, 0], y)
    with pytest.raises(pg.InputError, match=r"\[fit\] WithoutGradient does not define gradient"):
        pg.fit(model, X, y, optimizer=optim.Adam())
    assert pg.fit(model, X, y, optimizer=search.PSO(), epochs=300).loss[-1] < 1
    with pytest.raises(pg.InputError, match=r"\[fit\] SquaredErrors does not define sampled"):
        pg.fit(*line(), optimizer=optim.Lookahead(optim.SophiaG()))
    with pytest.raises(pg.InputError, match=r"\[fit\(validation\)\] SquaredErrors does not define with_samples"):
        pg.fit(*line(), optimizer=optim.Adam(), validation=(X, y))


# --- Methods ------------------------------------------------------------------------------------------------------

NESTED = {
    "sophia": (lambda inner: inner, optim.SophiaG(0.02)),
    "lookahead": (optim.Lookahead, optim.SophiaG(0.02)),
    "polyak of lookahead": (lambda inner: optim.Polyak(optim.Lookahead(inner)), optim.SophiaG(0.02)),
    "sam": (optim.SAM, optim.SophiaG(0.02)),
    "es": (lambda inner: search.OpenAIES(popsize=40, optimizer=inner), optim.SophiaG(0.02)),
}


@pytest.mark.parametrize("name", NESTED)
def test_sophia_observes_wherever_it_is(name):
    """Without an estimate of the curvature its steps would be signs."""
    nest, inner = NESTED[name]
    method = nest(inner)
    model, X, y = small()
    objective = model.objective(X, y)
    state = method.prepare(objective, model.params, seed=1)
    method.advance(objective, pg.Batch(step=1), state)
    state = state.state["optimizer"] if name == "es" else state.optimizer
    while state.inner is not None:
        state = state.inner
    assert np.abs(state.slots[1]).max() > 0


@pytest.mark.parametrize(
    ("method", "forwards", "evaluations"),
    [
        (optim.Adam(), 3, 1),
        (optim.SAM(optim.Adam()), 6, 2),
        (optim.SophiaG(), 7, 2),
        (optim.Lookahead(optim.SAM(optim.SophiaG())), 10, 3),
        (search.PSO(popsize=7), 7, 7),
        (search.OpenAIES(popsize=8), 8, 8),
        (search.OpenAIES(popsize=8, optimizer=optim.SAM(optim.SGD())), 16, 16),
        (search.OpenAIES(popsize=8, optimizer=optim.SophiaG()), 17, 16),
    ],
    ids=lambda value: value.described() if isinstance(value, pg.Method) else None,
)
@pytest.mark.parametrize("batch", [None, 7])
def test_what_is_asked_for_is_charged(method, forwards, evaluations, batch):
    model, X, y = small()
    meter = Metered(model.objective(X, y))
    state = method.prepare(meter, model.params, seed=0)
    step = pg.Batch(None if batch is None else np.arange(batch), 1)
    samples = 20 if batch is None else batch
    cost = method.cost(meter, step, state)
    assert (meter.forwards, meter.evaluations) == (0, 0)
    method.advance(meter, step, state)
    assert (meter.forwards, meter.evaluations) == (forwards * samples, evaluations)
    assert cost.forwards >= meter.forwards
    assert cost.evaluations >= meter.evaluations


def test_a_users_own_loop_is_that_of_fit():
    model, X, y = small()
    other = copy.deepcopy(model)
    history = pg.fit(model, X, y, optimizer=optim.SAM(optim.Adam()), batch_size=None, epochs=40, record_every=10**9)
    method, objective = optim.SAM(optim.Adam()), other.objective(X, y)
    state = method.prepare(objective, other.params, seed=0)
    for step in range(1, 21):
        method.advance(objective, pg.Batch(step=step), state)
    np.testing.assert_array_equal(method.recommend(state), method.recommend(history.last.state))


def test_a_run_forgets_an_objective_that_raises():
    """A later loop of ask and tell must not evaluate with it."""
    model, X, y = small()

    def metric(outputs, y):
        raise RuntimeError("broken")

    objective, method = model.objective(X, y, metric=metric), search.OpenAIES(popsize=4)
    run = method.prepare(objective, model.params, seed=0)
    with pytest.raises(RuntimeError, match="broken"):
        method.advance(objective, pg.Batch(step=1), run)
    assert run.context is None
    run.tell(np.arange(4.0))
    assert run.generation == 1


# --- A trainer that is stopped and resumed ------------------------------------------------------------------------

METHODS = {
    "adam": optim.Adam(0.05),
    "schedule free": optim.ScheduleFreeAdamW(0.05),
    "lookahead of sophia": optim.Lookahead(optim.SophiaG(0.02)),
    "lamb in bytes": optim.Adam(0.05, state_dtype="bfloat16", ema_decay=0.9),
    "pso": search.PSO(popsize=6),
    "es of sam": search.OpenAIES(popsize=6, optimizer=optim.SAM(optim.LAMB(0.1))),
    "tabu": search.TabuSearch(),
    "de": search.DE(popsize=6),
}


def through_json(state):
    """The state as a file that knows only text would have it."""
    text = json.dumps(
        {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in state.items()}
    )
    return json.loads(text)


@pytest.mark.parametrize("stop", [1, 2, 5])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("validation", [None, 0.25])
def test_a_resumed_fit_is_the_uninterrupted_one(name, stop, validation):
    chosen = {"optimizer": METHODS[name], "batch_size": 6, "budget": pg.Budget(forwards=4000), "record_every": 400}
    whole = pg.fit(*small(dropout=0.2), validation=validation, **chosen)
    model, X, y = small(dropout=0.2)
    train, held = importlib.import_module("popgrad.train.fit").divided(model, X, y, None, validation, 0)
    trainer = pg.Trainer(
        train, chosen["optimizer"], model.params, held=held, **{k: chosen[k] for k in list(chosen)[1:]}
    )
    for _, _history in zip(range(stop), trainer, strict=False):
        state = trainer.state_dict()
    state = {name: np.array(value) for name, value in state.items()}  # as np.savez makes them
    again, _, _ = small(dropout=0.2)
    resumed = pg.fit(again, X, y, validation=validation, resume=state, **chosen)
    assert bits(resumed) == bits(whole)
    assert resumed.seconds[:stop] == trainer.history.seconds[:stop]


def test_a_resumed_fit_knows_the_classes():
    model, X, y = small()
    names = np.array(["no", "perhaps", "yes"])[y]
    trainer = pg.Trainer(model.objective(X, names), optim.Adam(), model.params, epochs=2)
    for _ in trainer:
        state = trainer.state_dict()
    history = pg.fit(model, X, names, optimizer=optim.Adam(), epochs=2, resume=state)
    assert model.classes == ("no", "perhaps", "yes")
    assert (history.reason, len(history.loss)) == ("finished 2 epochs", 3)
    assert set(model.predict(X)) <= set(names)


def test_what_a_trainer_refuses():
    model, X, y = small()
    for arguments, message in (
        ((model, optim.Adam(), model.params), "objectives must be popgrad.Objective, .* got MLP"),
        ((model.objective(X, y), "adam", model.params), "method must be one of popgrad.optim or popgrad.search"),
        ((model.objective(X, y), optim.Adam(), model.params[1:]), "layout must add up to 50 parameters, got 51"),
    ):
        with pytest.raises(pg.InputError, match=message):
            pg.Trainer(*arguments)
    with pytest.raises(pg.InputError, match=r"\[fit\] seed must be a whole number >= 0, got -1"):
        pg.fit(model, X, y, optimizer=optim.Adam(), validation=0.5, seed=-1)


def test_what_a_trainer_does_not_resume():
    model, X, y = small()
    objective = model.objective(X, y)

    def trainer(method=None, samples=20, **chosen):
        return pg.Trainer(model.objective(X[:samples], y[:samples]), method or optim.Adam(), model.params, **chosen)

    first = trainer()
    next(first)
    next(first)
    state = first.state_dict()
    for other, change, message in (
        (trainer(samples=19), {}, "saved with samples 20, but this run has 19"),
        (trainer(batch_size=5), {}, "saved with batch_size 20, but this run has 5"),
        (trainer(seed=1), {}, "saved with seed 0, but this run has 1"),
        (trainer(optim.SGD()), {}, "'slots' does not fit this run: it must have shape"),
        (trainer(search.PSO()), {}, "'batch_size'|'optimizer.slots'|saved with|does not fit"),
        (trainer(), {"else": 1}, "'else' does not fit this run"),
        (trainer(), {"method.optimizer.t": "1"}, "must be a number"),
        (trainer(), {"records.loss": ["a"]}, "loss must be real numbers"),
    ):
        before = flatten({"state": other.state})
        before = {name: copy.copy(value) for name, value in before.items()}
        with pytest.raises(pg.InputError, match=message):
            other.load_state_dict(state | change)
        for name, value in flatten({"state": other.state}).items():
            np.testing.assert_array_equal(value, before[name])
        assert other.history.loss == []
    assert objective.samples == 20


# --- Trees --------------------------------------------------------------------------------------------------------


def test_a_tree_is_flattened_and_restored():
    tree = {"a": {"b": np.arange(3.0), "none": None}, "state": optim.NAdam().init(np.ones(2)), "t": 3, "name": "x"}
    flat = flatten(tree)
    assert sorted(flat) == ["a.b", "name", "state.numbers.product", "state.slots", "state.t", "t"]
    assert flat["a.b"] is tree["a"]["b"]
    changed = {**through_json(flat), "t": np.array(4), "state.t": 5}
    again = restored("test", tree, changed)
    assert (again["t"], again["state"].t, again["name"], again["a"]["none"]) == (4, 5, "x", None)
    np.testing.assert_array_equal(again["a"]["b"], [0, 1, 2])
    assert tree["t"] == 3
    for change, message in (
        ({"u": 1}, "'u' does not fit this run: it is not a part of it"),
        ({"t": 1.5}, "whole number"),
    ):
        with pytest.raises(pg.InputError, match=rf"\[test\] .*{message}"):
            restored("test", tree, {**flat, **change})
    with pytest.raises(pg.InputError, match="'slots' does not fit this run: it is missing"):
        restored("test", tree, {name: value for name, value in flat.items() if name != "state.slots"})


# --- Populations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "which", [3, -1, slice(None), slice(2, 7), slice(1, 9, 3), slice(9, 3, -2), [4, 5, 1, -10], []]
)
def test_perturbations_are_indexed_like_an_array(which):
    population = pg.Perturbations(np.zeros(5), 0.1, 10, 1)
    which = np.array(which, int) if isinstance(which, list) else which
    np.testing.assert_array_equal(population[which], population.rows(0, 10)[which])


@pytest.mark.parametrize("which", [10, -11, [0, 10]])
def test_a_member_that_is_not_there(which):
    with pytest.raises(IndexError, match="member out of range"):
        pg.Perturbations(np.zeros(5), 0.1, 10, 1)[which]


@dataclass(frozen=True)
class Seeds(search.Search):
    """A search whose candidates are not stored: it moves to the best of a population around its center."""

    def fill(self, run):
        run.state["center"] = run.x0.copy()

    def propose(self, run):
        return pg.Perturbations(run.state["center"], 0.1, self.popsize, run.generation)

    def learn(self, run, population, fitness):
        run.state["center"] = population[int(fitness.argmin())]


def test_a_search_may_propose_candidates_that_are_not_stored():
    model, X, y = small()
    history = pg.fit(model, X, y, optimizer=Seeds(), epochs=400)
    assert history.loss[-1] < 0.5 * history.loss[0]
    result = pg.minimize(lambda x: (x**2).sum(axis=1), np.ones(3), search=Seeds(), budget=pg.Budget(evaluations=3200))
    assert result.f < 0.05
    with pytest.raises(pg.InputError, match=r"\[Seeds\] candidates that are not stored cannot be kept within bounds"):
        Seeds().start(np.ones(3), bounds=(-2, 2)).ask()
