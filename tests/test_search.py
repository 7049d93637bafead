"""Every search: problems that it solves, and the promises of ask, tell and minimize."""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import pytest

import popgrad as pg
from popgrad import checkpoint, search
from popgrad.settings import settings_of
from search_cases import PROBLEMS, SEARCHES, assert_same_run
from searching import SPHERE, go

METHODS = pytest.mark.parametrize("case", SEARCHES, ids=lambda case: case.id)


def test_registered():
    assert {type(case.search) for case in SEARCHES} == set(search.REGISTRY.values())


def test_names():
    names = {"acor", "de", "genetic", "openai_es", "pso", "random_search", "simulated_annealing", "tabu"}
    assert names <= search.REGISTRY.keys()
    assert list(search.REGISTRY) == sorted(search.REGISTRY)
    assert {kind.__name__ for kind in search.REGISTRY.values()} <= set(search.__all__)


def test_a_method_names_itself():
    class HTTPSearch(search.Search):
        pass

    class Labeled(search.Search):
        label = "Cross-entropy method"

    class Named(Labeled):
        label, command = "Another one", "another"

    assert (HTTPSearch.command, HTTPSearch.label) == ("httpsearch", "HTTPSearch")
    assert (Labeled.command, Labeled.label) == ("cross_entropy_method", "Cross-entropy method")
    assert (Named.command, Named.label) == ("another", "Another one")


@pytest.mark.parametrize(
    ("case", "problem", "value"),
    [
        pytest.param(case, name, value, id=f"{case.id}-{name}")
        for case in SEARCHES
        for name, value in case.solves.items()
    ],
)
@pytest.mark.parametrize("bounded", [False, True], ids=["free", "bounded"])
def test_solves(case, problem, value, bounded):
    problem = PROBLEMS[problem]
    bounds = problem.bounds if bounded else None
    method = case.search
    if len(problem.x0) == 2 and not bounded and hasattr(method, "init_sigma"):
        method = dataclasses.replace(method, init_sigma=2.0)  # more than the valley that x0 lies in
    results = [
        pg.minimize(problem.f, problem.x0, search=method, budget=pg.Budget(evaluations=20_000), bounds=bounds, seed=s)
        for s in range(3)
    ]
    assert np.median([result.f for result in results]) <= problem.minimum + value


@METHODS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 2, 37])
def test_shapes_and_dtype(case, dtype, n):
    run = case.search.start(np.zeros(n, dtype), seed=3)
    for _ in range(5):
        population = run.ask()
        assert population.dtype == dtype
        assert population.ndim == 2
        assert population.shape[1] == n
        assert population.flags.c_contiguous
        assert run.ask() is population  # the same until it is told
        run.tell((population**2).sum(1))
    assert run.best_x.dtype == dtype
    assert run.best_x.shape == run.recommend().shape == (n,)
    assert run.generation == 5


@METHODS
def test_the_start_is_the_first_candidate(case):
    x0 = np.arange(5.0)
    first = case.search.start(x0).ask()
    # OpenAI-ES evaluates antithetic pairs around its center, not the center.
    start = first[[0, 64]].mean(axis=0) if isinstance(case.search, search.OpenAIES) else first[0]
    np.testing.assert_allclose(start, x0, atol=1e-15)


@METHODS
def test_same_seed_same_run_and_another_seed_another(case):
    assert_same_run(go(case.search, 8, seed=5), go(case.search, 8, seed=5))
    assert not np.array_equal(go(case.search, 8, seed=5).best_x, go(case.search, 8, seed=6).best_x)


@METHODS
@pytest.mark.parametrize("stop", [0, 1, 4])
@pytest.mark.parametrize("asked", [False, True], ids=["told", "asked"])
def test_resumed_equals_uninterrupted(case, stop, asked, tmp_path):
    whole = go(case.search, 9, seed=7)
    first = go(case.search, stop, seed=7)
    if asked:
        first.ask()  # killed between ask and tell: nothing of it may stay
    state = first.state_dict()
    arrays = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
    checkpoint.save(tmp_path / "run", arrays, {n: repr(v) for n, v in state.items() if n not in arrays})
    arrays, numbers = checkpoint.load(tmp_path / "run")
    second = case.search.start(SPHERE.x0, 7)
    second.load_state_dict(arrays | {n: float(v) if "." in v or "inf" in v else int(v) for n, v in numbers.items()})
    assert_same_run(go(case.search, 9 - stop, run=second), whole)


@METHODS
def test_a_state_that_does_not_fit_is_refused(case):
    run = case.search.start(SPHERE.x0)
    state = case.search.start(np.zeros(3)).state_dict()
    with pytest.raises(pg.InputError, match="does not fit this run"):
        run.load_state_dict(state)
    with pytest.raises(pg.InputError, match="does not fit this run"):
        run.load_state_dict(run.state_dict() | {"state.more": 1})


