"""Minimizes a function of a population."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popgrad import arrays
from popgrad.budget import Budget
from popgrad.checks import fail
from popgrad.layout import Layout
from popgrad.objective import ALL, Batch, Metered, Objective, Population
from popgrad.search._base import Bounds, Fitness, Run, Search, checked_fitness

__all__ = ["Result", "minimize"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Result:
    """The result of `minimize`.

    Attributes:
        x: the solution, (n,).
        f: value of the solution.
        evaluations, generations: candidates and populations evaluated.
        nonfinite: values that were NaN or infinite.
        history: evaluations and best value after each generation, (generations, 2).
        reason: why the run ended.
    """

    x: Array
    f: float
    evaluations: int
    generations: int
    nonfinite: int
    history: NDArray[np.float64]
    reason: str


def minimize(
    f: Callable[[Array], ArrayLike],
    x0: ArrayLike,
    *,
    search: Search,
    budget: Budget,
    bounds: Bounds | None = None,
    seed: int = 0,
) -> Result:
    """Minimize f, a function of whole populations, in float64.

    The solution is the best candidate. A search that moves a center, such as `OpenAIES`, returns the center, unless the
    best candidate or x0 is better. To decide, `minimize` evaluates f at the center and again at the best candidate. The
    difference between the two values at the best candidate estimates the noise of f. The best candidate replaces the
    center only if it is better by more than this noise. If x0 is not in the first population, f is evaluated at x0
    first, so that the result is never worse than x0. The budget includes these evaluations, three at most. They are
    omitted if the budget covers only one population.

    Args:
        f: function from candidates (P, n) to values (P,); smaller is better. NaN and infinity mark a candidate as
            unusable.
        x0: starting point, (n,).
        search: one of `popgrad.search`.
        budget: limit of evaluations or seconds.
        bounds: see `Search.start`.
        seed: the same seed gives the same result.

    Raises:
        InputError: an argument is invalid, or f returns another shape or no finite value.
    """
    if not callable(f):
        fail("minimize", f"f must be a function of a (P, n) array, got {type(f).__name__}")
    if not isinstance(search, Search):
        fail("minimize", f"search must be one of popgrad.search, got {search!r}")
    if not isinstance(budget, Budget) or budget.forwards is not None:
        fail("minimize", f"budget must be a Budget of evaluations or seconds, got {budget!r}")
    start = arrays.read(f"{type(search).__name__}.start", "x0", x0)
    run = Run(search, start.astype(np.float64) if start.dtype.kind in "fiu" else start, seed, bounds)
    objective = Metered(_Function(f, run.layout, f"{type(search).__name__}.tell"))
    search.check("minimize", objective)
    begin, first = time.perf_counter(), search.cost(objective, Batch(), run).evaluations
    if not budget.allows(0, first, 0):
        fail("minimize", f"the budget does not cover one population of {first}: {budget}")
    at_start = np.inf
    if not _contains(run.ask(), run.x0) and budget.allows(0, 1 + first + _FINAL, 0):
        at_start = float(objective.values(run.x0[None])[0])
    records: list[tuple[int, float]] = []
    reason = "the budget is used up"
    while not records or _allows(budget, objective, run, time.perf_counter() - begin):
        search.advance(objective, Batch(step=run.generation + 1), run)
        records.append((objective.evaluations, min(run.best_f, at_start)))
        if stopped := run.stop():
            reason = stopped
            break
    affordable = budget.allows(0, objective.evaluations + _FINAL, 0)
    x, value = _solution(run, objective if affordable else None, at_start)
    nonfinite, history = objective.nonfinite, np.array(records, np.float64)
    return Result(x, value, objective.evaluations, run.generation, nonfinite, history, reason)


_FINAL = 2  # evaluations at the end: the center, and the best candidate again


class _Function(Objective):
    """A function of populations with checked values."""

    dtype = np.dtype(np.float64)

    def __init__(self, f: Callable[[Array], ArrayLike], layout: Layout, operation: str) -> None:
        self.f, self.layout, self.operation = f, layout, operation

    def lacks(self, operation: str) -> str | None:
        """See `Objective.lacks`."""
        return f"a function of candidates has no {operation}; use popgrad.fit with a model"

    def values(self, population: Population, batch: Batch = ALL) -> Fitness:
        """See `Objective.values`."""
        candidates: Array = population[:]
        candidates.setflags(write=False)  # f must not modify the memory of the search
        return checked_fitness(self.operation, self.f(candidates), len(candidates))


def _contains(population: Array, x: Array) -> bool:
    return bool((population[:] == x).all(axis=1).any())


def _allows(budget: Budget, objective: Metered, run: Run, seconds: float) -> bool:
    """Whether the budget covers another generation and the final evaluations."""
    final = 0 if np.array_equal(run.recommend(), run.best_x) else _FINAL
    following = run.search.cost(objective, Batch(), run).evaluations
    return budget.allows(0, objective.evaluations + following + final, seconds)


def _solution(run: Run, objective: Metered | None, at_start: float) -> tuple[Array, float]:
    """Return the solution and its value; without an objective, choose among known values."""
    best, center = np.array(run.best_x), run.recommend()
    start = np.array(run.x0), at_start
    if objective is None or np.array_equal(center, best):
        return min((best, run.best_f), start, key=_value)
    at_center, again = (float(value) for value in objective.values(np.stack([center, best])))
    if not np.isfinite([at_center, again]).all():  # f is not deterministic: use the finite values
        return min((center, at_center), (best, run.best_f), start, key=_value)
    other = min((best, again), start, key=_value)
    return other if other[1] + abs(again - run.best_f) < at_center else (center, at_center)


def _value(pair: tuple[Array, float]) -> float:
    return pair[1]
