"""popgrad.minimize: whole populations, budgets, and which solution is handed in."""

from __future__ import annotations

import numpy as np
import pytest

import popgrad as pg
from popgrad import search
from search_cases import PROBLEMS

SPHERE = PROBLEMS["sphere"]
DEFAULTS = pytest.mark.parametrize("name", search.REGISTRY)


def test_minimize_gives_whole_populations_in_float64():
    seen = []

    def f(x):
        seen.append(x.shape)
        assert x.dtype == np.float64
        return (x**2).sum(1)

    result = pg.minimize(f, [1, 2, 3], search=search.PSO(popsize=16), budget=pg.Budget(evaluations=170))
    assert set(seen) == {(16, 3)}
    assert result.evaluations == 160  # ten whole populations: an eleventh would exceed the budget
    assert result.generations == 10
    assert result.history.shape == (10, 2)
    assert result.history[-1, 1] == result.f == (result.x**2).sum()
    assert result.reason == "the budget is used up"


def test_minimize_stops_when_the_search_has_finished():
    method = search.TabuSearch(patience=1, shrink=0.01)
    result = pg.minimize(SPHERE.f, SPHERE.x0, search=method, budget=pg.Budget(evaluations=10**6))
    assert "shrunk" in result.reason
    assert result.evaluations < 10**5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"f": 3}, "f must be a function"),
        ({"search": "pso"}, "search must be one of popgrad.search"),
        ({"budget": 100}, "budget must be a Budget"),
        ({"budget": pg.Budget(forwards=10)}, "budget must be a Budget of evaluations or seconds"),
        ({"budget": pg.Budget(evaluations=3)}, "does not cover one population of 32"),
        ({"x0": [[1.0]]}, "x0 must be a vector"),
        ({"x0": ["a"]}, "x0 must be a vector"),
        ({"x0": []}, "x0 must be a vector"),
        ({"x0": [np.nan]}, "x0 holds NaN"),
        ({"bounds": (0, 1)}, r"x0\[0\] = 2.0 is outside its bounds"),
        ({"bounds": (3, 1)}, "below its upper bound"),
        ({"bounds": (np.inf, None)}, "below its upper bound"),
        ({"bounds": 5}, "bounds must be"),
        ({"bounds": ([0, 0, 0], 9)}, "bounds must be"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"f": lambda x: x}, "fitness must be 32 numbers"),
        ({"f": lambda x: np.full(len(x), np.nan)}, "not one fitness is finite"),
    ],
)
def test_minimize_refuses(change, message):
    good = {"f": SPHERE.f, "x0": [2.0, 2.0], "search": search.PSO(), "budget": pg.Budget(evaluations=100)}
    arguments = good | change
    with pytest.raises(pg.InputError, match=message):
        pg.minimize(arguments.pop("f"), arguments.pop("x0"), **arguments)


# --- What is handed in --------------------------------------------------------------------------------------------


def watched(f):
    """f, and the list of the populations that it is called with."""
    seen = []

    def watch(x):
        seen.append(x.copy())
        return f(x)

    return watch, seen


@DEFAULTS
@pytest.mark.parametrize("evaluations", [128, 129, 130, 131, 160, 256, 258, 259, 1000])
def test_the_solution_has_its_value_and_the_budget_holds(name, evaluations):
    f, seen = watched(SPHERE.f)
    method = search.REGISTRY[name]()
    result = pg.minimize(f, SPHERE.x0, search=method, budget=pg.Budget(evaluations=evaluations), seed=1)
    assert result.f == SPHERE.f(result.x[None])[0]
    assert result.evaluations == sum(len(x) for x in seen) <= evaluations
    assert result.history.shape == (result.generations, 2)
    assert result.x.flags.writeable
    everything = np.concatenate(seen)
    assert result.f == SPHERE.f(everything).min()
    if evaluations >= 131:  # a population, x0 and the two at the end
        assert (everything == SPHERE.x0).all(axis=1).any()
        assert result.f <= SPHERE.f(SPHERE.x0[None])[0]


@pytest.mark.parametrize("evaluations", [40_000, 1 + 300 * 128])  # with and without a rest after whole populations
def test_the_center_is_handed_in_where_it_is_better(evaluations):
    budget = pg.Budget(evaluations=evaluations)
    result = pg.minimize(SPHERE.f, np.ones(100), search=search.OpenAIES(), budget=budget, seed=1)
    assert result.f < 1e-3  # its neighbors have about n sigma^2 = 0.25
    assert result.f < result.history[-1, 1]


@DEFAULTS
def test_a_result_is_never_worse_than_the_start(name):
    x0 = np.zeros(20)  # the minimum
    result = pg.minimize(SPHERE.f, x0, search=search.REGISTRY[name](), budget=pg.Budget(evaluations=400))
    assert result.f == 0
    assert not result.x.any()


def test_under_noise_the_center_is_handed_in():
    """A neighbor that was lucky once is no solution; what x0 was measured to be is none either."""
    errors = []
    for seed in range(12):
        random = np.random.default_rng(seed)
        f, seen = watched(lambda x, random=random: (x**2).sum(1) + random.normal(size=len(x)))
        method = search.OpenAIES(sigma=0.3)
        budget = pg.Budget(evaluations=20_000)
        result = pg.minimize(f, np.full(20, 1.0), search=method, budget=budget, seed=seed)
        np.testing.assert_array_equal(result.x, seen[-1][0])
        errors.append((result.x**2).sum())
    assert np.median(errors) < 0.2


def test_values_of_the_center_that_are_not_finite_are_not_handed_in():
    calls = []

    def f(x):
        calls.append(len(x))
        return np.where(len(x) == 2, np.nan, SPHERE.f(x))

    result = pg.minimize(f, SPHERE.x0, search=search.OpenAIES(), budget=pg.Budget(evaluations=500))
    assert calls[0] == 1
    assert calls[-1] == 2
    assert result.f == SPHERE.f(result.x[None])[0]
    assert result.nonfinite == 2


def test_a_start_that_is_not_finite_is_counted_and_left():
    def f(x):
        return np.where((x == 1).all(axis=1), np.nan, SPHERE.f(x))

    result = pg.minimize(f, SPHERE.x0, search=search.OpenAIES(), budget=pg.Budget(evaluations=2000))
    assert result.f < 4
    assert result.nonfinite == 1
