"""Single searches: the moves of differential evolution, particle swarms, tabu search and the others."""

from __future__ import annotations

import numpy as np
import pytest

import popgrad as pg
from popgrad import search
from popgrad.search.differential_evolution import distinct_others
from popgrad.search.evolution_strategy import centered_ranks
from searching import SPHERE, go


@pytest.mark.parametrize("popsize", [4, 5, 9, 64])
def test_de_donors_are_distinct_and_uniform(popsize):
    counts = np.zeros((popsize, popsize, 3))
    rounds = 3000
    for seed in range(rounds):
        donors = distinct_others(np.random.default_rng(seed), popsize, 3)
        everyone = np.concatenate([np.arange(popsize)[None], donors])
        assert (np.sort(everyone, axis=0)[1:] != np.sort(everyone, axis=0)[:-1]).all()
        for k in range(3):
            counts[np.arange(popsize), donors[k], k] += 1
    off = ~np.eye(popsize, dtype=bool)
    expected = rounds / (popsize - 1)
    deviation = np.abs(counts[off] - expected) / np.sqrt(expected)
    assert deviation.max() < 6


def test_de_trial_is_made_of_its_donors():
    method = search.DE(popsize=6, crossover=0.0)
    run = method.start(np.zeros(50), seed=1)
    run.ask()
    run.tell(np.zeros(6))
    x, trial = run.state["x"].copy(), run.ask()
    donors = distinct_others(run.random(), 6, 3)
    a, b, c = (x[d] for d in donors)
    mutant = a + method.factor * (b - c)
    # CR = 0: exactly one coordinate crosses.
    np.testing.assert_array_equal((trial != x).sum(axis=1), 1)
    np.testing.assert_allclose(trial[trial != x], mutant[trial != x], rtol=1e-14)


def test_pso_formula():
    method = search.PSO(popsize=5)
    run = method.start(np.zeros(2000), seed=1)
    for _ in range(3):
        run.tell(SPHERE.f(run.ask()))
    s = {name: value.copy() for name, value in run.state.items()}
    x = run.ask()
    leader = s["best"][s["best_fitness"].argmin()]
    step = x - s["x"] - method.inertia * s["v"]
    own, social = s["best"] - s["x"], leader - s["x"]
    # The random factors are in [0, 1): the step lies within the box that the two pulls span.
    low = np.minimum(0, method.cognitive * own) + np.minimum(0, method.social * social)
    high = np.maximum(0, method.cognitive * own) + np.maximum(0, method.social * social)
    assert ((step >= low - 1e-12) & (step <= high + 1e-12)).all()
    mean = 0.5 * (method.cognitive * own + method.social * social)
    assert abs((step - mean).mean()) < 5 * step.std() / np.sqrt(step.size)


@pytest.mark.parametrize("bounds", [None, (-0.2, 0.3)], ids=["free", "bounded"])
def test_pso_velocity_after_a_generation(bounds):
    run = search.PSO(popsize=12, init_sigma=0.2).start(np.zeros(40), 1, bounds)
    random = np.random.default_rng(0)
    reflections = 0
    for generation in range(8):
        before = {name: value.copy() for name, value in run.state.items()}
        place, moved = np.empty((2, 12, 40))
        leader = before["best"][before["best_fitness"].argmin()]
        factors = {"inertia": 0.7298, "cognitive": 1.49618, "social": 1.49618}
        run.move("ParticleSwarm", [place, moved], [before["x"], before["v"], before["best"], leader], **factors)
        population = run.ask()
        failed = np.arange(12) % 4 == generation % 3
        run.tell(np.where(failed, np.nan, random.random(12)))

        velocity = population - before["x"]
        if bounds is not None:
            outside = (place < bounds[0]) | (place > bounds[1])
            velocity = np.where(outside, -moved / 2, velocity)
            reflections += outside.sum()
        velocity[~np.isfinite(before["best_fitness"])] = 0
        velocity[failed] = -before["v"][failed] / 2
        np.testing.assert_array_equal(run.state["v"], velocity)
        np.testing.assert_array_equal(run.state["x"], np.where(failed[:, None], before["x"], population))
    assert (reflections > 0) == (bounds is not None)


