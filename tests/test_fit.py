"""pg.fit: training, records, budgets, callbacks, minibatches, seeds and threads, for every registered algorithm."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import popgrad as pg
from fitting import EVERY, bits, every_algorithm, every_optimizer, every_search, real, small
from popgrad import optim, search
from popgrad.models.objective import NetworkObjective


class Watch:
    """What was really done, seen from outside: rows and cost of every gradient, members of every generation."""

    def __init__(self, monkeypatch):
        self.rows, self.members = [], []
        gradient, tell, lacks = NetworkObjective.seen_gradient, search.Run.tell, NetworkObjective.lacks

        def watched_gradient(objective, w, batch, out):
            self.rows.append(np.arange(objective.samples) if batch.rows is None else batch.rows.copy())
            return gradient(objective, w, batch, out)

        def one_by_one(objective, operation):
            return "it is watched" if operation == "training" else lacks(objective, operation)

        def watched_tell(run, fitness):
            self.members.append(len(fitness))
            return tell(run, fitness)

        monkeypatch.setattr(NetworkObjective, "seen_gradient", watched_gradient)
        monkeypatch.setattr(NetworkObjective, "lacks", one_by_one)
        monkeypatch.setattr(search.Run, "tell", watched_tell)


@pytest.fixture
def watch(monkeypatch):
    return Watch(monkeypatch)


# --- Training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["wine", "iris", "digits"])
def test_adam_learns_real_classes(data):
    X, y = real(data)
    model = pg.MLP([X.shape[1], 16, y.max() + 1])
    history = pg.fit(model, X, y, optimizer=optim.Adam(0.01), epochs=25, validation=0.25)
    assert history.metric_name == "error_rate"
    assert history.loss[-1] < 0.3 * history.loss[0]
    assert history.validation_metric[history.best] < 0.1
    assert np.mean(model.predict(X) != y) < 0.1


@pytest.mark.parametrize("data", ["wine", "iris"])
def test_search_learns_real_classes(data):
    X, y = real(data)
    model = pg.MLP([X.shape[1], 8, 3])
    history = pg.fit(model, X, y, optimizer=search.PSO(), budget=pg.Budget(evaluations=3000), validation=0.25)
    assert history.loss[history.best] < 0.5 * history.loss[0]
    assert history.validation_metric[history.best] < 0.2


@every_algorithm
def test_every_algorithm_lowers_the_loss(name):
    X, y = real("iris")
    model = pg.MLP([4, 8, 3])
    before = model.loss(X, y)
    history = pg.fit(model, X, y, optimizer=EVERY[name](), budget=pg.Budget(evaluations=640), record="full")
    assert history.loss[0] == before
    assert model.loss(X, y) == history.loss[history.best] < before


@pytest.mark.parametrize("name", ["adam", "pso"])
@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_regression(loss, name, dtype):
    X, y = real("diabetes")
    model = pg.MLP([10, 8, 1], loss=loss, dtype=dtype)
    history = pg.fit(model, X, y, optimizer=EVERY[name](), epochs=20, validation=0.2)
    assert history.metric_name == "mse"
    assert history.validation_metric[history.best] < history.validation_metric[0]
    assert history.best_params.dtype == model.params.dtype == np.dtype(dtype)


def test_binary_targets():
    X, y = real("breast_cancer")
    model = pg.MLP([30, 8, 1], loss="binary_cross_entropy")
    history = pg.fit(model, X, y, optimizer=optim.Adam(0.01), epochs=5, validation=0.2)
    assert history.validation_metric[history.best] < 0.1


@every_search
def test_searches_train_a_network_without_gradient(name):
    X, y = real("iris")
    model = pg.MLP([4, 12, 3], activation="step")
    history = pg.fit(model, X, y, optimizer=search.REGISTRY[name](), budget=pg.Budget(evaluations=640))
    assert model.loss(X, y) == history.loss[history.best] < history.loss[0]


@every_optimizer
def test_gradients_of_a_network_without_any_are_refused(name):
    model, X, y = small()
    model = pg.MLP([4, 6, 3], activation="step")
    with pytest.raises(pg.InputError, match=r"\[fit\] activation 'step' has no gradient. Train the model with a"):
        pg.fit(model, X, y, optimizer=optim.REGISTRY[name]())


def test_objective_is_what_a_search_minimizes_and_what_picks_the_best():
    X, y = real("wine")
    model = pg.MLP([13, 6, 3])
    budget = pg.Budget(evaluations=1500)
    history = pg.fit(
        model, X, y, optimizer=search.PSO(), budget=budget, objective="error_rate", record_every=1, validation=0.3
    )
    assert history.best == int(np.argmin(history.validation_metric))
    assert history.validation_metric[history.best] < history.validation_metric[0]
    alone = pg.fit(model, X, y, optimizer=search.PSO(), budget=budget, objective="error_rate", record_every=1)
    assert alone.metric == sorted(alone.metric, reverse=True)  # the best so far, by that objective


def test_one_step_is_the_step_of_the_optimizer():
    model, X, y = small()
    other = small()[0]
    optimizer = optim.Adam(0.1)
    pg.fit(model, X, y, optimizer=optimizer, epochs=1, batch_size=None)
    optimizer.step(other.params, other.gradient(X, y)[1], optimizer.init(other.params))
    assert model.params.tobytes() == other.params.tobytes()


def test_dropout_acts_in_training_alone():
    def run(dropout, seed=0):
        model, X, y = small(dropout=dropout, seed=seed)
        return model, pg.fit(model, X, y, optimizer=optim.SGD(), epochs=2, record="full"), X, y

    model, history, X, y = run(0.5)
    assert model.loss(X, y) == history.loss[history.best]
    assert history.loss[0] == run(0.0)[1].loss[0]
    assert history.loss[1] != run(0.0)[1].loss[1]
    assert bits(history) == bits(run(0.5)[1])


def test_inputs_are_not_modified():
    model, X, y = small()
    weight = np.arange(20) % 4
    given = (X.astype(np.float32), y, weight)
    copies = [array.copy() for array in given]
    for array in given:
        array.flags.writeable = False
    for optimizer in (optim.Adam(), search.PSO()):
        pg.fit(model, given[0], y, optimizer=optimizer, epochs=5, sample_weight=weight, validation=0.2, batch_size=3)
    for array, copy in zip(given, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


# --- Records ------------------------------------------------------------------------------------------------------


@every_algorithm
def test_records(name):
    model, X, y = small()
    untrained = model.loss(X, y)
    Xv, yv = X[::3] + 0.1, y[::3]
    optimizer, validation = EVERY[name](), (Xv, yv)
    chosen = {"epochs": 60, "batch_size": 7, "validation": validation, "record": "full"}
    history = pg.fit(model, X, y, optimizer=optimizer, **chosen)
    assert (history.forwards[0], history.evaluations[0], history.seconds[0]) == (0, 0, 0.0)
    assert history.loss[0] == untrained
    assert np.all(np.diff(history.forwards) > 0)
    assert np.all(np.diff(history.evaluations) > 0)
    assert np.all(np.diff(history.seconds) >= 0)
    columns = ("evaluations", "seconds", "loss", "metric", "validation_loss", "validation_metric")
    assert {len(getattr(history, column)) for column in columns} == {len(history.forwards)}
    # The model has the best parameters, and they give what the record says, to the bit.
    assert history.best == int(np.argmin(history.validation_loss))
    assert model.params.tobytes() == history.best_params.tobytes()
    assert not np.shares_memory(model.params, history.best_params)
    assert model.loss(Xv, yv) == history.validation_loss[history.best]
    assert model.loss(X, y) == history.loss[history.best]
    assert model.evaluate(model.params[None], Xv, yv, "error_rate")[0] == history.validation_metric[history.best]


def test_records_come_at_the_first_step_that_reaches_each_mark():
    """20 samples in minibatches of 7, 7 and 6: steps of 21, 21 and 18 forwards."""

    def forwards(**chosen):
        model, X, y = small()
        return pg.fit(model, X, y, optimizer=optim.SGD(), batch_size=7, **chosen).forwards

    steps = list(itertools.accumulate([21, 21, 18] * 3, initial=0))
    assert forwards(epochs=3) == [0, 60, 120, 180]
    assert forwards(epochs=3, record_every=1) == steps
    assert forwards(epochs=3, record_every=21) == [0, 21, 42, 81, 102, 120, 141, 162, 180]
    assert forwards(epochs=3, record_every=50) == [0, 60, 102, 162, 180]
    assert forwards(epochs=3, record_every=10**6) == [0, 180]
    assert forwards(budget=pg.Budget(forwards=100)) == [0, 60, 81]  # the last record is never left out
    assert forwards(budget=pg.Budget(forwards=120)) == [0, 60, 120]  # nor doubled


def test_without_validation_the_training_samples_judge():
    model, X, y = small()
    history = pg.fit(model, X, y, optimizer=optim.SGD(2.0), epochs=30)
    assert history.validation_loss == history.validation_metric == []
    assert history.best == int(np.argmin(history.loss))


def test_the_first_of_equal_records_is_the_best():
    model, X, y = small()
    history = pg.fit(model, X, y, optimizer=optim.Adam(0.05), epochs=60, objective="error_rate")
    assert history.metric.count(min(history.metric)) > 1
    assert history.best == history.metric.index(min(history.metric))


def test_worse_training_is_undone():
    model, X, y = small()
    pg.fit(model, X, y, optimizer=optim.Adam(0.05), epochs=30)
    good = model.params.copy()
    history = pg.fit(model, X, y, optimizer=optim.SGD(1e4), epochs=1, batch_size=None)
    assert history.loss[1] > history.loss[0]
    assert history.best == 0
    assert model.params.tobytes() == good.tobytes()


# --- Budgets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [None, 7])
@pytest.mark.parametrize("name", [name for name in EVERY if name != "sophia"])  # its price: test_wrappers.py
def test_budget_is_used_and_never_exceeded(name, batch, watch):
    per_epoch = [20] if batch is None else [7, 7, 6]
    for limits in ({"forwards": 6001}, {"evaluations": 401}, {"forwards": 4001.5, "evaluations": 333}):
        watch.rows.clear()
        watch.members.clear()
        model, X, y = small()
        budget = pg.Budget(**limits)
        history = pg.fit(model, X, y, optimizer=EVERY[name](), batch_size=batch, budget=budget)
        if name in optim.REGISTRY:
            samples = [len(rows) for rows in watch.rows]
            assert history.forwards[-1] == 3 * sum(samples)
            assert history.evaluations[-1] == len(samples)
            members, following = 3, (3, 1)
        else:
            samples = [n for n, _ in zip(itertools.cycle(per_epoch), watch.members, strict=False)]
            assert history.forwards[-1] == sum(np.multiply(samples, watch.members))
            assert history.evaluations[-1] == sum(watch.members)
            members, following = watch.members[-1], (watch.members[-1], watch.members[-1])
        assert samples == [n for n, _ in zip(itertools.cycle(per_epoch), samples, strict=False)]
        assert budget.allows(history.forwards[-1], history.evaluations[-1], 0)
        if "is used up" in history.reason:  # one more step of the same kind would not have fitted
            cost = members * per_epoch[len(samples) % len(per_epoch)]
            assert not budget.allows(history.forwards[-1] + cost, history.evaluations[-1] + following[1], 0)
        else:
            assert name == "tabu"  # it may end by itself


@settings(max_examples=40, deadline=None, derandomize=True)
@given(samples=st.integers(3, 40), batch=st.integers(1, 50), forwards=st.integers(1, 900), every=st.integers(1, 200))
def test_accounting_of_minibatches(samples, batch, forwards, every):
    """The costs of the steps are known beforehand, and so are the totals and the records."""
    sizes = [min(batch, samples - first) for first in range(0, samples, batch)]
    totals = itertools.takewhile(
        lambda total: total <= forwards, itertools.accumulate(3 * size for size in itertools.cycle(sizes))
    )
    expected, steps = [0], [0]
    mark = every
    for count, total in enumerate(totals, start=1):
        if total >= mark:
            expected.append(total)
            steps.append(count)
            mark = (total // every + 1) * every
        last = (count, total)
    model, X, y = small(samples)
    chosen = {"batch_size": batch, "budget": pg.Budget(forwards=forwards), "record_every": every}
    if 3 * sizes[0] > forwards:
        with pytest.raises(pg.InputError, match=r"\[fit\] one step costs"):
            pg.fit(model, X, y, optimizer=optim.SGD(), **chosen)
        return
    if last[1] != expected[-1]:
        expected.append(last[1])
        steps.append(last[0])
    history = pg.fit(model, X, y, optimizer=optim.SGD(), **chosen)
    assert history.forwards == expected
    assert history.evaluations == steps
    assert history.reason == f"the budget of {forwards} forwards is used up"


def test_epochs_and_budget_the_smaller_wins():
    def last(**chosen):
        model, X, y = small()
        history = pg.fit(model, X, y, optimizer=optim.SGD(), batch_size=10, **chosen)
        return history.forwards[-1], history.evaluations[-1]

    assert last(epochs=20) == (20 * 60, 40)
    assert last(epochs=2) == (120, 4)
    assert last(epochs=2, budget=pg.Budget(forwards=90)) == (90, 3)
    assert last(epochs=2, budget=pg.Budget(forwards=1e9)) == (120, 4)
    assert last(epochs=2, budget=pg.Budget(evaluations=1)) == (30, 1)
    assert last(epochs=2, budget=pg.Budget(seconds=1e9)) == (120, 4)
    assert last(budget=pg.Budget(evaluations=50)) == (1500, 50)


@pytest.mark.parametrize("name", ["sgd", "pso"])
def test_no_step_begins_after_the_seconds(name):
    model, X, y = small()
    budget = pg.Budget(seconds=0.02)
    history = pg.fit(model, X, y, optimizer=EVERY[name](), budget=budget, record_every=1)
    assert history.reason == "the budget of 0.02 seconds is used up"
    assert max(history.seconds[:-1]) <= 0.02 < history.seconds[-1]


# --- Callbacks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adam", "pso", "openai_es"])
def test_callbacks_see_every_record_and_its_parameters(name):
    model, X, y = small()
    seen = []

    def look(given, history):
        assert given is model
        assert given.loss(X, y) == history.loss[-1]
        seen.append(len(history.loss))

    budget = pg.Budget(forwards=5555)
    chosen = {"optimizer": EVERY[name](), "budget": budget, "record_every": 900, "record": "full"}
    history = pg.fit(model, X, y, callbacks=[look], **chosen)
    assert seen == list(range(1, len(history.loss) + 1))
    assert history.forwards[-1] % 900
    assert bits(history) == bits(pg.fit(small()[0], X, y, **chosen))


@pytest.mark.parametrize("name", ["adam", "pso"])
@pytest.mark.parametrize("answer", [True, np.True_])
def test_a_callback_that_returns_true_ends_the_run(name, answer):
    model, X, y = small()
    calls = []
    callbacks = [lambda m, h: answer if len(h.loss) == 3 else None, lambda m, h: calls.append(len(h.loss))]
    chosen = {"epochs": 50, "record_every": 1, "record": "full"}
    history = pg.fit(model, X, y, optimizer=EVERY[name](), callbacks=iter(callbacks), **chosen)
    assert len(history.loss) == 3
    assert calls == [1, 2, 3]  # the others are still called
    assert history.reason == "a callback ended the run"
    assert model.loss(X, y) == min(history.loss)


def test_a_callback_may_end_the_run_before_the_first_step(watch):
    model, X, y = small()
    before = model.params.copy()
    history = pg.fit(model, X, y, optimizer=optim.Adam(), callbacks=lambda m, h: True)
    assert history.forwards == [0]
    assert history.reason == "a callback ended the run"
    assert not watch.rows
    assert model.params.tobytes() == before.tobytes()


@pytest.mark.parametrize("answer", [1, "yes", [0], np.ones(3), False, np.False_, None, 0.5])
def test_other_answers_of_callbacks_mean_nothing(answer):
    model, X, y = small()
    history = pg.fit(model, X, y, optimizer=optim.SGD(), epochs=2, callbacks=[lambda m, h: answer])
    assert history.forwards == [0, 60, 120]
    assert history.reason == "finished 2 epochs"


def test_the_reason_why_training_broke_outlives_a_callback():
    model, X, y = small()
    history = pg.fit(model, X, y, optimizer=optim.SGD(1e30), callbacks=[lambda m, h: len(h.loss) > 1])
    assert "finite" in history.reason or history.reason.startswith("a callback ended the run")
    assert np.isfinite(model.params).all()


@pytest.mark.parametrize("name", ["adam", "pso"])
def test_an_exception_in_a_callback_comes_through(name):
    model, X, y = small()

    def fail(model, history):
        if len(history.loss) == 3:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        pg.fit(model, X, y, optimizer=EVERY[name](), epochs=50, callbacks=[fail])
    assert np.isfinite(model.params).all()


# --- Minibatches --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [None, 1, 7, 19, 20, 21, 1000])
def test_every_epoch_takes_each_sample_once(batch, watch):
    model, X, y = small()
    pg.fit(model, X, y, optimizer=optim.SGD(), epochs=3, batch_size=batch)
    size = min(batch or 20, 20)
    steps = math.ceil(20 / size)
    assert len(watch.rows) == 3 * steps
    epochs = [np.concatenate(watch.rows[at * steps : (at + 1) * steps]) for at in range(3)]
    for order in epochs:
        np.testing.assert_array_equal(np.sort(order), np.arange(20))
    assert [len(rows) for rows in watch.rows[: steps - 1]] == [size] * (steps - 1)
    if size < 20:
        assert len({tuple(order) for order in epochs}) == 3  # shuffled anew


def test_batch_sizes_from_n_on_are_all_samples():
    def run(batch, name):
        model, X, y = small()
        return bits(pg.fit(model, X, y, optimizer=EVERY[name](), epochs=30, batch_size=batch))

    for name in ("adam", "pso"):
        assert run(None, name) == run(20, name) == run(21, name) == run(10**6, name)
    assert run("auto", "pso") == run(None, "pso")
    assert run("auto", "adam") == run(32, "adam")


def test_a_generation_is_measured_on_one_minibatch(monkeypatch):
    values, seen = NetworkObjective.values, []

    def watched(objective, population, batch):
        seen.append((len(population), tuple(batch.rows)))
        return values(objective, population, batch)

    monkeypatch.setattr(NetworkObjective, "values", watched)
    model, X, y = small()
    pg.fit(model, X, y, optimizer=search.PSO(popsize=5), batch_size=8, budget=pg.Budget(evaluations=15))
    assert [members for members, _ in seen] == [5, 5, 5]
    assert [len(rows) for _, rows in seen] == [8, 8, 4]
    assert sorted(row for _, rows in seen for row in rows) == list(range(20))


# --- The same bits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every_algorithm
def test_seed_decides_the_run(name, dtype):
    def run(seed):
        model, X, y = small(dtype=dtype)
        chosen = {"epochs": 40, "batch_size": 5, "record_every": 100}
        return bits(pg.fit(model, X, y, optimizer=EVERY[name](), seed=seed, **chosen))

    assert run(0) == run(0)
    assert len({run(0), run(1), run(2**64 - 1)}) == 3


@every_algorithm
def test_threads_change_no_bit(name):
    """Sizes beyond those from which a gradient, a step, a move and an evaluation are each spread over threads."""
    rng = np.random.default_rng(0)
    if name in optim.REGISTRY:
        model, samples = pg.MLP([60, 1200, 70, 4]), 270
        chosen = {"optimizer": EVERY[name](), "budget": pg.Budget(evaluations=3), "batch_size": 260}
    else:
        model, samples = pg.MLP([20, 600, 4]), 1100
        chosen = {"optimizer": EVERY[name](popsize=8), "budget": pg.Budget(evaluations=45)}
    X, y = rng.normal(size=(samples, model.sizes[0])), rng.integers(4, size=samples)
    initial, before = model.params.copy(), pg.get_num_threads()
    results = []
    try:
        for count in (1, 2, 4):
            pg.set_num_threads(count)
            model.params = initial
            results.append((bits(pg.fit(model, X, y, record_every=1, **chosen)), model.params.tobytes()))
    finally:
        pg.set_num_threads(before)
    assert results[0] == results[1] == results[2]
    assert len(results[0][0][0]) >= 3  # it did train


# --- What is not finite -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@every_optimizer
def test_a_run_that_diverges_ends_with_the_best_parameters(name, loss):
    model, X, y = small()
    if loss == "mse":
        model, y = pg.MLP([4, 6, 1], loss="mse"), X[:, 0]
    # Rprop limits the length of its steps; decay times such a rate would change the sign of the weights.
    settings = {"rprop": {"longest": 1e35}, "asgd": {"decay": 0.0}, "adamw": {"weight_decay": 0.0}}
    optimizer = optim.REGISTRY[name](learning_rate=1e30, **settings.get(name, {}))
    history = pg.fit(model, X, y, optimizer=optimizer, epochs=50, record_every=1, record="full")
    assert np.isfinite(model.params).all()
    assert model.loss(X, y) == min(history.loss) < np.inf
    if loss == "mse":
        assert history.reason.startswith("the loss is no longer finite; the run diverged: try a smaller learning rate")
        assert history.diverged
        assert history.nonfinite == 1
        assert history.loss[-1] == np.inf
        assert len(history.loss) < 50


def test_candidates_that_are_not_finite_are_counted_and_never_the_best():
    model, X, _ = small()
    model = pg.MLP([4, 6, 1], loss="mse")
    run = search.SimulatedAnnealing(popsize=4, sigma=1e25)
    history = pg.fit(model, X, X[:, 0], optimizer=run, epochs=10)
    assert history.nonfinite > 0
    assert np.isfinite(history.loss).all()
    assert np.isfinite(model.params).all()
