"""Races: successive halving of a population."""

from __future__ import annotations

import numpy as np
import pytest

import popgrad as pg
from fitness import problem, wrong
from popgrad.racing import schedule


def spread(members, samples=640):
    """Candidates at all distances from a network that knows the labels: (model, population, X, y)."""
    model, _, X, _, _ = problem(members=1, samples=samples, dtype="float32", sizes=(4, 8))
    rng = np.random.default_rng(5)
    distance = rng.permutation(members) / members
    noise = rng.normal(size=(members, model.params.size)) * distance[:, None]
    return model, (model.params + noise).astype(np.float32), X, model.predict(X)


@pytest.mark.parametrize("metric", ["loss", "error_rate", "auc", wrong])
def test_a_race_finds_the_best_for_a_part_of_the_work(metric):
    model, population, X, y = spread(64)
    kept = population.copy()
    result = pg.race(model, population, X, y, metric)
    np.testing.assert_array_equal(population, kept)
    whole = model.evaluate(population, X, y, metric)
    assert len(result.survivors) == 1
    assert (whole < whole[result.survivors[0]]).sum() <= 2
    assert result.forwards == sum(size * -(-640 // size * 2) for size in (64, 32, 16, 8, 4, 2))
    assert result.forwards < 0.2 * 64 * 640
    sizes, counts = np.unique(result.samples, return_counts=True)
    np.testing.assert_array_equal(sizes, [20, 40, 80, 160, 320, 640])
    np.testing.assert_array_equal(counts, [32, 16, 8, 4, 2, 2])
    final = result.samples == 640
    np.testing.assert_allclose(result.fitness[final], whole[final], rtol=1e-5, atol=1e-6)  # summed in another order
    assert result.fitness[final].min() == result.fitness[result.survivors[0]]
    again = pg.race(model, population, X, y, metric, seed=0)
    np.testing.assert_array_equal(again.fitness, result.fitness)
    assert (pg.race(model, population, X, y, metric, seed=1).fitness != result.fitness).any()


def test_rounds_and_survivors_of_a_race():
    model, population, X, y = spread(60)
    whole = model.evaluate(population, X, y)
    one = pg.race(model, population, X, y, rounds=1, survivors=60)
    assert one.forwards == 60 * 640
    np.testing.assert_allclose(one.fitness, whole, rtol=1e-5)
    np.testing.assert_array_equal(whole[one.survivors], np.sort(whole))
    three = pg.race(model, population, X, y, keep=1 / 3, rounds=3, survivors=4)
    assert three.forwards == 60 * 72 + 20 * 214 + 7 * 640
    np.testing.assert_array_equal(whole[three.survivors], np.sort(whole[three.samples == 640])[:4])
    assert pg.race(model, population, X, y, survivors=30).forwards == 60 * 640
    assert pg.race(model, population[:1], X, y).survivors == [0]
    assert pg.race(model, population[:3], X[:2], y[:2], keep=0.999).forwards == 3 * 2 + 2 * 2


def test_estimates_of_a_race_are_made_consistent():
    race = pg.Race(np.array([0.1, 0.3, 0.5, 0.2, np.inf, 0.35]), np.array([10, 40, 40, 20, 10, 20]), np.array([1]), 0)
    values = race.consistent()
    np.testing.assert_allclose(values, [0.5, 0.3, 0.5, 0.5, np.inf, 0.5], rtol=1e-15)
    assert values[1] < values[2] < values[3] == values[5] < values[0]
    np.testing.assert_array_equal(race.fitness[0], 0.1)


def test_broken_candidates_lose_a_race_and_weights_are_those_of_the_samples():
    model, population, X, y = spread(16)
    best = pg.race(model, population, X, y).survivors[0]
    broken = population.copy()
    broken[np.arange(16) != best] = np.nan
    result = pg.race(model, broken, X, y)
    assert result.survivors == [best]
    assert np.isfinite(result.fitness).sum() == 1
    weight = np.where(np.arange(640) < 200, 2.0, 0.0)
    weighed = pg.race(model, population, X, y, sample_weight=weight, rounds=1)
    assert weighed.forwards == 16 * 200
    np.testing.assert_allclose(weighed.fitness, model.evaluate(population, X[:200], y[:200]), rtol=1e-5)


@pytest.mark.parametrize("name", pg.search.REGISTRY)
@pytest.mark.parametrize("batch_size", ["auto", 100])
def test_a_search_that_races_is_charged_what_it_used(name, batch_size):
    model, _, X, y = spread(2)
    model.initialize(9)
    start = model.loss(X, y)
    options = {"batch_size": batch_size, "racing": pg.Racing(0.5), "record_every": 1}
    history = pg.fit(model, X, y, optimizer=pg.search.REGISTRY[name](), budget=pg.Budget(forwards=1.5e5), **options)
    assert model.loss(X, y) == history.loss[history.best] < start
    members, samples = history.evaluations[1], 640 if batch_size == "auto" else 100
    used = sum(size * count for size, count in schedule(members, samples, 0.5))
    assert history.forwards[1] == used
    assert members < 8 or used < 0.6 * members * samples