def test_genetic_children_take_genes_from_two_parents():
    method = search.GeneticAlgorithm(popsize=8, mutation=1e-12, crossover=1.0, elites=0)
    run = method.start(np.zeros(400), seed=1)
    run.ask()
    run.tell(np.arange(8.0))
    parents = run.state["population"]
    for child in run.ask():
        origin = np.array([(child == parent).mean() for parent in parents])
        first, second = np.sort(origin)[-2:][::-1]
        assert first == 1 or (abs(first - 0.5) < 0.15 and abs(first + second - 1) < 1e-12)


def test_genetic_elites_survive():
    method = search.GeneticAlgorithm(popsize=8, elites=2)
    run = method.start(np.ones(3), seed=1)
    values = []
    for _ in range(20):
        run.tell(SPHERE.f(run.ask()))
        values.append(run.state["fitness"].min())
        np.testing.assert_array_equal(SPHERE.f(run.state["population"]), run.state["fitness"])
    assert (np.diff(values) <= 0).all()


def test_acor_samples_around_its_archive():
    method = search.ACOR(popsize=4000, archive=6, q=1e-4, xi=0.85)
    run = method.start(np.zeros(3), seed=1)
    run.tell(SPHERE.f(run.ask()))
    archive = run.state["archive"]
    assert (np.diff(run.state["fitness"]) >= 0).all()
    ants = run.ask()
    # With so small a q every ant follows the best; eq. 7 gives the width.
    width = 0.85 * np.abs(archive - archive[0]).sum(axis=0) / 5
    np.testing.assert_allclose(ants.mean(axis=0), archive[0], atol=5 * width.max() / np.sqrt(4000))
    np.testing.assert_allclose(ants.std(axis=0), width, rtol=0.06)


def test_annealing_accepts_worse_steps_as_metropolis_says():
    method = search.SimulatedAnnealing(popsize=20_000, temperature=0.5, cooling=0.9)
    run = method.start(np.zeros(1), seed=1)
    run.ask()
    run.tell(np.zeros(20_000))
    run.ask()
    run.tell(np.full(20_000, 0.3))
    share = (run.state["fitness"] == 0.3).mean()
    assert share == pytest.approx(np.exp(-0.3 / (0.5 * 0.9)), abs=0.015)


@pytest.mark.parametrize("bounds", [None, (-1e3, 1e3)])
def test_annealing_takes_its_temperature_from_the_first_changes(bounds):
    """A quarter of the mean change: a step that is worse by so much is taken with probability exp(-4)."""
    method = search.SimulatedAnnealing(popsize=20_000, cooling=1 - 1e-9)
    run = method.start(np.zeros(1), 1, bounds)
    run.ask()
    run.tell(np.zeros(20_000))
    run.ask()
    run.tell(np.tile([1e7, 7e7], 10_000))  # T0 is 1e7
    for value, probability in ((1e7, np.exp(-1)), (7e7, np.exp(-7))):
        share = (run.state["fitness"] == value).mean() * 2
        assert share == pytest.approx(probability, abs=0.02)
    run.ask()
    run.tell(np.full(20_000, 1e30))  # the first 100 steps are over
    assert run.state["steps"] == 20_000


@pytest.mark.parametrize(
    ("x0", "radius"),
    [
        (np.array([1e6, 1, 1, 1], np.float32), 0.1),
        (np.full(4, 1e-18), 1e-18),
        (np.full(4, 1e-18, np.float32), 1e-18),
        (np.full(4, 1e18), 1e17),
    ],
)
def test_tabu_goes_on_while_a_coordinate_can_move(x0, radius):
    run, scale = search.TabuSearch(radius=radius).start(x0, seed=1), x0.astype(float)
    while run.stop() is None and run.evaluations < 20_000:
        run.tell(((run.ask() / scale - 0.5) ** 2)[:, 1:].sum(1))
    assert run.best_f < 1e-6