@METHODS
def test_same_bits_for_any_number_of_threads(case):
    runs, before = [], pg.get_num_threads()
    try:
        for threads in (1, 2, 4):
            pg.set_num_threads(threads)
            runs.append(go(case.search, 4, x0=np.linspace(-1, 1, 20_011, dtype=np.float32)))
    finally:
        pg.set_num_threads(before)
    assert_same_run(runs[1], runs[0])
    assert_same_run(runs[2], runs[0])


@METHODS
def test_bounds_hold(case):
    lower, upper = np.array([-1.0, 0.5, -3.0]), np.array([1.0, 0.75, -2.0])
    x0 = np.array([0.0, 0.6, -2.5])
    run = case.search.start(x0, 1, (lower, upper))
    for _ in range(30):
        population = run.ask()
        assert (population >= lower).all()
        assert (population <= upper).all()
        # The minimum is outside: every candidate is drawn to a corner.
        run.tell(((population - [5, 5, 5]) ** 2).sum(1))
    assert ((run.recommend() >= lower) & (run.recommend() <= upper)).all()


@METHODS
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_is_never_the_best_and_never_in_an_update(case, bad):
    # Half of the space gives no number; the rest is a sphere whose minimum lies beside the border.
    def f(x):
        return np.where(x[:, 0] < 0, bad, ((x - 0.1) ** 2).sum(1))

    run = go(case.search, 60, x0=np.full(3, 0.5), f=f, seed=2)
    assert np.isfinite(run.best_f)
    assert run.best_x[0] >= 0
    assert run.nonfinite > 0 or case.id in ("SimulatedAnnealing", "OpenAIES", "RandomSearch", "TabuSearch")
    for name, value in run.state_dict().items():
        if name != "state.tabu":
            assert not np.isnan(value).any(), name
    assert np.isfinite(run.recommend()).all()


@METHODS
def test_nothing_finite_is_an_error_and_keeps_the_state(case):
    run = case.search.start(SPHERE.x0)
    population = run.ask().copy()
    with pytest.raises(pg.InputError, match="not one fitness is finite"):
        run.tell(np.full(len(population), np.nan))
    np.testing.assert_array_equal(run.ask(), population)
    assert run.evaluations == run.generation == 0


@METHODS
def test_tell_checks_and_does_not_change_its_argument(case):
    run = case.search.start(SPHERE.x0)
    with pytest.raises(pg.InputError, match="ask for a population first"):
        run.tell([1.0])
    count = len(run.ask())
    for wrong in (np.ones(count + 1), np.ones((count, 1)), ["a"] * count, 1.0):
        with pytest.raises(pg.InputError, match=f"fitness must be {count} numbers"):
            run.tell(wrong)
    fitness = np.ones(count)
    fitness[-1] = 0.5 if count > 1 else 1
    kept = fitness.copy()
    run.tell(fitness)
    np.testing.assert_array_equal(fitness, kept)
    assert run.best_f == kept.min()


@METHODS
def test_refuses(case):
    for name, value in case.refuses.items():
        with pytest.raises(pg.InputError, match=rf"\[{type(case.search).__name__}\] {name}"):
            dataclasses.replace(case.search, **{name: value})
    with pytest.raises(pg.InputError, match="popsize must be a whole number"):
        dataclasses.replace(case.search, popsize=2.5)


@METHODS
def test_documented(case):
    text = inspect.getdoc(type(case.search))
    names = [f.name for f in dataclasses.fields(case.search)]
    for word in ("Reference:", "Raises:", *names):
        assert word in text, word
    for name in case.search.start(SPHERE.x0).state:
        assert name in text, name


@METHODS
def test_does_not_touch_x0_or_bounds(case):
    x0, lower, upper = np.zeros(3), np.full(3, -1.0), np.full(3, 1.0)
    for array in (x0, lower, upper):
        array.flags.writeable = False
    go(case.search, 3, x0=x0, bounds=(lower, upper))
    assert not x0.any()


@METHODS
def test_the_smallest_population_moves(case):
    least = int(settings_of(type(case.search))["popsize"].low)
    settings = {"elites": 1} if isinstance(case.search, search.GeneticAlgorithm) else {}
    run = go(dataclasses.replace(case.search, popsize=least, **settings), 60, seed=1)
    assert run.best_f < SPHERE.f(SPHERE.x0[None])[0]
    with pytest.raises(pg.InputError, match=f"popsize must be a whole number >= {least}, got {least - 1}"):
        dataclasses.replace(case.search, popsize=least - 1, **settings)
