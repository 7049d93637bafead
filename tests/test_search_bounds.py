"""Searches in a box: every form of bounds, nothing outside, nothing stuck on a wall, steps that follow the box."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.optimize import Bounds

import popgrad as pg
from popgrad import search
from popgrad.backends import move
from search_cases import PROBLEMS, SEARCHES

METHODS = pytest.mark.parametrize("case", SEARCHES, ids=lambda case: case.id)
DEFAULTS = pytest.mark.parametrize("name", search.REGISTRY)
INF = np.inf


def box(bounds, x0):
    """The sides that a run keeps to, as lists."""
    run = search.RandomSearch().start(x0, 0, bounds)
    return None if run.box is None else (run.box.lower.tolist(), run.box.upper.tolist())


# --- Forms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "lower", "upper"),
    [
        ((-1, 2), [-1, -1, -1], [2, 2, 2]),
        ([-1, 2], [-1, -1, -1], [2, 2, 2]),
        (([-1, -2, -3], 5), [-1, -2, -3], [5, 5, 5]),
        ((-1, np.array([1, 2, 3], np.float32)), [-1, -1, -1], [1, 2, 3]),
        (([-1], (3,)), [-1, -1, -1], [3, 3, 3]),
        (np.array([-1, 2]), [-1, -1, -1], [2, 2, 2]),
        (np.array([[-1, -2, -3], [1, 2, 3]]), [-1, -2, -3], [1, 2, 3]),
        ((None, 2), [-INF, -INF, -INF], [2, 2, 2]),
        ((-1, None), [-1, -1, -1], [INF, INF, INF]),
        ((-INF, [INF, None, 3]), [-INF, -INF, -INF], [INF, INF, 3]),
        (([-1, None, 0], 0), [-1, -INF, 0], [0, 0, 0]),
        ([(-1, 2), (None, 3), (0, None)], [-1, -INF, 0], [2, 3, INF]),
        (((-1, 2), [0, 0], np.array([-5, INF])), [-1, 0, -5], [2, 0, INF]),
        (np.array([[-1, 2], [-3, 4], [-5, 6]]), [-1, -3, -5], [2, 4, 6]),
        (Bounds(-1, [1, 2, 3]), [-1, -1, -1], [1, 2, 3]),
        (Bounds(ub=[1, 2, INF]), [-INF, -INF, -INF], [1, 2, INF]),
    ],
)
def test_every_form_of_bounds_is_read(bounds, lower, upper):
    if isinstance(bounds, tuple) and any(isinstance(side, np.ndarray) and side.shape == (2,) for side in bounds):
        bounds = [*bounds[:2], bounds[2].tolist()]
    assert box(bounds, np.zeros(3)) == (lower, upper)


@pytest.mark.parametrize("bounds", [None, (None, None), (-INF, [INF, None, INF]), [(None, None)] * 3, Bounds()])
def test_no_bounds(bounds):
    assert box(bounds, np.zeros(3)) is None


@pytest.mark.parametrize(
    ("bounds", "x0", "lower", "upper"),
    [
        # Read as (lower, upper) they would fix both coordinates or leave x0 outside: pairs.
        ([(-5, 5), (-5, 5)], [0, 0], [-5, -5], [5, 5]),
        ([(-5, 5), (-5, 5)], [-5, 5], [-5, -5], [5, 5]),
        ([(0, 3), (2, 3)], [2.5, 2.5], [0, 2], [3, 3]),
        # Read as pairs they would fix both, or be in the wrong order: (lower, upper).
        (([-1, -1], [1, 1]), [0, 0], [-1, -1], [1, 1]),
        (([-1, -1], [1, 1]), [-1, 1], [-1, -1], [1, 1]),
        (([0, -7], [1, 7]), [0.5, 0.5], [0, -7], [1, 7]),
        # Both at once, and the same.
        (([0, 1], [1, 3]), [0.5, 2], [0, 1], [1, 3]),
        # Two arrays are always (lower, upper).
        ((np.array([-5.0, 5.0]), np.array([-3.0, 8.0])), [-4, 6], [-5, 5], [-3, 8]),
        (Bounds([-5, 5], [-3, 8]), [-4, 6], [-5, 5], [-3, 8]),
    ],
)
def test_two_coordinates(bounds, x0, lower, upper):
    assert box(bounds, np.array(x0, float)) == (lower, upper)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        (5, "bounds must be"),
        ("ab", "bounds must be"),
        ((1,), "bounds must be"),
        ((0, 1, 2), "bounds must be"),
        (([0, 0], 9), "bounds must be"),
        ((0, [[1], [1], [1]]), "bounds must be"),
        ((0, "1"), "bounds must be"),
        ((0, 1j), "bounds must be"),
        (([0, [1], 2], 3), "bounds must be"),
        ([(0, 1), (0, 1), (0, 1, 2)], "bounds must be"),
        ([(0, 1), (0, 1), 2], "bounds must be"),
        ((3, 1), r"must be below its upper bound, got \[3.0, 1.0\] at 0"),
        ([(-1, 1), (-1, 1), (1, -1)], r"got \[1.0, -1.0\] at 2"),
        ((np.nan, 1), "must be below its upper bound"),
        ((INF, None), "must be below its upper bound"),
        ((None, -INF), "must be below its upper bound"),
        ((-1, [1, -0.5, 1]), r"x0\[1\] = 0.0 is outside its bounds \[-1.0, -0.5\]"),
    ],
)
def test_bounds_that_cannot_be_meant_are_refused(bounds, message):
    with pytest.raises(pg.InputError, match=rf"\[RandomSearch.start\] .*{message}"):
        search.RandomSearch().start(np.zeros(3), 0, bounds)


def test_two_readings_that_both_make_sense_are_refused():
    for x0, bounds in (([-4.0, 6.0], [(-5, 5), (-3, 8)]), ([0.5, 2.5], [(0, 1), (2, 3)])):
        with pytest.raises(pg.InputError, match=r"can be read as .lower, upper. and as pairs.*scipy.optimize.Bounds"):
            search.PSO().start(x0, 0, bounds)


def test_float32_rounds_inward():
    run = search.PSO().start(np.zeros(2, np.float32), 0, (-0.1, [0.1, 0.5]))
    assert run.box.upper.astype(float).tolist() == [0.09999999403953552, 0.5]
    assert run.box.lower.astype(float).tolist() == [-0.09999999403953552] * 2
    widest = search.PSO().start(np.zeros(2, np.float32), 0, (-1.7e308, 1.7e308)).box
    assert widest.lower[0] == -np.finfo(np.float32).max
    # The bound itself is where many runs start.
    assert search.PSO().start(np.full(2, 0.1, np.float32), 0, (0, 0.1)).x0[0] < 0.1
    with pytest.raises(pg.InputError, match="no float32 number lies in"):
        search.PSO().start(np.full(2, 0.1, np.float32), 0, (0.1, 0.1))


# --- Within -------------------------------------------------------------------------------------------------------

FIFTH = float(np.float32(0.2))  # a number that both types hold
KINDS = {
    "both": (-0.1, 0.3),
    "lower": (-0.1, None),
    "upper": (None, 0.3),
    "mixed": [(-0.1, 0.3), (None, 0.3), (FIFTH, FIFTH), (None, None), (-0.1, None)],
}


@METHODS
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_is_ever_outside(case, kind, dtype):
    lower, upper = np.array(KINDS[kind], float).T if kind == "mixed" else np.array(KINDS[kind], float)
    run = case.search.start(np.full(5, FIFTH, dtype), 1, KINDS[kind])
    for generation in range(40):
        population = run.ask().astype(float)
        assert np.isfinite(population).all()
        assert not (population < lower).any()  # NaN stands for no bound
        assert not (population > upper).any()
        # The minimum is far outside, on changing sides.
        run.tell(((population - (5 if generation % 4 else -5)) ** 2).sum(1))
        assert not ((run.recommend() < lower) | (run.recommend() > upper)).any()


@METHODS
def test_without_a_finite_bound_it_is_as_without_bounds(case):
    runs = [case.search.start(np.ones(7), 3, bounds) for bounds in (None, (None, None), Bounds())]
    for _ in range(12):
        populations = [run.ask() for run in runs]
        np.testing.assert_array_equal(populations[1], populations[0])
        np.testing.assert_array_equal(populations[2], populations[0])
        for run in runs:
            run.tell((run.ask() ** 2).sum(1))


@METHODS
def test_a_coordinate_between_equal_bounds_stays(case):
    run = case.search.start([0.5, 2.0, 0.5], 1, ([0, 2, 0], [1, 2, 1]))
    for _ in range(20):
        assert (run.ask()[:, 1] == 2).all()
        run.tell((run.ask() ** 2).sum(1))
    assert not np.isin(run.ask()[:, 0], [0, 0.5, 1]).all()


@METHODS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_widest_bounds_do_not_overflow(case, dtype):
    most = float(np.finfo(dtype).max)
    run = case.search.start(np.zeros(8, dtype), 1, (-most, most))
    for _ in range(25):
        population = run.ask().astype(float)
        assert np.isfinite(population).all()
        assert (np.abs(population) == most).mean() < 0.01
        run.tell(np.abs(population / most).mean(1))
    for name, value in run.state_dict().items():
        assert not np.isnan(value).any(), name


def test_uniform_numbers_between_the_widest_bounds():
    most = np.finfo(float).max
    out = np.empty((64, 1000))
    move("Uniform", out, [np.full(1000, -most), np.full(1000, most)], seed=1, generation=0)
    unit = np.empty_like(out)
    move("Uniform", unit, [np.zeros(1000), np.ones(1000)], seed=1, generation=0)
    np.testing.assert_allclose(out / most, 2 * unit - 1, atol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_reflect(dtype):
    inf, nan, most = INF, np.nan, float(np.finfo(dtype).max)
    table = [  # x, lower, upper, where it goes
        (0.25, 0, 1, 0.25),
        (0, 0, 1, 0),
        (1, 0, 1, 1),
        (-0.25, 0, 1, 0.25),
        (1.25, 0, 1, 0.75),
        (2, 0, 1, 0),
        (-3, 0, inf, 3),
        (3, -inf, 0, -3),
        (-3, -inf, inf, -3),
        (7, 2, 2, 2),
        (nan, 2, 2, 2),
        (inf, -inf, inf, inf),
        (-most, -most / 2, most / 2, 0),
    ]
    x, lower, upper, expected = np.array(table, dtype).T.copy()
    out = x[None].copy()
    move("Reflect", out, [lower, upper], seed=1, generation=0)
    np.testing.assert_array_equal(out[0], expected)
    # Further out than the box is wide, or no number: uniform.
    far = np.resize(np.array([-1.5, 2.5, inf, -inf, nan, most, -most], dtype), (10, 700))
    move("Reflect", far, [np.zeros(700, dtype), np.ones(700, dtype)], seed=1, generation=0)
    assert ((far >= 0) & (far <= 1)).all()
    np.testing.assert_allclose(np.sort(far.ravel())[::700], np.linspace(0, 1, 11)[:-1], atol=0.03)


# --- Walls --------------------------------------------------------------------------------------------------------


@DEFAULTS
@pytest.mark.parametrize("condition", [1.0, 1e6])
def test_no_coordinate_is_lost_on_a_wall(name, condition):
    """A reduced bench/walls.py: the optimum is anywhere, and no run ends with a coordinate on a wall."""
    weights = condition ** np.linspace(0, 1, 10)
    for seed in range(8):
        random = np.random.default_rng(seed)
        optimum, x0 = random.uniform(size=(2, 10))
        result = pg.minimize(
            lambda x, at=optimum: ((x - at) ** 2 * weights).sum(1),
            x0,
            search=search.REGISTRY[name](),
            budget=pg.Budget(evaluations=2000),
            bounds=(0, 1),
            seed=seed,
        )
        assert result.x.min() > 0
        assert result.x.max() < 1


def test_pso_finds_an_optimum_beside_the_wall():
    for seed in range(5):
        result = pg.minimize(
            lambda x: ((x - 0.05) ** 2).sum(1),
            np.full(10, 0.5),
            search=search.PSO(),
            budget=pg.Budget(evaluations=20_000),
            bounds=(0, 1),
            seed=seed,
        )
        assert result.f < 1e-20


@pytest.mark.parametrize("name", ["pso", "de", "acor"])
@pytest.mark.parametrize("at", [0.0, -0.5])
def test_an_optimum_on_a_wall_is_found(name, at):
    result = pg.minimize(
        lambda x: ((x - at) ** 2).sum(1),
        np.full(5, 0.5),
        search=search.REGISTRY[name](),
        budget=pg.Budget(evaluations=20_000),
        bounds=(0, 1),
    )
    np.testing.assert_allclose(result.x, 0, atol=1e-8)


# --- Steps --------------------------------------------------------------------------------------------------------


@DEFAULTS
def test_none_is_worse_than_random_search(name):
    def values(kind, n, evaluations):
        for seed in range(5):
            x0 = np.random.default_rng(seed).uniform(-5, 5, n)
            budget = pg.Budget(evaluations=evaluations)
            sphere = PROBLEMS["sphere"].f
            yield pg.minimize(sphere, x0, search=search.REGISTRY[kind](), budget=budget, bounds=(-5, 5), seed=seed).f

    for n, evaluations in ((2, 2000), (10, 2000), (30, 2000)):
        found = np.median(list(values(name, n, evaluations)))
        assert found <= np.median(list(values("random_search", n, evaluations)))


@DEFAULTS
def test_default_steps_follow_the_box(name):
    """Stretched by powers of two, the same run in other units, bit by bit."""
    scale = 2.0 ** np.array([0, 10, -20, 3])
    x0, upper = np.array([0.5, 0.25, -0.5, 0.1]), np.array([1.0, 2.0, 1.0, 3.0])
    plain = search.REGISTRY[name]().start(x0, 1, (-1, upper))
    stretched = search.REGISTRY[name]().start(x0 * scale, 1, (-scale, upper * scale))
    for _ in range(20):
        np.testing.assert_array_equal(stretched.ask(), plain.ask() * scale)
        plain.tell(((plain.ask() - 0.3) ** 2).sum(1))
        stretched.tell(((stretched.ask() / scale - 0.3) ** 2).sum(1))


@METHODS
def test_lengths_that_are_given_are_in_units_of_x(case):
    lengths = [f.name for f in dataclasses.fields(case.search) if f.name in ("sigma", "radius")]
    for name in lengths:
        method = dataclasses.replace(case.search, **{name: 1e-3})
        run = method.start(np.zeros(3), 1, (-1000, 1000))
        run.tell(-np.arange(len(run.ask()), 0, -1.0))  # the first, x0 or beside it, is the best
        if not isinstance(method, (search.GeneticAlgorithm, search.RandomSearch)):  # they begin anywhere in the box
            assert np.abs(run.ask() - run.recommend()).max() < 0.01
        elif isinstance(method, search.GeneticAlgorithm):
            changed = run.ask() - run.state["population"][:, None]
            assert np.sort(np.abs(changed), axis=0)[0].max() < 0.01


@METHODS
def test_the_units_of_the_fitness_do_not_matter(case):
    runs = [dataclasses.replace(case.search).start(PROBLEMS["ellipsoid"].x0, 1) for _ in range(2)]
    for _ in range(40):
        np.testing.assert_array_equal(runs[1].ask(), runs[0].ask())
        for run, unit in zip(runs, (1.0, 2.0**-40), strict=True):
            run.tell(PROBLEMS["ellipsoid"].f(run.ask()) * unit)