def test_tabu_ends_where_no_coordinate_can_move():
    for radius, moves in ((0.1, True), (0.03, False)):  # float32 numbers near 10^6 are 0.0625 apart
        run = search.TabuSearch(radius=radius).start(np.full(3, 1e6, np.float32))
        run.ask()
        run.tell([1.0])
        assert (run.ask() != 1e6).any() == moves
        assert (run.stop() is None) == moves


def test_tabu_stops_when_its_radius_is_rounding():
    for dtype in ("float32", "float64"):
        run = search.TabuSearch(patience=1).start(np.zeros(3, dtype))
        while run.stop() is None:
            run.tell(np.full(len(run.ask()), float(run.generation)))
        assert run.state["radius"] < 0.1 * np.finfo(dtype).eps < 4 * run.state["radius"]


def test_tabu_neighbors_lie_in_their_crowns():
    method = search.TabuSearch(popsize=8, radius=0.8)
    for n in (1, 3, 100):
        run = method.start(np.ones(n), seed=1)
        run.tell(SPHERE.f(run.ask()))
        distance = np.abs(run.ask() - run.state["x"]).max(axis=1)
        outer = 0.8 * 0.5 ** np.arange(8)[::-1]
        assert ((distance > outer / 2 * (1 - 1e-12)) & (distance <= outer * (1 + 1e-12))).all()


def test_tabu_does_not_return_to_a_place_it_left():
    # Worse everywhere: the best neighbor is the one nearest to the start, which is tabu once left.
    method = search.TabuSearch(popsize=4, radius=1.0, tabu_radius=0.9, patience=1000)
    run = method.start(np.zeros(2), seed=1)
    run.tell(SPHERE.f(run.ask()))
    for _ in range(20):
        left = run.state["x"].copy()
        run.tell(SPHERE.f(run.ask()))
        now = run.state["x"]
        if run.generation > 2 and not np.array_equal(now, left):
            held = run.state["tabu"][1:]
            held = held[np.isfinite(held).all(axis=1)]
            assert (np.abs(held - now).max(axis=1) >= 0.9 * run.state["radius"]).all()


def test_es_takes_optimizers_alone():
    with pytest.raises(pg.InputError, match=r"\[OpenAIES\] optimizer must be one of popgrad.optim, got 'adam'"):
        search.OpenAIES(optimizer="adam")


TWO_ESTIMATES = {
    "SAM": pg.optim.SAM(pg.optim.SGD()),
    "Lookahead of SAM": pg.optim.Lookahead(pg.optim.SAM(pg.optim.SGD())),
    "SophiaG": pg.optim.SophiaG(),
    "Polyak of SophiaG": pg.optim.Polyak(pg.optim.SophiaG()),
}

two_estimates = pytest.mark.parametrize("optimizer", TWO_ESTIMATES.values(), ids=TWO_ESTIMATES)


@two_estimates
def test_es_needs_an_objective_for_a_second_estimate(optimizer):
    with pytest.raises(pg.InputError, match=r"\[OpenAIES.start\] .* more than one estimate .* use popgrad.fit or"):
        search.OpenAIES(optimizer=optimizer).start(np.ones(3))


@pytest.mark.parametrize("name", ["SAM", "Lookahead of SAM"])
def test_es_asks_a_function_for_a_second_estimate(name):
    method, budget = search.OpenAIES(popsize=20, optimizer=TWO_ESTIMATES[name]), pg.Budget(evaluations=2000)
    result = pg.minimize(SPHERE.f, SPHERE.x0, search=method, budget=budget, seed=1)
    assert result.f < SPHERE.f(SPHERE.x0[None])[0] / 2
    assert result.generations == 49  # of 40 evaluations each; x0, the center and the best candidate take some


def test_a_function_has_no_targets_to_draw():
    with pytest.raises(pg.InputError, match=r"\[minimize\] a function of candidates has no sampled"):
        pg.minimize(
            SPHERE.f,
            SPHERE.x0,
            search=search.OpenAIES(optimizer=pg.optim.SophiaG()),
            budget=pg.Budget(evaluations=1000),
        )


