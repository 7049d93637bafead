"""Minimise any function of a population."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popgrad.budget import Budget
from popgrad.checks import fail
from popgrad.search._base import Bounds, Search

__all__ = ["Result", "minimize"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Result:
    """What `minimize` found.

    Attributes:
        x: (n,) the best candidate. f: its value.
        evaluations, generations: candidates and populations evaluated.
        nonfinite: values that were NaN or infinite.
        history: (generations, 2), evaluations so far and the best value so far.
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
    """Minimise f, a function of whole populations, in float64.

    Args:
        f: takes (P, n) candidates, returns (P,) values; smaller is better. NaN and infinity mark a candidate
            as unusable.
        x0: (n,) where to begin.
        search: one of `popgrad.search`.
        budget: in evaluations or seconds.
        bounds: (lower, upper), each a number or (n,).
        seed: same seed, same result.

    Raises:
        InputError: an argument does not fit, or f returns another shape, or nothing finite.
    """
    if not callable(f):
        fail("minimize", f"f must be a function of a (P, n) array, got {type(f).__name__}")
    if not isinstance(search, Search):
        fail("minimize", f"search must be one of popgrad.search, got {search!r}")
    if not isinstance(budget, Budget) or budget.forwards is not None:
        fail("minimize", f"budget must be a Budget of evaluations or seconds, got {budget!r}")
    run = search.start(np.array(x0, np.float64) if np.asarray(x0).dtype.kind in "fiu" else x0, seed, bounds)
    begin, records = time.perf_counter(), []
    reason = "the budget is used up"
    while True:
        population = run.ask()
        if not budget.allows(0, run.evaluations + len(population), time.perf_counter() - begin):
            break
        population.setflags(write=False)  # the search's own memory: f must not write to it
        run.tell(f(population))
        records.append((run.evaluations, run.best_f))
        if stopped := run.stop():
            reason = stopped
            break
    if not records:
        fail("minimize", f"the budget does not cover one population of {len(population)}: {budget}")
    history = np.array(records, np.float64)
    return Result(run.best_x, run.best_f, run.evaluations, run.generation, run.nonfinite, history, reason)
