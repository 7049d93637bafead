"""What pg.fit tells of a run: reasons, records, the best one, improvement, divergence; and how a run goes on."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import sklearn.datasets

import popgrad as pg
from fitting import EVERY, bits, every_optimizer, every_search, real, small
from popgrad import optim, search
from popgrad.budget import default_budget
from popgrad.models.objective import NetworkObjective
from popgrad.train.records import History, improving

ENDLESS = pg.Budget(forwards=1e12)

# --- Budgets and reasons ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "least", "forwards"),
    [(100, 0, 3_000_000), (100, 160_000, 3_000_000), (100, 5_000_000, 5_000_000), (60_000, 0, 3_600_000)],
)
def test_default_budget(samples, least, forwards):
    assert default_budget(samples, least) == pg.Budget(forwards=forwards)


@pytest.mark.parametrize("name", EVERY)
def test_without_epochs_and_budget_every_algorithm_gets_the_default(name):
    X, y = np.tile(real("iris")[0], (150, 1)), np.tile(real("iris")[1], 150)  # 22,500 samples: 50 generations are more
    model = pg.MLP([4, 3], activation="identity")
    calls = []

    def stop(model, history):
        calls.append(history.forwards[-1])
        return len(calls) == 3

    history = pg.fit(model, X, y, optimizer=EVERY[name](), batch_size=None, callbacks=stop)
    assert len(history.forwards) == 3
    assert history.reason.startswith("a callback ended the run")


@pytest.mark.parametrize("name", ["adam", "pso", "openai_es", "tabu"])
def test_default_budget_is_used_and_named(name):
    model, X, y = small(12)
    history = pg.fit(model, X, y, optimizer=EVERY[name](), batch_size=None)
    assert 2_990_000 < history.forwards[-1] <= 3_000_000
    assert history.reason.startswith("the budget of 3,000,000 forwards is used up")
    assert 80 <= len(history.forwards) <= 110


def test_reasons():
    def reason(name="sgd", **chosen):
        model, X, y = small()
        return pg.fit(model, X, y, optimizer=EVERY[name](), batch_size=10, **chosen).reason

    assert reason(epochs=1) == "finished 1 epoch"
    assert reason(epochs=3) == reason(epochs=3, budget=ENDLESS) == "finished 3 epochs"
    assert reason(epochs=3, budget=pg.Budget(forwards=90)) == "the budget of 90 forwards is used up"
    assert reason(epochs=3, budget=pg.Budget(forwards=180)) == "the budget of 180 forwards is used up"
    assert reason(epochs=3, budget=pg.Budget(evaluations=1)) == "the budget of 1 evaluation is used up"
    assert reason(budget=pg.Budget(evaluations=1000, forwards=1e5)) == "the budget of 1,000 evaluations is used up"
    assert reason(budget=pg.Budget(forwards=65.5)) == "the budget of 65.5 forwards is used up"
    assert reason("pso", epochs=60) == "the forwards of 60 epochs are used up"
    model, X, y = small()
    history = pg.fit(model, X, y, optimizer=optim.SAM(optim.SGD()), batch_size=10, epochs=3)
    assert history.reason == "the forwards of 3 epochs are used up"  # two gradients a step: one pass and a half


def test_budget_for_people():
    assert str(pg.Budget(3e6)) == "3,000,000 forwards"
    assert str(pg.Budget(evaluations=1, seconds=0.5)) == "1 evaluation and 0.5 seconds"


# --- Records ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "fewest", "most"),
    [
        ({"epochs": 50}, 51, 51),
        ({"epochs": 75}, 76, 76),
        ({"epochs": 1000}, 80, 105),
        ({"budget": pg.Budget(evaluations=10_000)}, 80, 105),
        ({"budget": pg.Budget(forwards=1e6)}, 80, 105),
        ({"budget": pg.Budget(forwards=1e6, evaluations=1e9)}, 80, 105),
        ({"epochs": 1000, "record_every": 600}, 101, 101),
        ({"epochs": 1000, "record_every": 60}, 1001, 1001),
    ],
)
def test_about_a_hundred_records_by_default(chosen, fewest, most):
    model, X, y = small()
    history = pg.fit(model, X, y, optimizer=optim.SGD(), batch_size=10, **chosen)
    assert fewest <= len(history.forwards) <= most
    assert not any(forwards % 60 for forwards in history.forwards[:-1])  # whole epochs


def test_default_records_are_dense_at_first_and_even_later():
    model, X, y = small()
    forwards = pg.fit(model, X, y, optimizer=optim.SGD(), batch_size=10, epochs=1000).forwards
    epochs = np.array(forwards) // 60
    assert epochs[:6].tolist() == [0, 1, 2, 3, 4, 5]
    steps = np.diff(epochs)
    assert set(steps[epochs[1:] > 100]) <= {14, 6}  # and the rest at the end
    assert (np.diff(steps[epochs[1:] <= 50]) >= 0).all()


@pytest.mark.parametrize("limits", [{}, {"forwards": 1e15}])
def test_records_of_a_run_without_end(limits):
    """Callbacks that stop a run must be asked now and then, whatever the budget."""
    model, X, y = small()
    calls = []

    def stop(model, history):
        calls.append(history.forwards[-1] // 60)
        return history.forwards[-1] > 60_000

    pg.fit(model, X, y, optimizer=optim.SGD(), batch_size=10, budget=pg.Budget(seconds=1e9, **limits), callbacks=stop)
    assert calls[:6] == [0, 1, 2, 3, 4, 5]
    assert all(after <= 1.25 * before + 1 for before, after in itertools.pairwise(calls))
    assert len(calls) < 40


def test_seconds_are_recorded_evenly_too(monkeypatch):
    """A clock that goes on by a second whenever it is read: a step takes 1 s of the 400."""
    monkeypatch.setattr("time.perf_counter", itertools.count().__next__)
    model, X, y = small()
    history = pg.fit(model, X, y, optimizer=optim.SGD(), batch_size=10, budget=pg.Budget(seconds=400))
    assert history.seconds[-1] == 401
    assert max(np.diff(history.seconds)) <= 6  # a 75th of it, at the next step
    assert 60 <= len(history.seconds) <= 105


@pytest.mark.parametrize("validation", [None, 0.3])
@pytest.mark.parametrize("objective", ["loss", "error_rate", "auc"])
def test_the_objective_is_recorded(objective, validation):
    model, X, y = small()
    history = pg.fit(
        model, X, y, optimizer=search.PSO(), epochs=60, record_every=640, objective=objective, validation=validation
    )
    assert history.objective_name == objective
    loss, metric = (
        (history.loss, history.metric) if validation is None else (history.validation_loss, history.validation_metric)
    )
    assert len(history.objective) == len(history.loss)
    assert history.best == int(np.argmin(history.objective))
    if objective != "auc":
        assert history.objective == (loss if objective == "loss" else metric)
    elif validation is None:
        assert history.objective[history.best] == model.evaluate(model.params[None], X, y, "auc")[0]


@pytest.mark.parametrize("loss", ["mse", "mae", "cross_entropy"])
@pytest.mark.parametrize("objective", ["loss", "metric", "balanced_error", "auc"])
@pytest.mark.parametrize("record", ["full", "running"])
def test_a_record_is_one_pass_over_the_samples(loss, objective, record, monkeypatch):
    if objective in ("balanced_error", "auc") and loss != "cross_entropy":
        return
    measured, evaluated, evaluator = [], [], NetworkObjective.evaluator
    X, y = real("iris")
    model = pg.MLP([4, 3] if loss == "cross_entropy" else [4, 1], loss=loss)

    class Network:
        """The native network, watched."""

        def __init__(self, network):
            self.network = network

        def __getattr__(self, name):
            return getattr(self.network, name)

        def measure(self, scores, packed, w, outputs):
            measured.append((packed[0].samples, sorted(name for name, _ in scores)))
            return self.network.measure(scores, packed, w, outputs)

    def watched(data, measure, *rest):
        evaluated.append(data.samples)
        return evaluator(data, measure, *rest)

    monkeypatch.setattr(model, "network", Network(model.network))
    monkeypatch.setattr(NetworkObjective, "evaluator", watched)
    metric = "error_rate" if loss == "cross_entropy" else "mse"
    chosen = metric if objective == "metric" else objective
    options = {"epochs": 1, "validation": (X[:100], y[:100]), "objective": chosen, "record": record}
    history = pg.fit(model, X, y, optimizer=optim.SGD(0.01), **options)
    assert len(history.loss) == 2
    both = sorted({loss, metric})
    held = sorted([*both, "error_rate"]) if objective == "balanced_error" else both
    train = [(150, both)]
    assert measured == [*train, (100, held), *(train if record == "full" else []), (100, held)]
    assert evaluated == []
    for at, name in (
        (history.validation_loss, "loss"),
        (history.validation_metric, metric),
        (history.objective, chosen),
    ):
        assert at[history.best] == model.evaluate(model.params[None], X[:100], y[:100], name)[0]


def test_select_decides_which_record_is_best():
    X, y = real("iris")

    def run(select, objective="loss"):
        model = pg.MLP([4, 16, 3])
        chosen = {"epochs": 60, "validation": 0.3, "select": select, "objective": objective, "seed": 2}
        history = pg.fit(model, X, y, optimizer=optim.Adam(0.02), **chosen)
        assert history.best_params.tobytes() == model.params.tobytes()
        return history

    by_loss, by_metric = run("loss"), run("metric")
    assert by_loss.best == int(np.argmin(by_loss.validation_loss))
    pairs = list(zip(by_metric.validation_metric, by_metric.validation_loss, strict=True))
    assert by_metric.best == pairs.index(min(pairs))
    assert by_metric.best != by_loss.best
    assert by_metric.best != int(np.argmin(by_metric.validation_metric))  # ties go to the smaller loss
    assert bits(run(None)) == bits(by_loss)
    assert run(None, "error_rate").best == int(np.argmin(by_metric.validation_metric))
    assert run("loss", "error_rate").best == by_loss.best


# --- How it went --------------------------------------------------------------------------------------------------


def told(values, forwards=None):
    history = History("error_rate")
    history.objective = list(values)
    history.forwards = list(range(len(history.objective))) if forwards is None else forwards
    return improving(history)


t = np.arange(101)
noise = np.random.default_rng(0).normal(size=(400, 101))


def test_improving_where_it_falls():
    assert told(3 - 0.02 * t)
    assert told(3 * np.exp(-t / 100))
    assert told(1e-9 * (3 - 0.02 * t))
    assert told(-1e9 - 1e8 * t)  # objectives may be negative
    assert told(3 - 0.02 * t + 0.02 * noise[0])
    assert told([3, 2])
    assert told([3, 2, 1.9, 1.8, 1.7])
    assert told(np.repeat(np.linspace(3, 0.5, 13), 8))  # by steps, as the best of a search


def test_not_improving_where_it_does_not():
    assert not told(3 - 0.02 * np.minimum(t, 60))  # has come to rest
    assert not told(3 * np.exp(-t / 5) + 1)  # falls by less than matters
    assert not told(1 + (t - 50) ** 2)  # rises again: overfitting
    assert not told(3 + 0.02 * t)
    assert not told([3])
    assert not told([2, 3])
    assert not told([3, 1, 2])
    assert not told([3] * 101)
    assert not told([3, 2, math.inf])
    assert not told([math.inf] * 50 + [math.inf])


def test_noise_alone_seldom_seems_to_improve():
    assert sum(told(5 + row) for row in noise) <= 0.05 * len(noise)


def test_the_last_quarter_is_one_of_the_work():
    values = [3.0, 2.0, 1.0, 0.5, 0.4, 0.3, 0.2, 0.1, 0.1]
    assert told(values[:-1])
    assert not told(values, [0, 1, 2, 3, 4, 5, 6, 7, 1000])


def test_fit_says_whether_it_improves():
    X, y = real("digits")
    model = pg.MLP([64, 32, 10])
    assert pg.fit(model, X, y, optimizer=optim.SGD(0.001), epochs=8).improving
    model = pg.MLP([64, 32, 10])
    assert not pg.fit(model, X, y, optimizer=optim.Adam(), epochs=60, validation=0.2).improving


def diverges(optimizer, scale=1.0, **chosen):
    X, y = real("digits")
    model = pg.MLP([64, 32, 10], **{key: chosen.pop(key) for key in ("loss", "activation") if key in chosen})
    y = np.eye(10)[y] if model.loss_name == "mse" else y
    return pg.fit(model, scale * X, y, optimizer=optimizer, **{"epochs": 3, **chosen})


@pytest.mark.parametrize(
    "run",
    [
        lambda: diverges(optim.SGD(10.0), scale=10),  # the loss explodes
        lambda: diverges(optim.SGD(1e3), loss="mse"),  # and overflows
        lambda: diverges(optim.SGD(1.0), scale=100),  # every unit dies
        lambda: diverges(optim.Adam(1.0), activation="tanh"),
    ],
)
def test_divergence_is_told(run):
    history = run()
    assert history.diverged
    assert not history.improving
    assert "the run diverged: try a smaller learning rate" in history.reason


@pytest.mark.parametrize("scale", [4, 16])
def test_a_dead_network_has_diverged(scale):
    """Pixels are positive: one long step puts every unit to rest; the loss is then that of a constant output."""
    X, y = sklearn.datasets.load_digits(return_X_y=True)
    model = pg.MLP([64, 32, 10])
    history = pg.fit(model, scale * X, y, optimizer=optim.SGD(0.1), epochs=6)
    assert history.loss[-1] == pytest.approx(math.log(10), rel=0.01)
    assert history.loss[-1] < history.loss[0] / 2
    assert np.ptp(model.predict_proba(scale * X), axis=0).max() == 0
    assert history.diverged


def test_divergence_names_inputs_that_are_not_scaled():
    assert ", and scale X, which holds values up to " in diverges(optim.SGD(1.0), scale=1e3).reason
    X, y = real("iris")
    history = pg.fit(pg.MLP([4, 8, 1], loss="mse"), X, y, optimizer=optim.SGD(1e3), epochs=9)
    assert history.diverged
    assert "scale X" not in history.reason


@pytest.mark.parametrize(
    "run",
    [
        lambda: diverges(optim.SGD(0.1)),
        lambda: diverges(optim.SGD(1e-8)),  # as bad as it was
        lambda: diverges(optim.Adam(0.01), epochs=100, validation=0.9),  # overfits
        lambda: diverges(search.PSO(), scale=1e3, epochs=60),
        lambda: diverges(search.RandomSearch(sigma=1e3), epochs=60),
    ],
)
def test_all_else_is_not_divergence(run):
    history = run()
    assert not history.diverged
    assert "diverged" not in history.reason


def test_labels_that_cannot_be_learned_are_not_divergence():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(500, 3)), rng.integers(2, size=500)
    assert not pg.fit(pg.MLP([3, 4, 2]), X, y, optimizer=optim.SGD(0.01), epochs=30).diverged


def test_training_on_from_a_good_model_is_not_divergence():
    X, y = real("iris")
    model = pg.MLP([4, 16, 3])
    pg.fit(model, X, y, optimizer=optim.Adam(0.01), epochs=2000)
    history = pg.fit(model, X, y, optimizer=optim.Adam(0.02), epochs=3)
    assert history.loss[-1] > 2 * history.loss[0]  # moments that start anew
    assert not history.diverged


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "mse"])
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_of_the_best_constant(loss, weighted):
    from scipy import optimize, special

    rng = np.random.default_rng(0)
    model = pg.MLP([2, 3, 3], loss=loss, dtype="float64")
    y = rng.choice(3, size=50, p=[0.6, 0.3, 0.1]) if loss == "cross_entropy" else rng.random((50, 3))
    weight = rng.random(50) if weighted else None

    def constant(z):
        z = np.tile(z, (50, 1))
        if loss == "cross_entropy":
            each = special.logsumexp(z, axis=1) - z[np.arange(50), y]
        else:
            each = ((np.logaddexp(0, z) - z * y) if loss == "binary_cross_entropy" else (z - y) ** 2).mean(axis=1)
        return np.average(each, weights=weight)

    expected = optimize.minimize(constant, np.zeros(3), tol=1e-12).fun
    assert model.objective(rng.normal(size=(50, 2)), y, weight).constant_loss() == pytest.approx(expected, rel=1e-7)


# --- Callbacks that change the parameters -------------------------------------------------------------------------


def clip(model, history):
    np.clip(model.params, -0.3, 0.3, out=model.params)


WITH_AVERAGES = {
    **optim.REGISTRY,
    "ema": lambda: optim.SGD(ema_decay=0.9),
    "lookahead": lambda: optim.Lookahead(optim.Adam(0.01)),
    "polyak": lambda: optim.Polyak(optim.SGD()),
    "late polyak": lambda: optim.Polyak(optim.SGD(), begin=7),
    "sam": lambda: optim.SAM(optim.Momentum()),
    "schedule_free_bfloat16": lambda: optim.ScheduleFreeSGD(0.1, state_dtype="bfloat16"),
    "lookahead of schedule_free": lambda: optim.Lookahead(optim.ScheduleFreeSGD(0.1)),
}


@pytest.mark.parametrize("name", WITH_AVERAGES)
def test_a_projection_is_taken_up(name):
    model, X, y = small()
    seen = []

    def look(model, history):
        clip(model, history)
        seen.append(model.params.copy())

    chosen = {"optimizer": WITH_AVERAGES[name](), "epochs": 30, "batch_size": 10, "record_every": 30}
    chosen["record"] = "full"
    history = pg.fit(model, X, y, callbacks=[look], **chosen)
    exact = name != "schedule_free_bfloat16"
    assert np.abs(model.params).max() <= (0.3 if exact else 0.302)
    # Every record is one of the parameters that the run goes on from.
    for params, loss in zip(seen, history.loss, strict=True):
        model.params = params
        assert model.loss(X, y) == loss
    assert history.best == int(np.argmin(history.loss))
    assert history.best_params.tobytes() == seen[history.best].tobytes()
    plain = pg.fit(small()[0], X, y, **chosen)
    assert history.forwards == plain.forwards
    assert history.loss != plain.loss


@pytest.mark.parametrize("name", WITH_AVERAGES)
def test_restart_moves_the_solution(name):
    optimizer, rng = WITH_AVERAGES[name](), np.random.default_rng(0)
    w, target = rng.normal(size=(2, 12)).astype(np.float32)
    state = optimizer.init(w)
    for steps in (0, 3, 9):
        for _ in range(steps):
            optimizer.step(w, rng.normal(size=12).astype(np.float32), state)
        given = target.copy()
        optimizer.restart(w, state, given)
        np.testing.assert_array_equal(w, target)
        tolerance = 0 if state.slots.dtype == np.float32 else 2**-8
        np.testing.assert_allclose(optimizer.solution(w, state), target, rtol=tolerance)
        optimizer.step(w, rng.normal(size=12).astype(np.float32), state)
        np.testing.assert_array_equal(given, target)
        assert np.isfinite(w).all()


def test_one_projection_is_one_step_from_there():
    """SGD, whole batches: w is projected after the first step, and the second step starts there."""
    model, X, y = small(dtype="float64")
    other = small(dtype="float64")[0]

    def once(model, history):
        if len(history.loss) == 2:
            clip(model, history)

    pg.fit(model, X, y, optimizer=optim.SGD(0.1), epochs=2, batch_size=None, callbacks=[once])
    other.params = other.params - 0.1 * other.gradient(X, y)[1]
    other.params = np.clip(other.params, -0.3, 0.3)
    other.params = other.params - 0.1 * other.gradient(X, y)[1]
    np.testing.assert_allclose(model.params, other.params, rtol=0, atol=1e-15)


def test_a_projected_record_that_gets_worse_is_not_the_best():
    model, X, y = small()

    def spoil(model, history):
        if len(history.loss) == 31:
            model.params = 0 * model.params

    history = pg.fit(model, X, y, optimizer=optim.Adam(0.05), epochs=30, batch_size=None, callbacks=spoil)
    assert history.loss[30] == pytest.approx(np.log(3), rel=1e-3)
    assert history.best == 29
    assert model.loss(X, y) == history.loss[29]


@every_search
def test_a_search_says_that_it_ignores_a_change(name):
    model, X, y = small()
    chosen = {"optimizer": search.REGISTRY[name](), "epochs": 60, "record_every": 640}
    with pytest.warns(UserWarning, match=r"\[fit\] a callback changed model.params; a search .* ignores") as warned:
        history = pg.fit(model, X, y, callbacks=[clip], **chosen)
    assert len(warned) == 1
    assert bits(history) == bits(pg.fit(small()[0], X, y, **chosen))


# --- Going on -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [7, None])
@pytest.mark.parametrize("name", WITH_AVERAGES)
def test_two_runs_are_one(name, batch_size):
    model, X, y = small(dropout=0.2)
    if "bfloat16" in name:
        model, X, y = small()
    whole = copy.deepcopy(model)
    chosen = {"optimizer": WITH_AVERAGES[name](), "batch_size": batch_size, "record_every": 1}
    chosen["record"] = "full"
    steps = pg.Budget(evaluations=22)  # sophia needs more than one gradient for some steps
    first = pg.fit(model, X, y, budget=steps, **chosen)
    second = pg.fit(model, X, y, budget=steps, resume=first, **chosen)
    total = first.last.step + second.last.step - first.last.step
    alone = pg.fit(whole, X, y, budget=pg.Budget(evaluations=60), **chosen)
    assert total == second.last.step > first.last.step
    both = first.loss + second.loss[1:]
    assert second.loss[0] == first.loss[-1]
    assert both == alone.loss[: len(both)]


@every_optimizer
def test_a_history_can_be_resumed_more_than_once(name):
    model, X, y = small()
    optimizer = EVERY[name]()
    first = pg.fit(model, X, y, optimizer=optimizer, epochs=2, batch_size=7)
    runs = [pg.fit(model, X, y, optimizer=optimizer, epochs=2, batch_size=7, resume=first) for _ in range(2)]
    assert bits(runs[0]) == bits(runs[1])


def test_settings_may_change_when_a_run_goes_on():
    model, X, y = small()
    first = pg.fit(model, X, y, optimizer=optim.Adam(0.1), epochs=2, record="full")
    second = pg.fit(model, X, y, optimizer=optim.Adam(0.001), epochs=2, resume=first)
    assert second.loss[0] == first.loss[-1]
    assert second.last.state.optimizer.t == 2 * first.last.state.optimizer.t


def test_what_cannot_be_resumed():
    model, X, y = small()
    adam = optim.Adam()
    history = pg.fit(model, X, y, optimizer=adam, epochs=1)
    found = pg.fit(small()[0], X, y, optimizer=search.PSO(), epochs=60)
    for chosen, message in (
        ({"resume": 3}, r"\[fit\] resume must be the History that an earlier fit returned, or a checkpoint, got 3"),
        ({"resume": found}, r"resume must be from a run of Adam, got a run of PSO"),
        ({"resume": history, "optimizer": search.PSO()}, r"resume must be from a run of PSO, got a run of Adam"),
        (
            {"resume": found, "optimizer": search.PSO(inertia=0.5)},
            r"the same settings, PSO\(.*inertia=0.5",
        ),
        ({"resume": history, "optimizer": optim.SGD()}, r"resume must be from a run of SGD, got a run of Adam"),
        ({"resume": history, "optimizer": optim.Lookahead(adam)}, r"a run of Lookahead\(Adam\), got a run of Adam"),
        ({"resume": pg.History("mse")}, r"resume must be the history of a finished run"),
    ):
        with pytest.raises(pg.InputError, match=message):
            pg.fit(model, X, y, **{"optimizer": adam, **chosen})
    with pytest.raises(pg.InputError, match=r"from a model with float64 parameters \(51,\), got float32 \(51,\)"):
        pg.fit(small(dtype="float64")[0], X, y, optimizer=adam, resume=history)
    broken = copy.deepcopy(history)
    broken.last.state.w[:] = np.nan
    with pytest.raises(pg.InputError, match=r"parameters .* are not finite"):
        pg.fit(model, X, y, optimizer=adam, resume=broken)