AVERAGES = {
    "Polyak": pg.optim.Polyak(pg.optim.SGD(0.1)),
    "Lookahead of Polyak": pg.optim.Lookahead(pg.optim.Polyak(pg.optim.SGD(0.1))),
    "ScheduleFreeSGD": pg.optim.ScheduleFreeSGD(0.2),
    "ema": pg.optim.Adam(0.05, ema_decay=0.9),
}


@pytest.mark.parametrize("optimizer", AVERAGES.values(), ids=AVERAGES)
def test_es_recommends_the_solution_of_its_optimizer(optimizer):
    run = search.OpenAIES(popsize=20, optimizer=optimizer).start(np.full(4, 1.0), seed=1)
    for _ in range(32):
        run.tell(SPHERE.f(run.ask()))
    expected = optimizer.solution(run.state["center"], run.state["optimizer"])
    np.testing.assert_array_equal(run.recommend(), expected)
    assert not np.array_equal(run.recommend(), run.state["center"])


def test_es_steps_layers_as_layers():
    """A network is not one matrix: LAMB's steps in every layer have the length of its weights."""
    random, model = np.random.default_rng(0), pg.MLP([3, 8, 2])
    objective = model.objective(random.normal(size=(50, 3)), random.integers(0, 2, 50))
    method = search.OpenAIES(popsize=40, optimizer=pg.optim.LAMB(0.1))
    model.params = model.params + np.float32(0.1)  # biases of zero would have no length
    run = method.prepare(objective, model.params, seed=3)
    method.advance(objective, pg.Batch(step=1), run)
    for tensor in model.layout:
        before, after = tensor.of(model.params), tensor.of(run.recommend())
        assert np.linalg.norm(after - before) == pytest.approx(0.1 * np.linalg.norm(before), rel=1e-4)


@pytest.mark.parametrize("name", sorted(pg.optim.REGISTRY.keys() - {"sophia"}))
@pytest.mark.parametrize("wrapped", [False, True])
def test_es_takes_every_other_optimizer(name, wrapped):
    optimizer = pg.optim.REGISTRY[name]()
    optimizer = pg.optim.Lookahead(optimizer) if wrapped else optimizer
    run = go(search.OpenAIES(optimizer=optimizer), 12)
    assert np.isfinite(run.recommend()).all()
    assert not np.array_equal(run.recommend(), SPHERE.x0)


def test_es_pairs_are_antithetic_and_the_estimate_descends():
    method = search.OpenAIES(popsize=64, sigma=0.1)
    run = method.start(np.full(30, 2.0), seed=1)
    population = run.ask()
    np.testing.assert_allclose(population[:32] + population[32:], 4.0, atol=1e-12)
    assert (population - 2).std() == pytest.approx(0.1, rel=0.05)
    before = SPHERE.f(run.recommend()[None])[0]
    for _ in range(50):
        run.tell(SPHERE.f(run.ask()))
    assert SPHERE.f(run.recommend()[None])[0] < 0.5 * before


def test_es_estimate_is_the_gradient_of_a_linear_function():
    slope = np.array([1.0, -2.0, 0.5])
    method = search.OpenAIES(popsize=100_000, sigma=0.1, optimizer=pg.optim.SGD(1.0))
    run = method.start(np.zeros(3), seed=1)
    run.tell(run.ask() @ slope)
    step = -run.state["center"]
    np.testing.assert_allclose(step / np.linalg.norm(step), slope / np.linalg.norm(slope), atol=0.02)


def test_centered_ranks():
    np.testing.assert_allclose(centered_ranks(np.array([3.0, 1.0, 2.0])), [0.5, -0.5, 0.0])
    np.testing.assert_allclose(centered_ranks(np.array([1.0, 1.0, 2.0])), [-0.25, -0.25, 0.5])
    np.testing.assert_array_equal(centered_ranks(np.array([7.0])), [0.0])
