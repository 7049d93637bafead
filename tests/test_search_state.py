"""What a run of a search remembers: through files, out of reach from outside, without what is not finite."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

import popgrad as pg
from popgrad import checkpoint, search
from search_cases import PROBLEMS, SEARCHES, assert_same_run

METHODS = pytest.mark.parametrize("case", SEARCHES, ids=lambda case: case.id)
SPHERE = PROBLEMS["sphere"]


def go(run, generations):
    for _ in range(generations):
        run.tell(SPHERE.f(run.ask()))
    return run


# --- Through files ------------------------------------------------------------------------------------------------


def through_npz(state, path):
    np.savez(path / "run.npz", **state)
    with np.load(path / "run.npz") as file:
        return dict(file)


def through_json(state, path):
    listed = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in state.items()}
    (path / "run.json").write_text(json.dumps(listed))
    return json.loads((path / "run.json").read_text())


def through_safetensors(state, path):
    arrays = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
    checkpoint.save(path / "run", arrays, {name: value for name, value in state.items() if name not in arrays})
    arrays, numbers = checkpoint.load(path / "run")
    return arrays | numbers


def through_tensors_alone(state, path):
    return checkpoint.load(checkpoint.save(path / "run", state))[0]


def in_fortran_order(state, path):
    return {name: np.asfortranarray(value) if np.ndim(value) else value for name, value in state.items()}


THROUGH = [through_npz, through_json, through_safetensors, through_tensors_alone, in_fortran_order]


@METHODS
@pytest.mark.parametrize("through", THROUGH, ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_resumed_through_a_file_equals_uninterrupted(case, through, dtype, tmp_path):
    begin = SPHERE.x0.astype(dtype) * np.dtype(dtype).type(0.7), 2**64 - 1, SPHERE.bounds
    whole = go(case.search.start(*begin), 19)
    second = case.search.start(*begin)
    second.load_state_dict(through(go(case.search.start(*begin), 12).state_dict(), tmp_path))
    assert_same_run(go(second, 7), whole)


def test_schedules_do_not_make_another_search_of_it():
    """The digest of the settings must be the same in another process, where functions have other addresses."""
    program = (
        "import popgrad as pg; from popgrad import search;"
        "s = search.OpenAIES(optimizer=pg.optim.Adam(learning_rate=lambda t: 0.1 / t));"
        "print(s.start([1.0, 2.0]).state_dict()['digest.settings'])"
    )
    digests = {subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout for _ in "ab"}
    assert len(digests) == 1


def test_equal_settings_of_other_types_are_the_same_search():
    state = search.PSO(popsize=np.int64(8), inertia=np.float64(0.5)).start(np.ones(2)).state_dict()
    run = search.PSO(popsize=8, inertia=0.5).start(np.ones(2))
    run.load_state_dict(state)
    assert run.state_dict()["digest.settings"] == state["digest.settings"]


# --- Refused ------------------------------------------------------------------------------------------------------


@METHODS
def test_another_run_is_refused(case):
    x0, bounds = SPHERE.x0, SPHERE.bounds
    state = go(case.search.start(x0, 1, bounds), 3).state_dict()
    others = {
        "another seed": case.search.start(x0, 2, bounds),
        "other settings": dataclasses.replace(case.search, popsize=case.search.popsize + 2).start(x0, 1, bounds),
        "another x0": case.search.start(x0 * 0.5, 1, bounds),
        "other bounds": case.search.start(x0, 1, (-2.0, [3.0, 3.0, 3.0, 3.5])),
        "saved with other bounds": case.search.start(x0, 1),
        "must be float32, got float64": case.search.start(x0.astype(np.float32), 1, bounds),
        r"must have shape \(.*3,?\), got": case.search.start(x0[:3], 1, bounds),
    }
    for message, run in others.items():
        before = run.state_dict()
        with pytest.raises(
            pg.InputError, match=rf"\[{case.id}.load_state_dict\] .* does not fit this run: .*{message}"
        ):
            run.load_state_dict(state)
        np.testing.assert_equal(run.state_dict(), before)


def test_another_search_is_refused():
    state = search.RandomSearch().start(np.ones(2)).state_dict()
    with pytest.raises(pg.InputError, match=r"'state\.fitness' does not fit this run: it is missing"):
        search.DE().start(np.ones(2)).load_state_dict(state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"best_f": "1.0"}, "'best_f' .* must be a number, got '1.0'"),
        ({"best_f": None}, "'best_f' .* must be a number"),
        ({"best_f": np.ones(1)}, "'best_f' .* must be a number"),
        ({"generation": 1.5}, "'generation' .* must be a whole number, got 1.5"),
        ({"generation": True}, "'generation' .* must be a number"),
        ({"best_x": 0.0}, r"'best_x' .* must have shape \(2,\), got \(\)"),
        ({"best_x": [[1.0], 2.0]}, r"'best_x' .* must be an array of shape \(2,\)"),
        ({"best_x": ["a", "b"]}, "'best_x' .* must be float32"),
        ({"best_x": np.zeros(2, np.int64)}, "'best_x' .* must be float32, got int64"),
        ({"best_x": [0.1, 0.5]}, "'best_x' .* float32 does not hold its numbers"),
        ({"more": 1}, "'more' .* it is not a part of it"),
        ({"state.more": np.ones(2)}, "'state.more' .* it is not a part of it"),
        ({"state.v": np.full((8, 2), 1j)}, "'state.v' .* must be float32, got complex128"),
    ],
)
def test_values_of_another_kind_are_refused(change, message):
    run = search.PSO(popsize=8).start(np.ones(2, np.float32))
    before = run.state_dict()
    with pytest.raises(pg.InputError, match=rf"\[PSO.load_state_dict\] {message}"):
        run.load_state_dict(before | change)
    np.testing.assert_equal(run.state_dict(), before)
    run.load_state_dict(before)


# --- Seen and held ------------------------------------------------------------------------------------------------


@METHODS
def test_what_was_handed_out_does_not_change_and_changes_nothing(case):
    run, other = (go(case.search.start(SPHERE.x0, 1), 4) for _ in range(2))
    population, best, center = run.ask(), run.best_x, run.recommend()
    kept = population.copy(), best.copy(), center.copy()
    for array in (population, best):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 99
    held = run.state_dict()
    go(run, 6)
    for array, value in zip((population, best, center), kept, strict=True):
        np.testing.assert_array_equal(array, value)
    run.recommend()[:] = 99
    center[:] = 99
    for value in held.values():
        if isinstance(value, np.ndarray):
            value[...] = 99
    assert_same_run(run, go(other, 6))


@METHODS
def test_a_loaded_state_is_a_copy(case):
    state = go(case.search.start(SPHERE.x0), 4).state_dict()
    run = case.search.start(SPHERE.x0)
    run.load_state_dict(state)
    kept = run.state_dict()
    for value in state.values():
        if isinstance(value, np.ndarray):
            value[...] = 99
    np.testing.assert_equal(run.state_dict(), kept)
    with pytest.raises(ValueError, match="read-only"):
        run.best_x[0] = 1


# --- Not finite ---------------------------------------------------------------------------------------------------


def told_with_garbage(run, fitness, garbage):
    """Tell `fitness` to a run that loses the coordinates of every member whose fitness is not finite."""
    spoilt = run.ask().copy()
    spoilt[~np.isfinite(fitness)] = garbage
    run._asked = spoilt
    run.tell(fitness)
    known = run.state.get("fitness", run.state.get("best_fitness"))
    for value in run.state.values():
        if np.ndim(value) == 2 and known is not None and len(value) == len(known):
            value[~np.isfinite(known)] = garbage


@METHODS
@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
@pytest.mark.parametrize("bounds", [None, (-1.5, 2.0)], ids=["free", "bounded"])
def test_members_that_are_not_finite_have_no_influence(case, share, bounds):
    """Whatever their coordinates, everything that follows is the same."""
    runs = [case.search.start(SPHERE.x0, 1, bounds) for _ in range(2)]
    for generation in range(30):
        random = np.random.default_rng(generation)
        population = runs[0].ask()
        np.testing.assert_array_equal(runs[1].ask(), population)
        bad = random.random(len(population)) < share
        if generation == 0:
            bad[0] = False
        fitness = np.where(bad, random.choice([np.nan, np.inf, -np.inf], len(population)), SPHERE.f(population))
        runs[0].tell(fitness)
        told_with_garbage(runs[1], fitness, [np.nan, 1e30, -1e30][generation % 3])
        np.testing.assert_array_equal(runs[1].best_x, runs[0].best_x)
        np.testing.assert_array_equal(runs[1].recommend(), runs[0].recommend())
    assert runs[0].nonfinite > 0
    assert np.isfinite(runs[0].best_f)


@METHODS
@pytest.mark.parametrize("bounds", [None, (-1.5, 2.0)], ids=["free", "bounded"])
def test_a_search_recovers_from_a_start_that_is_hardly_finite(case, bounds):
    """Only the first candidates near x0 are finite: the others are not copied, and the search still moves on."""
    run = case.search.start(SPHERE.x0, 1, bounds)
    for _ in range(200):
        population = run.ask()
        usable = (np.abs(population - 1) < 0.3).all(axis=1)
        if not usable.any() and run.generation == 0:
            pytest.skip("no candidate of the first generation is near x0")
        run.tell(np.where(usable, SPHERE.f(population), np.nan))
    assert run.best_f < SPHERE.f(SPHERE.x0[None])[0]


def test_a_generation_without_a_finite_child_changes_nothing():
    run = go(search.GeneticAlgorithm(elites=0).start(SPHERE.x0), 3)
    before = run.state["population"].copy()
    run.tell(np.full(len(run.ask()), np.nan))
    np.testing.assert_array_equal(run.state["population"], before)
    go(run, 2)
